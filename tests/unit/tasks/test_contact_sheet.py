import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from controlmill.errors import StorageWriteError
from controlmill.testing.pictures import jpeg, photo, save
from storage.dataset import Dataset
from storage.record import CommitRecord
from storage.schema import image_schema, layer_schema
from storage.writer import ShardWriter
from tasks.annotators.segmentation.annotator import Segmentation
from tasks.annotators.segmentation.palette import draw_classes
from tasks.caption_shard import SCHEMA as CAPTIONS
from tasks.contact_sheet import Sample, draw_contact_sheet, samples_of, write_contact_sheet
from tasks.images.encode import encode_map

WIDE = jpeg(photo(256, 128))
RED = save(np.full((128, 128, 3), (250, 0, 0), np.uint8), "PNG")
EDGES = save(np.full((128, 128), 255, np.uint8), "PNG")


def _share(sheet: Image.Image, color: tuple[int, int, int]) -> float:
    return float((np.asarray(sheet) == color).all(axis=2).mean())


def test_every_row_and_layer_is_drawn() -> None:
    one = draw_contact_sheet([Sample("a red square", {"image": RED, "canny": EDGES})])
    four = draw_contact_sheet([Sample("a red square", {"image": RED, "canny": EDGES})] * 4)
    assert four.width > one.width
    red_pixels = [round(_share(sheet, (250, 0, 0)) * sheet.width * sheet.height) for sheet in (one, four)]
    assert red_pixels[1] == 4 * red_pixels[0] > 50_000


def test_only_so_many_rows_are_taken() -> None:
    taken = iter([Sample("", {"image": RED})] * 10)
    draw_contact_sheet(taken, num_rows=3)
    assert len(list(taken)) == 7


def test_a_missing_map_is_an_empty_cell_and_long_captions_do_not_spill() -> None:
    rows = [Sample("word " * 500, {"image": WIDE, "canny": None}), Sample("x" * 5000, {"image": WIDE, "canny": EDGES})]
    sheet = draw_contact_sheet(rows)
    assert _share(sheet, (243, 244, 246)) > 0.05
    pixels = np.asarray(sheet)
    assert (pixels[:, -16:] == 255).all()
    assert (pixels[-16:] == 255).all()


def test_captions_are_drawn() -> None:
    blank, said = (draw_contact_sheet([Sample(text, {"image": RED})]) for text in ("", "a red square"))
    assert blank.size == said.size
    assert (np.asarray(blank) != np.asarray(said)).any()


def test_no_row_is_an_empty_sheet() -> None:
    assert min(draw_contact_sheet([]).size) > 0


def _write(dataset: Dataset, layer: str, shard: int, schema: pa.Schema, rows: list[dict[str, object]]) -> None:
    with ShardWriter(dataset, layer, shard, schema) as writer:
        writer.write(pa.RecordBatch.from_pylist(rows, schema))
        written = writer.close()
        counts = {"count": len(rows), "successes": len(rows), "rows": len(rows), "num_bytes": written.num_bytes}
        record = CommitRecord(layer=layer, shard=shard, sha256=written.sha256, fingerprint="f", **counts)
        writer.commit(record)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Three shards of images; the last has no map layer yet, and one map could not be made."""
    dataset = Dataset.create(str(tmp_path / "dataset"))
    images, maps = image_schema(ImageColumns()), layer_schema()
    for shard, num_rows in enumerate((1, 4, 4)):
        keys = [f"{shard:05d}{row:04d}" for row in range(num_rows)]
        struct = {"bytes": RED, "path": "x.png"}
        _write(
            dataset, "image", shard, images, [{"key": key, "caption": f"row {key}", "image": struct} for key in keys]
        )
        if shard < 2:
            edges = [{"key": key, "conditioning_image": {"bytes": EDGES, "path": "x.png"}} for key in keys]
            edges[-1]["conditioning_image"] = None
            _write(dataset, "canny", shard, maps, edges)
    return dataset


@dataclass(frozen=True)
class ImageColumns:
    compute_hash: None = None
    extract_exif: bool = False


def test_rows_come_evenly_from_all_shards(dataset: Dataset) -> None:
    samples = samples_of(dataset, 6)
    assert [sample.caption[:9] for sample in samples] == ["row 00000"] + ["row 00001"] * 3 + ["row 00002"] * 2
    assert [sample.pictures["canny"] is not None for sample in samples] == [False, True, True, True, False, False]
    assert [len(samples_of(dataset, num_rows)) for num_rows in (1, 2, 9, 100)] == [1, 2, 9, 9]


def test_a_sheet_of_a_dataset_is_written(dataset: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    write_contact_sheet(dataset, path, num_rows=4)
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        assert _share(sheet.convert("RGB"), (250, 0, 0)) > 0.1


def test_generated_captions_come_before_those_of_the_source(dataset: Dataset) -> None:
    rows = [{"key": f"00001{row:04d}", "caption": "a red disc" if row else None} for row in range(4)]
    _write(dataset, "caption", 1, CAPTIONS, rows)
    samples = samples_of(dataset, 6)
    assert [sample.caption for sample in samples[1:4]] == ["row 000010000", "a red disc", "a red disc"]
    assert all(sample.pictures.keys() == {"image", "canny"} for sample in samples)


def test_class_ids_are_drawn_in_their_colours(dataset: Dataset) -> None:
    schema = layer_schema(metadata=Segmentation.metadata())
    ids = {"bytes": encode_map(np.full((8, 8), 2, np.uint8)), "path": "x.png"}
    _write(dataset, "segmentation", 0, schema, [{"key": "000000000", "conditioning_image": ids}])
    (sample,) = samples_of(dataset, 1)
    with Image.open(io.BytesIO(sample.pictures["segmentation"] or b"")) as drawn:
        assert drawn.getpixel((3, 3)) == tuple(draw_classes(np.array([[2]], np.uint8))[0, 0])


def test_a_sheet_that_cannot_be_written_names_its_path(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(StorageWriteError, match="no_such_folder"):
        write_contact_sheet(dataset, tmp_path / "no_such_folder" / "sheet.png")


def test_layers_of_numbers_have_no_column(dataset: Dataset) -> None:
    schema = pa.schema([pa.field("key", pa.string()), pa.field("latent", pa.list_(pa.float32()))])
    _write(dataset, "latent", 1, schema, [{"key": f"00001{row:04d}", "latent": [0.0]} for row in range(4)])
    assert {tuple(sample.pictures) for sample in samples_of(dataset, 6)} == {("image", "canny")}
