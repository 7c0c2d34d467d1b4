"""What the annotators add to their network, and Canny to OpenCV.

    python benchmarks/annotators.py [--num-rounds 7] [--batch-size 2] [--device cpu] [--out FILE]

HED with random weights of the real size: one call of the annotator with a batch of 512x512 images, beside a bare loop
that gives the same network the same tensors, ready on the device, and throws away what comes out. Canny: one call
beside `cv2.Canny`. Median of interleaved rounds; on a CPU the CPU time of one thread, on a GPU wall time. The claims:
at most 5 % and 10 % more.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
from measured_run import heading

from controlmill.testing.pictures import Pixels, photo
from controlmill.testing.random_weights import write_weights
from tasks.annotators.base import Annotation
from tasks.annotators.network import NetworkAnnotator
from tasks.annotators.registry import create

_SIZE = 512
_LARGEST_OVERHEAD = {"hed": 0.05, "canny": 0.10}
_CANNY_CALLS = 20


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    images = [photo(_SIZE, _SIZE, seed=index) for index in range(arguments.batch_size)]
    with TemporaryDirectory() as folder:
        os.environ["CONTROLMILL_WEIGHTS"] = folder
        write_weights(Path(folder), "ControlNetHED.pth")
        hed = _interleaved(*_hed(images, arguments.device), arguments.num_rounds, arguments.device)
    canny = _interleaved(*_canny(images[0]), arguments.num_rounds * 5, "cpu")
    lines = _report({"hed": hed, "canny": canny}, arguments)
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join([*heading("Annotators around their networks"), *lines]) + "\n")


def _hed(images: list[Pixels], device: str) -> tuple[Callable[[], object], Callable[[], object]]:
    hed = create("hed", {"batch_size": len(images)})
    hed.setup(device)
    assert isinstance(hed, NetworkAnnotator)
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().contiguous().to(device)
    keys = [str(index) for index in range(len(images))]
    made = hed(images, keys)
    assert all(isinstance(one, Annotation) for one in made)

    def bare() -> object:
        with torch.inference_mode():
            return hed.network(batch)

    return lambda: hed(images, keys), bare


def _canny(image: Pixels) -> tuple[Callable[[], object], Callable[[], object]]:
    canny = create("canny", {})
    canny.setup()
    return (
        lambda: [canny([image], ["0"]) for _ in range(_CANNY_CALLS)],
        lambda: [cv2.Canny(image, 100, 200) for _ in range(_CANNY_CALLS)],
    )


def _interleaved(
    ours: Callable[[], object], bare: Callable[[], object], num_rounds: int, device: str
) -> tuple[float, float]:
    """Median milliseconds of both, and so that a busy moment of the machine is shared by both."""
    spent: tuple[list[float], list[float]] = ([], [])
    for number in range(num_rounds + 1):
        for function, values in zip((ours, bare), spent, strict=True):
            milliseconds = _timed_ms(function, device)
            if number:
                values.append(milliseconds)
    return median(spent[0]), median(spent[1])


def _timed_ms(function: Callable[[], object], device: str) -> float:
    clock = time.thread_time if device == "cpu" else time.perf_counter
    if device != "cpu":
        torch.cuda.synchronize()
    started_s = clock()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return (clock() - started_s) * 1000


def _report(spent: dict[str, tuple[float, float]], arguments: argparse.Namespace) -> list[str]:
    per_call = {"hed": arguments.batch_size, "canny": _CANNY_CALLS}
    lines = [
        f"ms per {_SIZE}x{_SIZE} image on {arguments.device}, batches of {arguments.batch_size} for HED.",
        "",
        "| annotator | bare | controlmill | more | at most | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, (ours_ms, bare_ms) in spent.items():
        more, limit = ours_ms / bare_ms - 1, _LARGEST_OVERHEAD[name]
        verdict = "holds" if more <= limit else "FAILS"
        number = per_call[name]
        lines.append(
            f"| {name} | {bare_ms / number:.2f} | {ours_ms / number:.2f} | {more:+.1%} | {limit:+.0%} | {verdict} |"
        )
    return lines


if __name__ == "__main__":
    main()
