"""Generated images read back on a tiny Stable Diffusion: ranks that share the rows, and nothing left behind."""

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from controlmill.config.model import ModelOptions
from controlmill.errors import ReadBackError
from controlmill.testing.tiny_sd import write_tiny_sd
from storage.stored_image import Pixels
from training.base_model import BaseModel
from training.batch import Batch
from training.controllability import SCORES
from training.controllability_cost import cost_in_updates, default_num_rows
from training.controllability_grid import grid
from training.controllability_result import Baseline, Controllability, Reading
from training.controllability_run import Measured, Rows, Share, compared, measure, measure_baseline, undisturbed
from training.controlnet import ControlNets, create
from training.reader.assemble import Picture
from training.sample import Sampling

if TYPE_CHECKING:
    from training.base_files import Part

NUM_ROWS, SIZE = 5, 64
SAMPLING = Sampling(num_steps=2, guidance_scale=2.0, seed=3)


class Bright:
    """Reads back what is brighter than the mean of its image."""

    score = "canny"

    def check(self) -> None:
        return

    def __call__(self, images: Sequence[Pixels], keys: Sequence[str], device: str) -> list[Any]:
        assert len(images) == len(keys)
        assert device == "cpu"
        return [np.uint8(255) * (image.mean(axis=-1) > image.mean()) for image in images]


class Broken(Bright):
    def __call__(self, images: Sequence[Pixels], keys: Sequence[str], device: str) -> list[Any]:
        del images, keys, device
        raise RuntimeError("no such operator")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModel:
    return BaseModel.load(str(write_tiny_sd(tmp_path_factory.mktemp("base"), unet_widths=(16, 16, 16, 16))))


@pytest.fixture(scope="module")
def controlnets(base: BaseModel) -> ControlNets:
    made = create(
        base,
        ModelOptions(pretrained_model_name_or_path=str(base.folder), connection_init="gaussian", hint_init="kaiming"),
        seed=0,
    )
    return made.eval()


@pytest.fixture(scope="module")
def rows() -> Rows:
    draw = torch.Generator().manual_seed(2)
    batch = Batch(
        keys=tuple(f"row{number}" for number in range(NUM_ROWS)),
        epochs=(0,) * NUM_ROWS,
        maps=((torch.rand(NUM_ROWS, 3, SIZE, SIZE, generator=draw) > 0.9).float(),),
        prompts=("red disc",) * NUM_ROWS,
    )
    images = torch.randint(0, 256, (NUM_ROWS, SIZE, SIZE, 3), generator=draw).byte().numpy()
    (maps,) = ([Bright()([image], ["x"], "cpu")[0] for image in images],)
    return Rows(
        batch,
        [Picture(*pair) for pair in zip(images, [(one,) for one in maps], strict=True)],
        ("edges",),
        (1, 2, 3, 4, 0),
    )


def test_chunks_are_alike_on_all_ranks() -> None:
    shares = [Share(rank, 2, 2) for rank in (0, 1)]
    assert [share.chunks(5) for share in shares] == [[[0, 2], [4, 1]], [[1, 3], [0, 2]]]
    assert [share.own(5) for share in shares] == [[0, 2, 4], [1, 3]]
    assert Share(chunk_size=4).chunks(5) == [[0, 1, 2, 3], [4, 0, 1, 2]]
    assert Share(chunk_size=4).chunks(3) == [[0, 1, 2]]


def test_real_images_reach_the_ceiling(base: BaseModel, controlnets: ControlNets, rows: Rows) -> None:
    baseline = measure_baseline(base, rows, {"edges": Bright()}, SAMPLING, Share())
    assert baseline.real == {"edges": 1.0}
    now = measure(base, controlnets, rows, {"edges": Bright()}, SAMPLING, Share())
    assert now.readings["edges"] != baseline.off["edges"]
    (found,) = compared(now, baseline, {"edges": Bright()})
    assert found.measure == "edges_f1"
    assert Baseline.from_json(baseline.to_json()) == baseline
    # the first hint, image and generated image, each below the other, four pixels apart
    picture = grid(rows, now)
    assert picture.shape == (3 * (SIZE + 4) + 4, NUM_ROWS * (SIZE + 4) + 4, 3)
    assert np.array_equal(picture[4 + SIZE + 4 : 4 + 2 * SIZE + 4, 4 : 4 + SIZE], rows.pictures[0].pixels)
    assert np.array_equal(picture[4 + 2 * (SIZE + 4) : 4 + 2 * (SIZE + 4) + SIZE, 4 : 4 + SIZE], now.shown[0])


