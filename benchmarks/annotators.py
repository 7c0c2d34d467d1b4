"""What the annotators add to their network, and Canny to OpenCV.

    python benchmarks/annotators.py [--num-rounds 7] [--batch-size 2] [--num-rows 16] [--device cpu] [--out FILE]

All pictures are 512x512, HED has random weights and its real size, and torch has one thread.

- hed: one call of the annotator with a batch of pixels: tensors from them, network, fusion and sigmoid, 8-bit maps.
- shard with hed: `tasks.annotate_shard` in this process, without Ray: read a committed shard of JPEG images, decode,
  batch, everything of the line above, encode PNG, write and hash the Parquet file, commit.
- canny: one call of the annotator.

The bare loop of the first two gives the same network the same number of tensors, in the same batches, ready on the
device, and throws away what comes out; that of the last calls `cv2.Canny`. Rounds are interleaved; told are the medians
of both and of their ratios, on a CPU in CPU time (of this thread, for the shard of all threads), on a GPU in wall time.
The claims: at most 5 %, 5 % and 10 % more.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from measured_run import heading

from controlmill.config import BuildConfig
from controlmill.testing.pictures import Pixels, photo
from controlmill.testing.random_weights import write_weights
from storage.dataset import Dataset
from tasks.annotate_shard import Group, annotate_shard
from tasks.annotators.base import Annotation
from tasks.annotators.maps import make_maps
from tasks.annotators.network import NetworkAnnotator
from tasks.annotators.registry import create
from tasks.pull_shard import pull_shard
from tasks.rows import Map
from tasks.stages import planned_shards

_SIZE = 512
_LARGEST_OVERHEAD = {"hed": 0.05, "shard with hed": 0.05, "canny": 0.10}
_CANNY_CALLS = 20

Work = tuple[Callable[[], object], Callable[[], object]]
"""Ours, and the bare loop."""
Spent = tuple[float, float, float]
"""Milliseconds of both, and how much more ours takes, all medians."""


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--num-rows", type=int, default=16, help="of the shard")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    images = [photo(_SIZE, _SIZE, seed=index) for index in range(arguments.batch_size)]
    with TemporaryDirectory() as folder:
        os.environ["CONTROLMILL_WEIGHTS"] = folder
        write_weights(Path(folder), "ControlNetHED.pth")
        hed = create("hed", {"batch_size": len(images)})
        hed.setup(arguments.device)
        assert isinstance(hed, NetworkAnnotator)
        clock = time.thread_time if arguments.device == "cpu" else time.perf_counter
        of_hed = _interleaved(_hed(hed, images), arguments.num_rounds, clock)
        clock = time.process_time if arguments.device == "cpu" else time.perf_counter
        work = _shard(hed, images, Path(folder), arguments.num_rows)
        of_shard = _interleaved(work, arguments.num_rounds, clock)
    of_canny = _interleaved(_canny(images[0]), arguments.num_rounds * 5, time.thread_time)
    lines = _report({"hed": of_hed, "shard with hed": of_shard, "canny": of_canny}, arguments)
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join([*heading("Annotators around their networks"), *lines]) + "\n")


def _tensors(hed: NetworkAnnotator, images: list[Pixels]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().contiguous().to(hed.device)


def _hed(hed: NetworkAnnotator, images: list[Pixels]) -> Work:
    batch, keys = _tensors(hed, images), [str(index) for index in range(len(images))]
    assert all(isinstance(one, Annotation) for one in hed(images, keys))

    def bare() -> object:
        with torch.inference_mode():
            return hed.network(batch)

    return lambda: hed(images, keys), bare


def _shard(hed: NetworkAnnotator, images: list[Pixels], folder: Path, num_rows: int) -> Work:
    (folder / "pictures").mkdir()
    for row in range(num_rows):
        cv2.imwrite(str(folder / "pictures" / f"{row:05d}.jpg"), photo(_SIZE, _SIZE, seed=row))
    config = BuildConfig(image_folder=str(folder / "pictures"), output_folder=str(folder / "dataset"))
    dataset = Dataset.create(config.output_folder)
    assert list(planned_shards(dataset, config)) == [0]
    assert pull_shard(dataset, 0, config)[0].rows == num_rows
    batch = _tensors(hed, images)

    def make_maps_here(groups: Iterable[Group]) -> Iterator[list[list[Map]]]:
        for pixels, keys in groups:
            yield [make_maps(hed, pixels, keys)]

    def bare() -> None:
        with torch.inference_mode():
            for start in range(0, num_rows, len(images)):
                hed.network(batch[: num_rows - start])

    def ours() -> None:
        (record,) = annotate_shard(dataset, 0, [hed], make_maps_here)
        assert (record.rows, record.successes) == (num_rows, num_rows)

    return ours, bare


def _canny(image: Pixels) -> Work:
    canny = create("canny", {})
    canny.setup()
    return (
        lambda: [canny([image], ["0"]) for _ in range(_CANNY_CALLS)],
        lambda: [cv2.Canny(image, 100, 200) for _ in range(_CANNY_CALLS)],
    )


def _interleaved(work: Work, num_rounds: int, clock: Callable[[], float]) -> Spent:
    """What both take, in turns, so that a busy moment of the machine is shared by both."""
    rounds = [[_timed_ms(function, clock) for function in work] for _ in range(num_rounds + 1)][1:]
    return median(ours for ours, _ in rounds), median(bare for _, bare in rounds), median(a / b - 1 for a, b in rounds)


def _timed_ms(function: Callable[[], object], clock: Callable[[], float]) -> float:
    on_device = clock is time.perf_counter
    if on_device:
        torch.cuda.synchronize()
    started_s = clock()
    function()
    if on_device:
        torch.cuda.synchronize()
    return (clock() - started_s) * 1000


def _report(spent: dict[str, Spent], arguments: argparse.Namespace) -> list[str]:
    per_call = {"hed": arguments.batch_size, "shard with hed": arguments.num_rows, "canny": _CANNY_CALLS}
    lines = [
        f"ms per {_SIZE}x{_SIZE} image on {arguments.device}, batches of {arguments.batch_size} for HED,",
        f"{arguments.num_rows} rows in the shard; {arguments.num_rounds} rounds, five times as many for canny.",
        "The bare loop of hed and of the shard is the network alone, on tensors that are ready on the device; all of",
        "reading, decoding, batching, fusion, encoding, writing and the commit is in what is more.",
        "",
        "| annotator | bare | controlmill | more | at most | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (ours_ms, bare_ms, more) in spent.items():
        limit = _LARGEST_OVERHEAD[name]
        verdict = "holds" if more <= limit else "FAILS"
        number = per_call[name]
        lines.append(
            f"| {name} | {bare_ms / number:.2f} | {ours_ms / number:.2f} | {more:+.1%} | {limit:+.0%} | {verdict} |"
        )
    return lines


if __name__ == "__main__":
    main()
