"""Layers of one shard from its stored images: light annotators here, networks wherever they are."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest

from controlmill.config import Options
from controlmill.errors import StorageError
from controlmill.testing.grey_shard import write_grey_shard
from storage.dataset import Dataset
from storage.weights.reference import WeightsFile
from tasks.annotate_shard import Group, MakeMaps, annotate_shard
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.maps import make_maps
from tasks.annotators.registry import create
from tasks.images.decode import decode_stored
from tasks.images.encode import encode_map
from tasks.images.types import Pixels
from tasks.rows import Map

NUM_ROWS = 130


class HeavyOptions(Options):
    weights: str | None = None


class Heavy(Annotator):
    name = "heavy"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = HeavyOptions
    weights: ClassVar[tuple[WeightsFile, ...]] = (WeightsFile("somebody/something", "heavy.pth", "main"),)

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        if "0007" in keys:
            raise ValueError("not this one")
        return [Annotation(255 - image[:, :, 0]) for image in images]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One shard of grey images."""
    return write_grey_shard(tmp_path, NUM_ROWS)


@pytest.fixture
def heavy(tmp_path: Path) -> Heavy:
    (tmp_path / "heavy.pth").write_bytes(b"weights")
    return Heavy(HeavyOptions(weights=str(tmp_path / "heavy.pth")))


def all_at_once(unit: Annotator, seen: list[int]) -> MakeMaps:
    """Takes every group before it answers the first."""

    def work(groups: Iterable[Group]) -> Iterator[list[list[Map]]]:
        taken = list(groups)
        seen.extend(len(keys) for _, keys in taken)
        for images, keys in taken:
            yield [make_maps(unit, images, keys)]

    return work


def test_networks_and_others_from_the_same_pixels_in_the_order_of_the_images(dataset: Dataset, heavy: Heavy) -> None:
    seen: list[int] = []
    done: list[int] = []
    units = [create("canny", {}), heavy, create("lineart_standard", {})]
    records = annotate_shard(
        dataset, 0, units, all_at_once(heavy, seen), report=lambda progress: done.append(progress.done)
    )
    assert [record.layer for record in records] == ["canny", "heavy", "lineart_standard"]
    assert seen == [64, 64, 2]
    assert done == [64, 128, 130]
    rows = pq.read_table(dataset.layer("heavy").path(0)).to_pylist()
    assert [row["key"] for row in rows] == [f"{number:04d}" for number in range(NUM_ROWS)]
    assert rows[9]["conditioning_image"]["bytes"] == encode_map(np.full((4, 4), 246, np.uint8))
    assert (rows[7]["conditioning_image"], rows[7]["reason"]) == (None, "annotator_error")
    assert (records[1].successes, records[1].reasons) == (NUM_ROWS - 1, {"annotator_error": 1})
    assert records[0].successes == NUM_ROWS
    assert records[0].unit.config["pixels"] == "stored"
    assert [dataset.layer(record.layer).record(0) for record in records] == records


def test_a_layer_has_the_same_bytes_alone_and_beside_others(dataset: Dataset, heavy: Heavy) -> None:
    beside = annotate_shard(dataset, 0, [create("canny", {}), heavy], all_at_once(heavy, []))
    alone = annotate_shard(dataset, 0, [create("canny", {})], None)
    assert alone[0].sha256 == beside[0].sha256


def test_groups_are_as_large_as_the_largest_batch_and_bytes_do_not_change(dataset: Dataset, heavy: Heavy) -> None:
    units = [create("canny", {}), heavy]
    before = annotate_shard(dataset, 0, units, all_at_once(heavy, []))
    heavy.batch_size = 100  # type: ignore[misc]  # as an option sets it
    seen: list[int] = []
    after = annotate_shard(dataset, 0, units, all_at_once(heavy, seen))
    assert seen == [100, 30]
    assert [record.sha256 for record in after] == [record.sha256 for record in before]


def test_an_annotator_without_weights_does_not_make_groups_larger(dataset: Dataset, heavy: Heavy) -> None:
    light = create("canny", {})
    light.batch_size = 100  # type: ignore[misc]
    seen: list[int] = []
    annotate_shard(dataset, 0, [light, heavy], all_at_once(heavy, seen))
    assert seen == [64, 64, 2]


def test_each_image_is_decoded_once_for_all_annotators(
    dataset: Dataset, heavy: Heavy, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def counting(encoded: bytes) -> Pixels:
        decoded.append(encoded)
        return decode_stored(encoded)

    monkeypatch.setattr("tasks.annotate_shard.decode_stored", counting)
    units = [create("canny", {}), heavy, create("lineart_standard", {})]
    annotate_shard(dataset, 0, units, all_at_once(heavy, []))
    assert len(decoded) == NUM_ROWS


def test_nothing_is_left_of_a_shard_that_fails(dataset: Dataset, heavy: Heavy) -> None:
    def broken(groups: Iterable[Group]) -> Iterator[list[list[Map]]]:
        yield [make_maps(heavy, *next(iter(groups)))]
        raise RuntimeError("the actors are gone")

    with pytest.raises(RuntimeError, match="gone"):
        annotate_shard(dataset, 0, [create("canny", {}), heavy], broken)
    assert not list(Path(dataset.root, "heavy").iterdir())
    assert not list(Path(dataset.root, "canny").iterdir())


def test_a_shard_without_images_is_refused(dataset: Dataset) -> None:
    with pytest.raises(StorageError, match="shard 00001 has no images"):
        annotate_shard(dataset, 1, [create("canny", {})], None)
