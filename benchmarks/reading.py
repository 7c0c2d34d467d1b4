"""Reading beside mosaicml-streaming and webdataset: the same encoded images, maps and captions, shuffled, one worker.

Usage: python benchmarks/reading.py [--rounds 3] [--rows 2000] [--out benchmarks/results/NAME.md]

Each reader gives batches of 8: image in [-1, 1] and hint in [0, 1] as float32 tensors (8, 3, 512, 512), prompts as
text; local disk, in the page cache. A quarter of an epoch warms up, half an epoch counts. The peers read what their own
writers wrote of the very bytes that our dataset holds, through torch's DataLoader with one worker process as their
guides recommend; ours has one decoding thread, beside threads that fetch. They run one after another, round by round.
CPU time is that of all processes and threads over the measured batches, start-up left out. The peers' environment is
made in the user's cache folder when it is not there; it has torch, NumPy and Pillow of this one, so that all decode
with the same libraries where they use the same.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

PEERS = ("mosaicml-streaming==0.13.0", "webdataset==1.0.2")
# what the peers import and torch's environment does not bring
WITH_PEERS = (
    "braceexpand==0.1.7", "brotli==1.2.1", "catalogue==2.0.10", "cramjam==2.14.0", "python-snappy==0.7.3",
    "xxhash==4.1.0", "zstd==1.5.7.2",
)  # fmt: skip
READERS = ("controlmill", "streaming", "webdataset")
BATCH_SIZE = 8
SIZE = 512
ROWS_PER_SHARD = 1000
SHUFFLE_BUFFER = 1536
"""Rows of webdataset's buffer: as many as our 24 chunks hold."""


def peers_python() -> Path:
    """The interpreter of the peers' environment, made when it is missing."""
    name = "reading-" + "-".join(peer.replace("==", "-") for peer in PEERS)
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "controlmill" / name
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, clear=True, with_pip=True)
        install = [python, "-m", "pip", "install", "-q", "--no-deps", *PEERS, *WITH_PEERS]
        subprocess.run(install, check=True)
        packages = next((folder / "lib").glob("python*/site-packages"))
        (packages / "zz_torch.pth").write_text(str(Path(np.__file__).parents[1]))
        (folder / "complete").touch()
    return python


def picture(number: int) -> np.ndarray:
    """A picture with detail at every scale, about 70 KB as JPEG of quality 95."""
    import cv2

    rng = np.random.default_rng(number)
    total = np.full((SIZE, SIZE, 3), 128.0, np.float32)
    for side, strength in ((4, 60), (16, 30), (64, 14), (256, 7)):
        noise = rng.normal(0, strength, (side, side, 3)).astype(np.float32)
        total += cv2.resize(noise, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
    return np.clip(total, 0, 255).astype(np.uint8)


def write_ours(folder: Path, num_rows: int) -> str:
    """The dataset: image, canny, captions."""
    import cv2

    from controlmill.config import BuildConfig
    from storage.dataset import Dataset
    from tasks.pull_shard import pull_shard
    from tasks.stages import planned_shards

    pictures = folder / "pictures"
    pictures.mkdir()
    for number in range(num_rows):
        settings = [cv2.IMWRITE_JPEG_QUALITY, 95]
        (pictures / f"{number:06d}.jpg").write_bytes(cv2.imencode(".jpg", picture(number), settings)[1].tobytes())
        (pictures / f"{number:06d}.txt").write_text(f"picture number {number} of the set")
    config = BuildConfig(
        image_folder=str(pictures),
        output_folder=str(folder / "ours"),
        number_sample_per_shard=ROWS_PER_SHARD,
        annotators=("canny",),
        skip_reencode=True,
    )
    for shard in planned_shards(Dataset(config.output_folder), config):
        pull_shard(Dataset(config.output_folder), shard, config)
    return config.output_folder


def stored_rows(dataset: str) -> Iterator[dict[str, Any]]:
    """Key, image, hint and caption of every row, encoded; only pyarrow is needed."""
    import pyarrow.parquet as pq

    for path in sorted(Path(dataset, "image").glob("*.parquet")):
        images, maps = pq.ParquetFile(path), pq.ParquetFile(Path(dataset, "canny", path.name))
        for batch, of_maps in zip(images.iter_batches(64), maps.iter_batches(64), strict=True):
            hints = of_maps.column("conditioning_image").to_pylist()
            for row, hint in zip(batch.to_pylist(), hints, strict=True):
                yield {"key": row["key"], "image": row["image"]["bytes"], "hint": hint["bytes"], "text": row["caption"]}


def write_peers(dataset: str, folder: Path) -> None:
    """The same bytes as MDS shards of the default size, and as tar shards of `ROWS_PER_SHARD` samples."""
    import webdataset
    from streaming import MDSWriter

    columns = {"image": "bytes", "hint": "bytes", "text": "str"}
    (folder / "webdataset").mkdir()
    pattern = str(folder / "webdataset" / "%05d.tar")
    with (
        MDSWriter(out=str(folder / "streaming"), columns=columns) as mds,
        webdataset.ShardWriter(pattern, maxcount=ROWS_PER_SHARD, verbose=0) as tar,
    ):
        for row in stored_rows(dataset):
            mds.write({name: row[name] for name in columns})
            tar.write({"__key__": row["key"], "jpg": row["image"], "png": row["hint"], "txt": row["text"]})


def decoded(image: bytes, hint: bytes) -> tuple[Any, Any]:
    """Image and hint as Pillow decodes them, which both peers use."""
    import io

    import torch
    from PIL import Image

    pixels = torch.from_numpy(np.array(Image.open(io.BytesIO(image)).convert("RGB")))
    edges = torch.from_numpy(np.array(Image.open(io.BytesIO(hint)).convert("RGB")))
    pixels_CHW = pixels.permute(2, 0, 1).float().div_(255).sub_(0.5).div_(0.5)
    return pixels_CHW, edges.permute(2, 0, 1).float().div_(255)


def ours(folder: Path) -> Iterator[int]:
    """Rows of each batch of our reader."""
    from controlmill.config import TrainingDataOptions
    from training.reader.reader import ShardReader

    options = TrainingDataOptions(train_data_dir=str(folder / "ours"), condition=("canny",), dataloader_num_workers=1)
    for batch in ShardReader(options, batch_size=BATCH_SIZE):
        assert batch.pixels_BCHW is not None
        assert batch.hints[0].shape == batch.pixels_BCHW.shape == (BATCH_SIZE, 3, SIZE, SIZE)
        yield len(batch)


def streaming(folder: Path) -> Iterator[int]:
    """Rows of each batch of mosaicml-streaming: StreamingDataset with its default shuffle."""
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Pairs(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, at: int) -> Any:
            row = super().__getitem__(at)
            return *decoded(row["image"], row["hint"]), row["text"]

    while True:
        data = Pairs(local=str(folder / "streaming"), shuffle=True, batch_size=BATCH_SIZE)
        for pixels_BCHW, hints_BCHW, texts in DataLoader(data, batch_size=BATCH_SIZE, num_workers=1, drop_last=True):
            assert hints_BCHW.shape == pixels_BCHW.shape
            yield len(texts)


def webdataset_reader(folder: Path) -> Iterator[int]:
    """Rows of each batch of webdataset: shards and a buffer shuffled, batches made in the worker."""
    import webdataset

    shards = sorted(str(path) for path in (folder / "webdataset").glob("*.tar"))
    data = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), resampled=False)
        .shuffle(SHUFFLE_BUFFER)
        .to_tuple("jpg", "png", "txt")
        .map(lambda row: (*decoded(row[0], row[1]), row[2].decode()))
        .batched(BATCH_SIZE, partial=False)
    )
    while True:
        for pixels_BCHW, hints_BCHW, texts in webdataset.WebLoader(data, batch_size=None, num_workers=1):
            assert hints_BCHW.shape == pixels_BCHW.shape
            yield len(texts)