def test_ranks_together_measure_what_one_does(base: BaseModel, controlnets: ControlNets, rows: Rows) -> None:
    def summed_by(rank: int, world_size: int) -> tuple[Measured, list[Tensor]]:
        given: list[Tensor] = []

        def keep(values: Tensor) -> Tensor:
            given.append(values.clone())
            return values

        share = Share(rank, world_size, chunk_size=2, sum_over_ranks=keep)
        return measure(base, controlnets, rows, {"edges": Bright()}, SAMPLING, share), given

    alone, whole = summed_by(0, 1)
    parts = [summed_by(rank, 2)[1] for rank in (0, 1)]
    for together, *shares in zip(whole, *parts, strict=True):
        assert torch.equal(together, sum(shares[1:], start=shares[0]))
    assert min(alone.readings["edges"].own) > 0


def test_parts_that_training_does_without_are_borrowed(base: BaseModel, controlnets: ControlNets, rows: Rows) -> None:
    only_unet: list[Part] = ["unet"]
    lean = BaseModel.load(str(base.folder), parts=only_unet)
    ours, theirs = (measure(one, controlnets, rows, {"edges": Bright()}, SAMPLING, Share()) for one in (base, lean))
    assert ours.readings == theirs.readings
    assert lean.vae is None
    assert lean.text is None


def test_trouble_of_an_annotator_is_one_error(base: BaseModel, rows: Rows) -> None:
    with pytest.raises(ReadBackError, match="could not be read back: RuntimeError: no such operator"):
        measure(base, None, rows, {"edges": Broken()}, SAMPLING, Share())


def test_nothing_is_disturbed() -> None:
    torch.manual_seed(5)
    np.random.seed(4)  # noqa: NPY002
    before = torch.get_rng_state(), random.getstate(), cv2.getNumThreads()
    deterministic = torch.backends.cudnn.deterministic
    with undisturbed(torch.device("cpu")):
        torch.rand(3)
        random.random()
        np.random.rand(3)  # noqa: NPY002
        cv2.setNumThreads(1)
        torch.backends.cudnn.deterministic = not deterministic
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.rand() == np.random.RandomState(4).rand()  # noqa: NPY002
    assert cv2.getNumThreads() == before[2]
    assert torch.backends.cudnn.deterministic is deterministic


def found(name: str, now: Reading, off: Reading, real: float) -> Controllability:
    return Controllability("layer", SCORES[name], now, off, real)


def test_a_measurement_in_numbers() -> None:
    off = Reading((0.1, 0.2, 0.1, 0.2), (0.1, 0.2, 0.2, 0.1))
    one = found("canny", Reading((0.5, 0.7, 0.6, 0.6), (0.1, 0.2, 0.1, 0.1)), off, real=0.95)
    line = one.to_json()
    assert line["measure"] == "layer_f1"
    assert line["higher_is_better"]
    assert line["mean_own"] == pytest.approx(0.6)
    assert (line["off"], line["lift"]) == (pytest.approx(0.15), pytest.approx(0.45 / 0.8))
    # the preferences grew by .4, .5, .6, .4: a mean of .475 at a standard error of .048
    assert one.confirmed is True
    assert found("canny", off, off, 0.95).confirmed is None
    assert found("canny", Reading(off.own, (0.1, 0.2, 0.2, 0.2)), off, 0.95).confirmed is False


def test_where_less_is_better() -> None:
    off = Reading((80.0, 90.0, 85.0), (80.0, 88.0, 86.0))
    one = found("midas", Reading((20.0, 25.0, 22.0), (70.0, 80.0, 75.0)), off, real=5.0)
    assert not one.to_json()["higher_is_better"]
    assert one.confirmed is True
    assert one.lift == pytest.approx((67 / 3 - 85) / (5 - 85))


def test_what_it_costs() -> None:
    # 8 steps of two branches, and the decoder
    each = cost_in_updates(32, Sampling(8, 2.0), rows_per_update=16)
    assert each == pytest.approx(2 * (16 * 1086 / 2265 + 2480 / 2265))
    assert cost_in_updates(32, Sampling(8, 1.0), 16) == pytest.approx(2 * (8 * 1086 / 2265 + 2480 / 2265))
    assert default_num_rows(32, Sampling(8, 2.0), 16, num_updates=10_000) == 32
    assert default_num_rows(32, Sampling(8, 2.0), 16, num_updates=1000) == int(0.03 * 1000 / (4 * each / 32))
    assert default_num_rows(32, Sampling(8, 2.0), 16, num_updates=80) == 8
    assert default_num_rows(5, Sampling(8, 2.0), 16, num_updates=80) == 5
