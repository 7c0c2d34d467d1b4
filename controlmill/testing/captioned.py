"""What the tests of captions share: pictures in a folder with captions beside some of them, and rows read back."""

from pathlib import Path
from typing import Any

import cv2
import pyarrow.parquet as pq

from controlmill.testing.discs import disc


def write_discs(folder: Path, num_images: int, size: int = 160) -> Path:
    """Draw `<number>.png`, with its prompt in `<number>.txt` for all but each fifth; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(num_images):
        (folder / f"{number:04d}.png").write_bytes(encoded_disc(number, size))
        if number % 5 != 4:
            (folder / f"{number:04d}.txt").write_text(disc(0, number, size)[1])
    return folder


def encoded_disc(number: int, size: int = 160) -> bytes:
    """A disc as PNG: every decoder gives the same pixels."""
    return cv2.imencode(".png", disc(0, number, size)[0][:, :, ::-1])[1].tobytes()


def rows_of(dataset: Path, layer: str) -> list[dict[str, Any]]:
    """All rows of a layer without its images, in the order of shards."""
    rows: list[dict[str, Any]] = []
    for path in sorted((dataset / layer).glob("*.parquet")):
        file = pq.ParquetFile(path)
        names = [name for name in file.schema_arrow.names if name not in ("image", "conditioning_image")]
        rows += file.read(columns=names).to_pylist()
    return rows
