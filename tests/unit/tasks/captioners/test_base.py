"""What every captioner of this process does around the network: order, failures as values, halves of batches."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch

from controlmill.config import CaptionOptions
from controlmill.errors import DeviceLostError
from controlmill.reasons import Reason, RowFailure
from tasks.captioners.base import CaptionModel, LocalCaptioner
from tasks.images.types import Pixels

MODEL = CaptionModel("small", "/nowhere", "0123456789abcdef")


class Reader(LocalCaptioner):
    """Reads the first pixel aloud; 255 spoils a batch, and more than `room` images are too much memory."""

    name: ClassVar[str] = "reader"
    version: ClassVar[str] = "1"
    room = 100
    too_much: Exception = MemoryError("too many")

    def setup(self, device: str = "cpu") -> None:
        del device
        self.sizes: list[int] = []

    def caption(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str]:
        self.sizes.append(len(images))
        if len(images) > self.room:
            raise self.too_much
        if any(image[0, 0, 0] == 255 for image in images):
            raise ValueError("a bad\n image")
        return [f"{key}: {image[0, 0, 0]}" for image, key in zip(images, keys, strict=True)]


class Forgetful(Reader):
    def caption(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str]:
        return super().caption(images, keys)[1:]


def reader(kind: type[Reader] = Reader, **options: object) -> Reader:
    made = kind(CaptionOptions.model_validate({"captioner": "blip", "model": "small", **options}), MODEL)
    made.setup()
    return made


def pictures(*values: int) -> tuple[list[Pixels], list[str]]:
    return [np.full((2, 3, 3), value, np.uint8) for value in values], [str(index) for index in range(len(values))]


def test_captions_come_in_the_order_of_the_images() -> None:
    assert reader()(*pictures(7, 8, 9)) == ["0: 7", "1: 8", "2: 9"]


def test_no_images_are_no_captions() -> None:
    assert reader()([], []) == []


def test_one_bad_image_is_one_failure() -> None:
    unit = reader()
    bad = RowFailure(Reason.CAPTIONER_ERROR, "ValueError: a bad image")
    assert unit(*pictures(1, 2, 255, 4)) == ["0: 1", "1: 2", bad, "3: 4"]
    assert unit.sizes == [4, 2, 2, 1, 1]


TOO_MUCH = [MemoryError("too many"), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")]


@pytest.mark.parametrize("too_much", TOO_MUCH)
def test_a_batch_that_does_not_fit_is_halved(too_much: Exception) -> None:
    unit = reader()
    unit.room, unit.too_much = 2, too_much
    assert unit(*pictures(1, 2, 3, 4)) == ["0: 1", "1: 2", "2: 3", "3: 4"]
    assert unit.sizes == [4, 2, 2]


@pytest.mark.parametrize("too_much", TOO_MUCH)
def test_one_image_that_does_not_fit_is_the_trouble_of_the_machine(too_much: Exception) -> None:
    unit = reader()
    unit.room, unit.too_much = 0, too_much
    with pytest.raises(MemoryError, match=r"^reader: one image of 3x2 alone does not fit into memory: .*"):
        unit(*pictures(1, 2))


def test_a_gpu_that_is_lost_is_no_failure_of_a_row() -> None:
    unit = reader()
    unit.room, unit.too_much = 0, torch.AcceleratorError("CUDA error: an illegal memory access")
    with pytest.raises(DeviceLostError, match=r"^reader: AcceleratorError: CUDA error: an illegal"):
        unit(*pictures(1, 2))
    assert unit.sizes == [2]


@pytest.mark.parametrize(
    "image", [np.zeros((2, 3), np.uint8), np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 3), np.float32)]
)
def test_what_is_no_rgb_image_is_a_failure(image: np.ndarray) -> None:
    good, _ = pictures(5)
    refused, read = reader()([image, *good], ["a", "b"])
    assert isinstance(refused, RowFailure)
    assert refused.reason is Reason.CAPTIONER_ERROR
    assert read == "b: 5"


def test_captions_that_are_too_few_are_given_to_nobody() -> None:
    made = reader(Forgetful)(*pictures(1, 2))
    assert [one.message for one in made if isinstance(one, RowFailure)] == ["reader: 1 captions of 2 images"] * 2


def test_the_recipe_names_what_decides_and_nothing_else() -> None:
    beams = reader().recipe()
    assert beams["num_beams"] == 3
    assert beams["weights"] == {"reference": "small", "sha256": MODEL.sha256}
    assert reader(batch_size=2, seed=9, top_p=0.5).recipe() == beams
    assert reader(prompt="").recipe() != beams
    drawn = reader(do_sample=True, seed=9).recipe()
    assert drawn["seed"] == 9
    assert reader(do_sample=True, seed=9, num_beams=5).recipe() == drawn


def test_the_label_is_the_name_and_the_beginning_of_the_hash() -> None:
    assert MODEL.label == "small@sha256:0123456789ab"
