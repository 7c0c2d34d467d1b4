"""The probe on a tiny Stable Diffusion: literal sensitivities, ranks that share the rows, and nothing left behind."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from controlmill.config.model import ModelOptions
from controlmill.testing.tiny_sd import write_tiny_sd
from training.base_model import BaseModel, Residuals
from training.batch import Batch
from training.controlnet import ControlNets, create
from training.gain import measure
from training.probe import Probe
from training.probe_rows import ProbeRows, derangement

NUM_ROWS, SIZE = 5, 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.load(str(write_tiny_sd(tmp_path_factory.mktemp("base"))))


@pytest.fixture(scope="module")
def controlnets(base: BaseModel) -> ControlNets:
    """One whose zero convolutions are not zero any more."""
    made = create(base, ModelOptions(pretrained_model_name_or_path=str(base.folder), hint_init="kaiming"), seed=0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.zero_convolutions().values():
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.05)
    return made.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    draw = torch.Generator().manual_seed(2)
    return Batch(
        keys=tuple(f"row{number}" for number in range(NUM_ROWS)),
        epochs=(0,) * NUM_ROWS,
        maps=((torch.rand(NUM_ROWS, 3, SIZE, SIZE, generator=draw) > 0.9).float(),),
        prompts=("red disc",) * NUM_ROWS,
        pixels_BCHW=torch.rand(NUM_ROWS, 3, SIZE, SIZE, generator=draw) * 2 - 1,
    )


def probe_of(
    batch: Batch, base: BaseModel, *, rank: int = 0, world_size: int = 1, chunk_size: int = 4,
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda values: values,
) -> Probe:  # fmt: skip
    rows = ProbeRows.prepare(batch, base, rank=rank, world_size=world_size, chunk_size=chunk_size)
    return Probe(
        rows, base, fractions=(0.3, 0.65), seed=7, autocast=nullcontext, sum_over_ranks=sum_over_ranks
    )  # fmt: skip


@pytest.mark.parametrize("num_rows", [2, 3, 32])
def test_every_row_gets_the_hint_of_another_one_anew_each_time(num_rows: int) -> None:
    for update in range(20):
        others = derangement(num_rows, 0, update)
        assert sorted(others.tolist()) == list(range(num_rows))
        assert not (others == torch.arange(num_rows)).any()
        assert torch.equal(others, derangement(num_rows, 0, update))
    if num_rows == 32:
        assert not torch.equal(derangement(32, 0, 1), derangement(32, 0, 2))
        assert not torch.equal(derangement(32, 0, 1), derangement(32, 1, 1))


def test_before_the_first_update_all_three_losses_are_equal(base: BaseModel, batch: Batch) -> None:
    fresh = create(base, ModelOptions(pretrained_model_name_or_path=str(base.folder)), seed=0).eval()
    found = probe_of(batch, base).evaluate(fresh, 0)
    assert found.timesteps == (300, 650)
    assert found.right_NT.shape == (NUM_ROWS, 2)
    assert torch.equal(found.right_NT, found.wrong_NT)
    assert torch.equal(found.right_NT, found.none_NT)
    assert found.sensitivity == 0.0
    assert set(found.residual_norms.values()) == {0.0}
    gain = measure(found.evaluation(0, 0, 0.0))
    assert gain is not None
    assert (gain.gain, gain.p_value) == (0.0, 0.5)


def test_sensitivity_is_the_relative_distance_of_the_residuals(base: BaseModel, batch: Batch) -> None:
    """Residuals that are the mean of the hint: S and the norms can be worked out by hand."""
    means = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    hints = means.view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE)
    known = Batch(batch.keys, batch.epochs, (hints,), batch.prompts, batch.pixels_BCHW)

    def control(noisy: Tensor, timesteps: Tensor, prompts: object, given: tuple[Tensor, ...], ids: object) -> Residuals:
        assert noisy.shape[2:] == (SIZE // 8, SIZE // 8)
        assert ids is None
        assert prompts is not None
        assert len(timesteps) == len(noisy)
        channels = base.unet.config.block_out_channels[-1]
        return Residuals((), given[0].mean((1, 2, 3)).view(-1, 1, 1, 1).expand(-1, channels, 1, 1))

    found = probe_of(known, base).evaluate(control, 3)
    changed = (means - means[derangement(NUM_ROWS, 7, 3)]).square().sum()
    assert found.sensitivity == pytest.approx(float((changed / means.square().sum()).sqrt()))
    assert found.residual_norms == {"middle": pytest.approx(11**0.5)}


def test_ranks_share_the_rows(base: BaseModel, batch: Batch, controlnets: ControlNets) -> None:
    """Three ranks for five rows: the last has one of its own and repeats one, so that all call the engine alike."""
    alone = probe_of(batch, base).evaluate(controlnets, 10)
    calls: list[int] = []
    parts: list[list[Tensor]] = []

    def counted(*inputs: object) -> Residuals:
        calls[-1] += 1
        found: Residuals = controlnets(*inputs)
        return found

    for rank in (1, 2):
        calls.append(0)
        part: list[Tensor] = []

        def keep(values: Tensor, part: list[Tensor] = part) -> Tensor:
            part.append(values.clone())
            return values

        probe_of(batch, base, rank=rank, world_size=3, chunk_size=1, sum_over_ranks=keep).evaluate(counted, 10)
        parts.append(part)
    calls.append(0)
    others = zip(*parts, strict=True)
    first = probe_of(
        batch, base, rank=0, world_size=3, chunk_size=1, sum_over_ranks=lambda values: values + sum(next(others))
    )
    together = first.evaluate(counted, 10)
    assert len(set(calls)) == 1
    for name in ("right_NT", "wrong_NT", "none_NT"):
        torch.testing.assert_close(getattr(together, name), getattr(alone, name), rtol=1e-5, atol=0)
    assert together.sensitivity == pytest.approx(alone.sensitivity, rel=1e-5)
    assert together.residual_norms == pytest.approx(alone.residual_norms, rel=1e-5)
    assert alone.sensitivity > 0


def test_an_evaluation_repeats_itself_and_leaves_nothing_behind(
    base: BaseModel, batch: Batch, controlnets: ControlNets
) -> None:
    state = torch.get_rng_state()
    probe = probe_of(batch, base)
    first = probe.evaluate(controlnets, 10)
    again = probe.evaluate(controlnets, 10)
    other = probe.evaluate(controlnets, 20)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in controlnets.parameters())
    assert torch.equal(first.right_NT, again.right_NT)
    assert torch.equal(first.wrong_NT, again.wrong_NT)
    assert torch.equal(first.right_NT, other.right_NT)
    assert not torch.equal(first.wrong_NT, other.wrong_NT)
    resumed = probe_of(batch, base).evaluate(controlnets, 10)
    assert torch.equal(resumed.right_NT, first.right_NT)
    assert torch.equal(resumed.none_NT, first.none_NT)


def test_the_middle_alone(base: BaseModel, batch: Batch, controlnets: ControlNets) -> None:
    whole = probe_of(batch, base).evaluate(controlnets, 10)
    middle = probe_of(batch, base).evaluate(controlnets, 10, connect_decoder=False)
    assert middle.residual_norms["down.0"] == 0.0
    assert middle.residual_norms["middle"] == pytest.approx(whole.residual_norms["middle"])
    assert not torch.equal(middle.right_NT, whole.right_NT)


def test_losses_without_control_are_measured_again_where_the_base_changes(
    base: BaseModel, batch: Batch, controlnets: ControlNets
) -> None:
    probe = probe_of(batch, base)
    before = probe.evaluate(controlnets, 10).none_NT
    weight = base.unet.conv_out.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.mul_(2)
        assert torch.equal(probe.evaluate(controlnets, 20).none_NT, before)
        assert not torch.equal(probe.evaluate(controlnets, 20, base_changes=True).none_NT, before)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_losses_that_are_not_finite_are_written_as_null(
    base: BaseModel, batch: Batch, controlnets: ControlNets
) -> None:
    def control(*inputs: object) -> Residuals:
        found: Residuals = controlnets(*inputs)
        return found._replace(middle=found.middle * float("nan"))

    line = probe_of(batch, base).evaluate(control, 10).to_json()
    assert line["loss_right"] == line["loss_wrong"] == [[None, None]] * NUM_ROWS
    assert line["residual_sensitivity"] is None
    assert all(loss is not None for row in line["loss_none"] for loss in row)
