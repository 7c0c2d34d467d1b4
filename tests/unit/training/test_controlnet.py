"""The architecture, as the official code has it: what is copied, what is zero, and when gradients arrive where."""

import functools
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from torch.nn import functional

from controlmill.config.model import ModelOptions
from controlmill.testing.tiny_sd import Kind
from training.base_model import BaseModel, Residuals
from training.batch import PromptEmbeddings
from training.controlnet import ControlNets, create

Tiny = Callable[..., Path]
ORDER = ("connections", "copy", "hint_output", "hint_inner")


def options_for(folder: Path, **changes: object) -> ModelOptions:
    return ModelOptions.model_validate({"pretrained_model_name_or_path": str(folder), **changes})


@functools.cache
def loaded(folder: Path) -> BaseModel:
    """A base, loaded once: no test of this file changes one."""
    return BaseModel.load(str(folder), parts=["unet"])


class Setting:
    """A base, ControlNets on it, and one batch."""

    def __init__(self, folder: Path, num_conditions: int = 1, **changes: object) -> None:
        self.base = loaded(folder)
        self.nets = create(self.base, options_for(folder, **changes), seed=0, num_conditions=num_conditions)
        generator = torch.Generator().manual_seed(3)
        self.noisy = torch.randn(2, 4, 8, 8, generator=generator)
        self.noise = torch.randn(2, 4, 8, 8, generator=generator)
        self.timesteps = torch.tensor([100, 800])
        self.hints = [torch.rand(2, 3, 64, 64, generator=generator) for _ in range(num_conditions)]
        is_xl = self.base.kind == "sdxl"
        self.prompts = PromptEmbeddings(
            torch.randn(2, 77, self.base.unet.config.cross_attention_dim, generator=generator),
            torch.randn(2, 32, generator=generator) if is_xl else None,
        )
        self.time_ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2) if is_xl else None

    def residuals(self, hints: list[torch.Tensor] | None = None) -> Residuals:
        given = self.hints if hints is None else hints
        result: Residuals = self.nets(self.noisy, self.timesteps, self.prompts, given, self.time_ids)
        return result

    def predict(self, residuals: Residuals | None) -> torch.Tensor:
        return self.base.predict(self.noisy, self.timesteps, self.prompts, residuals, self.time_ids)

    def backward(self) -> None:
        loss = functional.mse_loss(self.predict(self.residuals()), self.noise)
        loss.backward()  # type: ignore[no-untyped-call]

    def arrived(self) -> list[str]:
        """Groups of parameters of which at least one, of each network, has a gradient that is not zero."""
        groups = self.nets.groups()
        return [
            name
            for name in ORDER
            if any(value.grad is not None and bool(value.grad.any()) for value in groups[name].values())  # type: ignore[index]
        ]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("sd1", {}),
        ("sd2", {}),
        ("sdxl", {}),
        ("sd1", {"hint_network": "v1"}),
        ("sd1", {"hint_init": "kaiming"}),
        ("sd1", {"only_mid_control": True}),
    ],
)
def test_at_step_0_the_base_predicts_what_it_did(kind: Kind, changes: dict[str, object], tiny_sd: Tiny) -> None:
    setting = Setting(tiny_sd(kind), **changes)
    residuals = setting.residuals()
    assert len(residuals.down) == (0 if changes.get("only_mid_control") else 9 if kind == "sdxl" else 12)
    assert torch.equal(setting.predict(residuals), setting.predict(None))


def test_the_encoder_is_copied_and_the_rest_is_new(tiny_sd: Tiny) -> None:
    setting = Setting(tiny_sd("sd1"))
    unet = setting.base.unet.state_dict()
    for name, value in setting.nets.groups()["copy"].items():
        assert torch.equal(value, unet[name.removeprefix("nets.0.")])
        assert value.data_ptr() != unet[name.removeprefix("nets.0.")].data_ptr()
    zero = setting.nets.zero_convolutions()
    # 12 skip connections, the middle, and the last convolution of the hint: 14, each with weight and bias
    assert len(zero) == 28
    assert not any(value.any() for value in zero.values())
    hint = setting.nets.hint_networks()[0]
    layers = [layer for layer in hint.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.out_channels for layer in layers] == [16, 16, 32, 32, 96, 96, 256, 16]
    assert all(layer.kernel_size == (3, 3) for layer in layers)
    assert sum(layer.stride == (2, 2) for layer in layers) == 3


def test_gradients_arrive_in_their_order_and_nowhere_earlier(tiny_sd: Tiny) -> None:
    setting = Setting(tiny_sd("sd1"))
    optimizer = torch.optim.AdamW(setting.nets.parameters(), lr=1e-3, weight_decay=0.0)
    seen = []
    for _ in range(3):
        setting.backward()
        seen.append(setting.arrived())
        optimizer.step()
        optimizer.zero_grad()
    assert seen == [["connections"], ["connections", "copy", "hint_output"], list(ORDER)]
    assert not any(parameter.grad is not None for parameter in setting.base.unet.parameters())


def test_every_zero_convolution_gets_a_gradient_at_update_1(tiny_sd: Tiny) -> None:
    setting = Setting(tiny_sd("sdxl"))
    setting.backward()
    for name, value in setting.nets.groups()["connections"].items():
        assert value.grad is not None
        assert value.grad.any(), name


def test_gaussian_connections_act_from_the_start(tiny_sd: Tiny) -> None:
    setting = Setting(tiny_sd("sd1"), connection_init="gaussian")
    assert not torch.equal(setting.predict(setting.residuals()), setting.predict(None))
    for name, value in setting.nets.zero_convolutions().items():
        if name.endswith("weight"):
            spread = float(value.std().detach()) * value[0].numel() ** 0.5
            assert spread == pytest.approx(1, abs=0.25), name
    setting.backward()
    assert setting.arrived() == list(ORDER)


