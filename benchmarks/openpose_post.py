"""What OpenPose costs around its networks: input, peaks, people, hands, faces and drawing, beside controlnet_aux's.

    python benchmarks/openpose_post.py [--num-rounds 9] [--num-people 2] [--batch-size 8] [--out FILE]

CPU time of one thread per 512x512 image, median of interleaved rounds. The networks are left out: both get the same
maps, drawn from known skeletons and points, so that both must draw the same. The claim: at most a tenth for bodies.
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
from tasks.annotators.openpose.annotator import Openpose, OpenposeOptions
from tasks.annotators.openpose.details import NUM_FACE, NUM_HAND
from tasks.annotators.openpose.people import LIMBS

_SIZE = 512
_CELLS = 23
_LARGEST_SHARE = 0.1
_PARTS = {
    "bodies": {},
    "bodies and hands": {"include_hand": True},
    "bodies and faces": {"include_face": True},
    "bodies, hands and faces": {"include_hand": True, "include_face": True},
}
Annotate = Callable[[list[Pixels]], list[Pixels]]


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
    networks = {"body": _Bodies(people), "hand": _Points(NUM_HAND + 1), "face": _Points(NUM_FACE + 1, as_stages=True)}
    batch = [photo(_SIZE, _SIZE, seed=index) for index in range(arguments.batch_size)]
    pairs = {what: (_ours(networks, parts), _theirs(networks, parts)) for what, parts in _PARTS.items()}
    spent: dict[str, tuple[list[float], list[float]]] = {what: ([], []) for what in pairs}
    bodies = pairs["bodies"][0](batch)[0]
    for what, (ours, theirs) in pairs.items():
        drawn = ours(batch)[0]
        assert drawn.any() if what == "bodies" else (drawn != bodies).any(), f"{what}: nothing is drawn"
        assert (drawn == theirs(batch[:1])[0]).all(), f"{what}: the two drawings differ"
    for _ in range(arguments.num_rounds):
        for what, (ours, theirs) in pairs.items():
            spent[what][0].append(_cpu_ms(lambda ours=ours: ours(batch)) / len(batch))
            spent[what][1].append(_cpu_ms(lambda theirs=theirs: theirs(batch[:1])))
    lines = _report({what: (median(ours), median(theirs)) for what, (ours, theirs) in spent.items()}, arguments)
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join([*heading("OpenPose around its networks"), *lines]) + "\n")


class _Bodies(torch.nn.Module):
    """Instead of the body's network: the maps of known people."""

    def __init__(self, people: list[np.ndarray]) -> None:
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self._maps = [torch.from_numpy(maps) for maps in draw_maps(people, LIMBS, _CELLS, _CELLS)]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(maps.expand(len(pixels), -1, -1, -1) for maps in self._maps)


class _Points(torch.nn.Module):
    """Instead of a network of details: a soft point in each map, the same for every square."""

    def __init__(self, num_maps: int, *, as_stages: bool = False) -> None:
        super().__init__()
        self.anything = torch.nn.Parameter(torch.zeros(1))
        self._at = np.random.default_rng(num_maps).uniform(0.2, 0.8, (num_maps, 2))
        self._known: dict[int, torch.Tensor] = {}
        self._as_stages = as_stages

    def forward(self, pixels: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        cells = pixels.shape[2] // 8
        if cells not in self._known:
            y, x = np.mgrid[0:cells, 0:cells] / cells
            drawn = [np.exp(-((x - at_x) ** 2 + (y - at_y) ** 2) / (2 * 0.04**2)) for at_x, at_y in self._at]
            self._known[cells] = torch.from_numpy(np.stack(drawn).astype(np.float32))
        maps = self._known[cells].expand(len(pixels), -1, -1, -1)
        return [maps] if self._as_stages else maps


def _ours(networks: dict[str, torch.nn.Module], parts: dict[str, bool]) -> Annotate:
    unit = Openpose(OpenposeOptions(**parts))
    with foreign_imports():
        unit.network = unit.build([])
    unit.network.update(networks)
    unit.device = torch.device("cpu")

    def annotate(batch: list[Pixels]) -> list[Pixels]:
        with torch.inference_mode():
            return [one.map for one in unit.work(batch)]

    return annotate


def _theirs(networks: dict[str, torch.nn.Module], parts: dict[str, bool]) -> Annotate:
    with foreign_imports():
        from controlnet_aux import OpenposeDetector
        from controlnet_aux.open_pose.body import Body
        from controlnet_aux.open_pose.face import Face
        from controlnet_aux.open_pose.hand import Hand
    kinds: list[Any] = [kind.__new__(kind) for kind in (Body, Hand, Face)]
    for kind, network in zip(kinds, networks.values(), strict=True):
        kind.model = network
    detector = OpenposeDetector(*kinds)

    def annotate(batch: list[Pixels]) -> list[Pixels]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [np.asarray(detector(image, output_type="np", **parts)) for image in batch]

    return annotate


def _cpu_ms(function: Callable[[], object]) -> float:
    started_s = time.thread_time()
    function()
    return (time.thread_time() - started_s) * 1000


def _report(spent_ms: dict[str, tuple[float, float]], arguments: argparse.Namespace) -> list[str]:
    rounds = f"one thread, {arguments.num_people} people, median of {arguments.num_rounds} interleaved rounds"
    rows = [
        f"| {what} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.3f} |" for what, (ours, theirs) in spent_ms.items()
    ]
    ours, theirs = spent_ms["bodies"]
    verdict = "holds" if ours / theirs <= _LARGEST_SHARE else "FAILS"
    return [
        f"CPU ms per {_SIZE}x{_SIZE} image, {rounds}; the drawings are equal.",
        "",
        f"| | controlnet_aux 0.0.10 | controlmill (batches of {arguments.batch_size}) | share |",
        "| --- | --- | --- | --- |",
        *rows,
        "",
        f"At most a tenth for bodies: {verdict}.",
    ]


if __name__ == "__main__":
    main()
