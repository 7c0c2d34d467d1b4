"""A small dataset to train on: drawn discs pulled from a folder, their Canny maps and captions, without a server.

It is written by the same code that `controlmill build` runs on Ray, called here in this process.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from controlmill.config import BuildConfig, CaptionOptions
from controlmill.testing.discs import disc


def write_training_set(
    folder: Path,
    num_rows: int = 64,
    size: int = 64,
    *,
    rows_per_shard: int = 24,
    caption_layer: bool = False,
    sizes: Sequence[tuple[int, int]] = (),
    captions: Sequence[str] | None = None,
    **options: Any,
) -> str:
    """Write `folder`/dataset with the layers `image` and `canny`, and return its path.

    Each image's prompt is in the column `caption` of the images, for all but each fifth; a shard of more than 64 rows
    has several row groups. About 3 ms a row.

    Args:
        folder: where the pictures and the dataset go.
        num_rows: images.
        size: their height and width in pixels.
        rows_per_shard: how they are cut into shards.
        caption_layer: whether there is a layer `caption` too, with "a picture of " before each prompt.
        sizes: (width, height) that the images have in turn, instead of `size`.
        captions: of the images, instead of the prompts.
        options: further ones of `controlmill build`.
    """
    from storage.dataset import Dataset
    from tasks.pull_shard import pull_shard
    from tasks.stages import planned_shards

    write_pictures(folder / "pictures", num_rows, sizes or [(size, size)], captions)
    values: dict[str, Any] = {
        "image_folder": str(folder / "pictures"),
        "output_folder": str(folder / "dataset"),
        "number_sample_per_shard": rows_per_shard,
        "annotators": ("canny",),
        "image_size": size,
        "resize_mode": "no" if sizes else "center_crop",
        "thread_count": 16,
        **options,
    }
    config = BuildConfig.model_validate(values)
    dataset = Dataset(config.output_folder)
    for shard in planned_shards(dataset, config):
        pull_shard(dataset, shard, config)
        if caption_layer:
            _caption(dataset, shard)
    return config.output_folder


def write_pictures(
    folder: Path, num_rows: int, sizes: Sequence[tuple[int, int]], captions: Sequence[str] | None = None
) -> None:
    """Draw `<number>.png`, with its caption, or its prompt for all but each fifth, in `<number>.txt`."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_rows):
        width, height = sizes[number % len(sizes)]
        pixels, prompt = disc(0, number, max(width, height))
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        cut = pixels[top : top + height, left : left + width, ::-1]
        (folder / f"{number:05d}.png").write_bytes(cv2.imencode(".png", cut)[1].tobytes())
        if captions is not None or number % 5 != 4:
            (folder / f"{number:05d}.txt").write_text(prompt if captions is None else captions[number])


def _caption(dataset: Any, shard: int) -> None:
    """The layer that a captioner makes, whose captions are made up from the prompts."""
    from tasks.caption_shard import Batch, Caption, caption_shard
    from tasks.captioners.base import CaptionModel
    from tasks.captioners.blip import Blip

    alt_texts = {
        row["key"]: row["caption"]
        for rows in dataset.layer("image").iter_batches(shard, ["key", "caption"])
        for row in rows.to_pylist()
    }

    def caption_all(batches: Iterable[Batch]) -> Iterator[list[Caption]]:
        for _images, keys in batches:
            yield [(f"a picture of {alt_texts[key] or 'a disc'}", None) for key in keys]

    model = CaptionModel("made-up", "/nowhere", hashlib.sha256(b"made-up").hexdigest())
    caption_shard(dataset, shard, Blip(CaptionOptions(captioner="blip", model="made-up"), model), caption_all, {})


def give_hints_of_other_images(uri: str) -> None:
    """Every row of `canny` gets the map of the next row of its shard, the last one that of the first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from storage.dataset import Dataset
    from storage.writer import ShardWriter

    dataset = Dataset.open(uri)
    layer = dataset.layer("canny")
    for shard, record in layer.records().items():
        table = pq.read_table(layer.path(shard))
        column = table.schema.get_field_index("conditioning_image")
        order = pa.array([(row + 1) % len(table) for row in range(len(table))])
        table = table.set_column(column, table.schema.field(column), table.column(column).take(order))
        with ShardWriter(dataset, "canny", shard, table.schema) as writer:
            writer.write(table)
            written = writer.close()
            writer.commit(record.model_copy(update={"sha256": written.sha256, "num_bytes": written.num_bytes}))