def test_only_the_middle_is_connected_until_the_decoder_is(tiny_sd: Tiny) -> None:
    setting = Setting(tiny_sd("sd1"), only_mid_control=True)
    setting.backward()
    reached = [name for name, value in setting.nets.named_parameters() if value.grad is not None and value.grad.any()]
    assert reached == ["nets.0.controlnet_mid_block.weight", "nets.0.controlnet_mid_block.bias"]
    setting.nets.connect_decoder = True
    setting.backward()
    assert sum("controlnet_down_blocks" in name and value.grad is not None and bool(value.grad.any())
               for name, value in setting.nets.named_parameters()) == 24  # fmt: skip


def test_the_same_seed_makes_the_same_weights_and_leaves_the_global_state(tiny_sd: Tiny) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = Setting(tiny_sd("sd1")).nets.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    second = Setting(tiny_sd("sd1")).nets.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_copies_start_in_full_precision_whatever_the_base_is_kept_in(tiny_sd: Tiny) -> None:
    folder = tiny_sd("sd1")
    half = create(BaseModel.load(str(folder), parts=["unet"], dtype=torch.bfloat16), options_for(folder), 0)
    full = create(loaded(folder), options_for(folder), 0)
    assert all(torch.equal(one, two) for one, two in zip(half.parameters(), full.parameters(), strict=True))


def test_several_conditions_sum_or_share_one_network(tiny_sd: Tiny) -> None:
    summed = Setting(tiny_sd("sd1"), num_conditions=2, connection_init="gaussian")
    assert (len(summed.nets.nets), summed.nets.num_conditions) == (2, 2)
    one, two = summed.nets.each(summed.noisy, summed.timesteps, summed.prompts, summed.hints)
    torch.testing.assert_close(summed.residuals().middle, one.middle + two.middle)
    assert not torch.equal(one.middle, two.middle)

    stacked = Setting(tiny_sd("sd1"), num_conditions=2, connection_init="gaussian", several_conditions="stack")
    assert (len(stacked.nets.nets), stacked.nets.num_conditions) == (1, 2)
    given = stacked.residuals()
    changed = stacked.residuals([stacked.hints[0], 1 - stacked.hints[1]])
    assert not torch.equal(given.middle, changed.middle)


@pytest.mark.parametrize(("kind", "num_conditions"), [("sd1", 1), ("sd2", 1), ("sdxl", 1), ("sd1", 2)])
def test_saved_networks_load_here_and_in_diffusers(
    kind: Kind, num_conditions: int, tiny_sd: Tiny, tmp_path: Path
) -> None:
    setting = Setting(tiny_sd(kind), num_conditions, connection_init="gaussian")
    setting.nets.save(tmp_path / "controlnet")
    again = ControlNets.load(tmp_path / "controlnet")
    assert len(again.nets) == num_conditions
    for name, value in setting.nets.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    if num_conditions == 2:
        theirs = diffusers.MultiControlNetModel.from_pretrained(
            str(tmp_path / "controlnet"), low_cpu_mem_usage=False
        ).nets
    else:
        theirs = [diffusers.ControlNetModel.from_pretrained(tmp_path / "controlnet", low_cpu_mem_usage=False)]
    for ours, other in zip(setting.nets.nets, theirs, strict=True):
        assert all(torch.equal(other.state_dict()[name], value) for name, value in ours.state_dict().items())


def test_tensors_from_elsewhere_are_saved_instead(tiny_sd: Tiny, tmp_path: Path) -> None:
    setting = Setting(tiny_sd("sd1"))
    averaged = {name: value + 1 for name, value in setting.nets.state_dict().items()}
    setting.nets.save(tmp_path / "controlnet", averaged)
    assert all(torch.equal(v, averaged[n]) for n, v in ControlNets.load(tmp_path / "controlnet").state_dict().items())


def test_the_network_of_the_text_is_saved_and_loaded(tiny_sd: Tiny, tmp_path: Path) -> None:
    setting = Setting(tiny_sd("sd1"), hint_network="v1", connection_init="gaussian")
    setting.nets.save(tmp_path / "controlnet")
    setting.nets = ControlNets.load(tmp_path / "controlnet")
    layers = [layer for layer in setting.nets.hint_networks()[0].modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in layers[:4]] == [
        (16, 4, 2), (32, 4, 2), (64, 4, 2), (128, 4, 2)
    ]  # fmt: skip
    assert setting.residuals().middle.shape == (2, 32, 1, 1)


def test_checkpointing_computes_the_same_gradients(tiny_sd: Tiny) -> None:
    plain, saving = (Setting(tiny_sd("sd1"), connection_init="gaussian") for _ in range(2))
    saving.nets.enable_gradient_checkpointing()
    plain.backward()
    saving.backward()
    for one, two in zip(plain.nets.parameters(), saving.nets.parameters(), strict=True):
        assert one.grad is not None
        assert two.grad is not None
        torch.testing.assert_close(one.grad, two.grad)


def test_scales_are_one_for_all_or_one_each() -> None:
    residuals = Residuals((torch.ones(1), torch.ones(1)), torch.ones(1))
    assert [float(value) for value in residuals.scaled([0.5]).down] == [0.5, 0.5]
    scaled = residuals.scaled([1, 2, 3])
    assert [float(value) for value in (*scaled.down, scaled.middle)] == [1, 2, 3]
    with pytest.raises(ValueError, match="2 scales for 3 residuals"):
        residuals.scaled([1, 2])
