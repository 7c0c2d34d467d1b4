from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch

from controlmill.config.base import Options
from controlmill.errors import DeviceLostError
from controlmill.reasons import Reason, RowFailure
from tasks.annotators.base import Annotation, Annotator
from tasks.images.types import Pixels


class Brightness(Annotator):
    """The mean of the channels; it cannot bear a picture whose first pixel is 13."""

    name = "brightness"
    version = "1"
    options_model = Options
    batch_size = 4
    flags = ("dark",)

    def __init__(self) -> None:
        super().__init__(Options())
        self.sizes_of_batches: list[int] = []

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        self.sizes_of_batches.append(len(images))
        assert len({image.shape for image in images}) == 1
        assert len(images) == len(keys)
        if any(image[0, 0, 0] == 13 for image in images):
            raise ZeroDivisionError("thirteen")
        return [Annotation(image.mean(axis=2).astype(np.uint8), {"dark": bool(image.mean() < 50)}) for image in images]


def _image(value: int, height: int = 4, width: int = 6) -> Pixels:
    return np.full((height, width, 3), value, np.uint8)


def test_images_come_in_batches_of_one_size_and_go_in_their_order() -> None:
    annotator = Brightness()
    values = list(range(100, 110))
    images = [_image(value, width=6 + value % 2) for value in values]
    made = annotator(images, [str(value) for value in values])
    assert [int(one.map[0, 0]) for one in made if isinstance(one, Annotation)] == values
    assert [one.map.shape for one in made if isinstance(one, Annotation)] == [image.shape[:2] for image in images]
    assert annotator.sizes_of_batches == [4, 1, 4, 1]


def test_the_image_that_spoils_a_batch_is_found() -> None:
    made = Brightness()([_image(value) for value in (100, 13, 101, 102)], list("abcd"))
    assert [type(one) for one in made] == [Annotation, RowFailure, Annotation, Annotation]
    assert made[1] == RowFailure(Reason.ANNOTATOR_ERROR, "ZeroDivisionError: thirteen")


def test_running_out_of_memory_is_no_failure_of_a_row() -> None:
    class Hungry(Brightness):
        def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
            raise MemoryError((images, keys))

    with pytest.raises(MemoryError, match="^brightness: one image of 6x4 alone does not fit into memory"):
        Hungry()([_image(1)], ["a"])


def test_a_batch_that_the_memory_does_not_hold_is_halved() -> None:
    class Hungry(Brightness):
        def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
            made = super().annotate(images, keys)
            if len(images) > 2:
                raise MemoryError
            return made

    annotator = Hungry()
    made = annotator([_image(value) for value in (1, 2, 3, 4)], list("abcd"))
    assert all(isinstance(one, Annotation) for one in made)
    assert annotator.sizes_of_batches == [4, 2, 2]


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might"),
        RuntimeError("CUDA error: device-side assert triggered"),
    ],
)
def test_a_gpu_that_is_lost_is_no_failure_of_a_row(error: Exception) -> None:
    class Lost(Brightness):
        def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
            super().annotate(images, keys)
            raise error

    annotator = Lost()
    with pytest.raises(DeviceLostError, match=r"^brightness: \w+: CUDA error: ") as caught:
        annotator([_image(1), _image(2)], ["a", "b"])
    assert "\n" not in str(caught.value)
    assert annotator.sizes_of_batches == [2], "nothing is tried again on it"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (
            Annotation(np.zeros((4, 7), np.uint8), {"dark": True}),
            "the map is uint8 of shape (4, 7), not uint8 of (4, 6)",
        ),
        (Annotation(np.zeros((4, 6, 3), np.uint8), {"dark": True}), "not uint8 of (4, 6)"),
        (Annotation(np.zeros((4, 6), np.float32), {"dark": True}), "the map is float32"),
        (Annotation(np.zeros((4, 6), np.uint8), {}), "columns [], not ['dark']"),
    ],
)
def test_a_wrong_map_is_a_failure_that_says_why(annotation: Annotation, message: str) -> None:
    class Wrong(Brightness):
        def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
            return [annotation for _ in zip(images, keys, strict=True)]

    (failure,) = Wrong()([_image(9)], ["a"])
    assert isinstance(failure, RowFailure)
    assert failure.reason is Reason.ANNOTATOR_ERROR
    assert message in failure.message


def test_too_few_annotations_fail_their_batch() -> None:
    class Forgetful(Brightness):
        def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
            return super().annotate(images, keys)[1:]

    made = Forgetful()([_image(1), _image(2)], ["a", "b"])
    assert [one.message for one in made if isinstance(one, RowFailure)] == [
        "brightness: 1 annotations of 2 images; annotate must return one for each image"
    ] * 2


def test_time_is_counted_until_it_is_taken() -> None:
    annotator = Brightness()
    annotator([_image(1)], ["a"])
    assert annotator.take_busy_s() > 0
    assert annotator.take_busy_s() == 0


def test_flags_are_columns_and_metadata_tells_the_channels() -> None:
    assert Brightness.columns() == [pa.field("dark", pa.bool_())]
    assert Brightness.metadata() == {"polarity": "none", "channels": "1", "channel_order": "L"}


def test_a_name_that_is_no_layer_name_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="Soft Edge"):
        type("SoftEdge", (Brightness,), {"name": "Soft Edge"})
