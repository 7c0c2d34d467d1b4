"""What OpenPose costs around its network: input, peaks, people and drawing, beside controlnet_aux's.

    python benchmarks/openpose_post.py [--num-rounds 9] [--num-people 2] [--batch-size 8] [--out FILE]

CPU time of one thread per 512x512 image, median of interleaved rounds. The network is left out: both get the same
maps, drawn from known skeletons, so that both must find the same people. The claim: at most a tenth.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import torch
from measured_run import heading

from controlmill.testing.pictures import Pixels, photo
from controlmill.testing.poses import draw_maps, standing
from tasks.annotators.network import foreign_imports
from tasks.annotators.openpose.body import fields, network_input
from tasks.annotators.openpose.draw import draw_body
from tasks.annotators.openpose.people import LIMBS, find_people

_SIZE = 512
_CELLS = 23
_LARGEST_SHARE = 0.1


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rounds", type=int, default=9)
    parser.add_argument("--num-people", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    people = [standing(0.5 * (index % 2), 0.1 * index, 0.5, seed=index) for index in range(arguments.num_people)]
    limbs, joints = draw_maps(people, LIMBS, _CELLS, _CELLS)
    batch = [photo(_SIZE, _SIZE, seed=index) for index in range(arguments.batch_size)]
    theirs = _theirs(limbs, joints)
    ours = _ours(limbs, joints)
    drawn, same = ours(batch)[0], theirs(batch[0])
    assert (drawn == same).all(), "the two drawings differ"
    spent = {"ours": list[float](), "theirs": list[float]()}
    for _ in range(arguments.num_rounds):
        spent["ours"].append(_cpu_ms(lambda: ours(batch)) / len(batch))
        spent["theirs"].append(_cpu_ms(lambda: theirs(batch[0])))
    lines = _report(median(spent["ours"]), median(spent["theirs"]), arguments)
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join([*heading("OpenPose around its network"), *lines]) + "\n")


def _ours(limbs: np.ndarray, joints: np.ndarray) -> Callable[[list[Pixels]], list[Pixels]]:
    def annotate(batch: list[Pixels]) -> list[Pixels]:
        _, kept = network_input(batch)
        made = [torch.from_numpy(maps).expand(len(batch), -1, -1, -1) for maps in (limbs, joints)]
        canvases = []
        for image, field in zip(batch, fields(made[0], made[1], (_SIZE, _SIZE), kept), strict=True):
            canvas = np.zeros_like(image)
            for person in find_people(field):
                draw_body(canvas, person.joints)
            canvases.append(canvas)
        return canvases

    return annotate


def _theirs(limbs: np.ndarray, joints: np.ndarray) -> Callable[[Pixels], Pixels]:
    with foreign_imports():
        from controlnet_aux import OpenposeDetector
        from controlnet_aux.open_pose.body import Body

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anything = torch.nn.Parameter(torch.zeros(1))

        def forward(self, _pixels: torch.Tensor) -> tuple[Any, Any]:
            return torch.from_numpy(limbs)[None], torch.from_numpy(joints)[None]

    body = Body.__new__(Body)
    body.model = Maps()
    detector = OpenposeDetector(body)

    def annotate(image: Pixels) -> Pixels:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(detector(image, output_type="np"))

    return annotate


def _cpu_ms(function: Callable[[], object]) -> float:
    started_s = time.thread_time()
    function()
    return (time.thread_time() - started_s) * 1000


def _report(ours_ms: float, theirs_ms: float, arguments: argparse.Namespace) -> list[str]:
    share = ours_ms / theirs_ms
    verdict = "holds" if share <= _LARGEST_SHARE else "FAILS"
    rounds = f"one thread, {arguments.num_people} people, median of {arguments.num_rounds} interleaved rounds"
    return [
        f"CPU ms per {_SIZE}x{_SIZE} image, {rounds}; the drawings are equal.",
        "",
        "| controlnet_aux 0.0.10 | controlmill | share |",
        "| --- | --- | --- |",
        f"| {theirs_ms:.1f} | {ours_ms:.1f} (batches of {arguments.batch_size}) | {share:.3f} |",
        "",
        f"At most a tenth: {verdict}.",
    ]


if __name__ == "__main__":
    main()