def cpu_s() -> float:
    """CPU seconds of this process and its living descendants, those of ended children included."""
    ticks = 0
    for pid in descendants(os.getpid()):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += sum(int(value) for value in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """A process and those below it."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *(one for child in children for one in descendants(child))]


def measure(reader: str, folder: Path, num_rows: int) -> dict[str, float]:
    """Read a quarter of an epoch to warm up, then half of one that counts."""
    import torch

    torch.set_num_threads(1)
    kinds: dict[str, Callable[[Path], Iterator[int]]] = {
        "controlmill": ours, "streaming": streaming, "webdataset": webdataset_reader,
    }  # fmt: skip
    started_s = time.monotonic()
    batches = kinds[reader](folder)
    next(batches)
    first_s = time.monotonic() - started_s
    for _ in range(num_rows // BATCH_SIZE // 4):
        next(batches)
    began_s, cpu_before_s, num_read = time.monotonic(), cpu_s(), 0
    while num_read < num_rows // 2:
        num_read += next(batches)
    wall_s = time.monotonic() - began_s
    return {
        "rows": num_read,
        "rows_per_s": num_read / wall_s,
        "cpu_s_per_1000": (cpu_s() - cpu_before_s) / num_read * 1000,
        "first_batch_s": first_s,
    }


def report(measured: dict[str, list[dict[str, float]]], num_rows: int) -> str:
    """The result as Markdown."""
    from measured_run import heading

    lines = heading(f"Reading: controlmill beside {', '.join(PEERS)}")
    lines += [
        (
            f"{num_rows:,} images of {SIZE}x{SIZE} (JPEG), Canny maps (PNG) and captions, the same bytes for all; "
            f"batches of {BATCH_SIZE}, shuffled, one worker, local disk, page cache. Medians of "
            f"{len(measured['controlmill'])} rounds."
        ),
        "",
        "| reader | samples/s | CPU-s per 1,000 samples | first batch after (s) |",
        "|---|---:|---:|---:|",
    ]
    for reader in READERS:
        rate, cpu, first = (
            statistics.median(one[name] for one in measured[reader])
            for name in ("rows_per_s", "cpu_s_per_1000", "first_batch_s")
        )
        lines.append(f"| {reader} | {rate:.1f} | {cpu:.2f} | {first:.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Make the data, run all readers in turn, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", nargs=2, metavar=("READER", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        reader, folder = given.run[0], Path(given.run[1])
        if reader == "write":
            write_peers(str(folder / "ours"), folder)
        else:
            print(json.dumps(measure(reader, folder, given.rows)))
        return
    python = peers_python()
    with tempfile.TemporaryDirectory(prefix="controlmill-reading-") as name:
        folder = Path(name)
        write_ours(folder, given.rows)
        subprocess.run([python, __file__, "--run", "write", folder], check=True)
        measured: dict[str, list[dict[str, float]]] = {reader: [] for reader in READERS}
        for number in range(given.rounds):
            for reader in READERS[number % 3 :] + READERS[: number % 3]:
                interpreter = sys.executable if reader == "controlmill" else str(python)
                command = [interpreter, __file__, "--rows", str(given.rows), "--run", reader, str(folder)]
                found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment()).stdout
                measured[reader].append(json.loads(found.splitlines()[-1]))
                print(reader, measured[reader][-1], file=sys.stderr, flush=True)
    text = report(measured, given.rows)
    print(text)
    if given.out:
        given.out.write_text(text)


def environment() -> dict[str, str]:
    """One thread for the libraries of every reader."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


if __name__ == "__main__":
    main()
