"""A dataset of one shard whose images are plain grey: what the tests of work on stored images begin with."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from controlmill.config import ShardOptions

if TYPE_CHECKING:
    from storage.dataset import Dataset


def write_grey_shard(folder: Path, num_rows: int, caption: Callable[[int], str | None] | None = None) -> "Dataset":
    """Write `folder`/dataset: image n is 4x4 pixels of the grey n, its key the number in four digits."""
    from storage.dataset import Dataset
    from storage.record import CommitRecord
    from storage.schema import image_schema
    from storage.writer import ShardWriter
    from tasks.images.encode import encode_map

    made = Dataset.create(str(folder / "dataset"))
    schema = image_schema(ShardOptions())
    rows = [
        {
            "key": f"{number:04d}",
            "caption": caption(number) if caption else None,
            "image": {"bytes": encode_map(np.full((4, 4), number, np.uint8)), "path": f"{number:04d}.png"},
        }
        for number in range(num_rows)
    ]
    with ShardWriter(made, "image", 0, schema) as writer:
        writer.write(pa.RecordBatch.from_pylist(rows, schema))
        written = writer.close()
        record = {"count": num_rows, "successes": num_rows, "layer": "image", "shard": 0, "rows": num_rows}
        file = {"bytes": written.num_bytes, "sha256": written.sha256, "fingerprint": "images"}
        writer.commit(CommitRecord.model_validate({**record, **file}))
    return made
