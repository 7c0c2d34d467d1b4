"""The runs of convergence_study.py: what is trained, one run in this process, and what is left of it in its folder.

A run is training.loop's own, on one rank, with one more callback that draws samples: `truth.jsonl` is what the gain is
compared with. Each held-out row is sampled (DDIM, 8 steps, guidance 2, always the same noise) and read back in two
ways, against its own hint and against another row's: by the overlap (IoU) of the discs, and by the F1 of Canny's edges
without tolerance, as training.controllability has it.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from training.callbacks.base import Callback, RunContext, UpdateMetrics
from training.callbacks.probe import ProbeCallback
from training.controllability import f1

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "tiny_sd" / "base"
NUM_ROWS, SIZE, ROWS_PER_SHARD = 1024, 128, 256
TRUTH, DONE = "truth.jsonl", "done.json"
# samples are drawn at each evaluation from this S on, before at one in so many
_SAMPLED_FROM, _ONE_IN = 0.1, 4
_NUM_SAMPLED = 24


@dataclass(frozen=True)
class Spec:
    """One run."""

    name: str
    what: str
    updates: int
    every: int
    """Updates between evaluations of the probe."""
    options: Mapping[str, Any] = field(default_factory=dict)
    is_unrelated: bool = False
    """Whether every row has the hint of another: a negative control."""
    is_sampled: bool = True
    is_dated: bool = True
    """Whether the rise is sampled at every evaluation; else only now and then, and at the end."""

    def config(self, folder: Path) -> dict[str, Any]:
        """Options of `controlmill train`."""
        return {
            "train_data_dir": str(folder / ("unrelated" if self.is_unrelated else "related") / "dataset"),
            "condition": ["canny"],
            "pretrained_model_name_or_path": str(EXAMPLE),
            "output_dir": str(folder / self.name),
            "resolution": SIZE,
            "train_batch_size": 16,
            "max_train_steps": self.updates,
            "checkpointing_steps": self.updates,
            "checkpoints_total_limit": 1,
            "hint_init": "kaiming",
            "hint_channels": [8, 8, 16, 32],
            "report_to": ["none"],
            "cached_layers": "require",
            "preflight": False,
            "probe_steps": self.every,
            **self.options,
        }


def begin() -> None:
    """Make this process one of a group of one, in which any number of runs can follow each other."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    with socket.create_server(("127.0.0.1", 0)) as free:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "LOCAL_RANK": "0"}
    dist.init_process_group("gloo", rank=0, world_size=1)


def prepare(name: str, folder: Path) -> None:
    """Draw, annotate and encode a dataset: discs with their hints ("related"), or with hints of other images."""
    from controlmill.testing.training_set import give_hints_of_other_images, write_training_set

    if (folder / name / DONE).is_file():
        return
    (folder / name).mkdir(parents=True, exist_ok=True)
    uri = write_training_set(folder / name, num_rows=NUM_ROWS, size=SIZE, rows_per_shard=ROWS_PER_SHARD)
    if name == "unrelated":
        give_hints_of_other_images(uri)
    _encode(uri, str(EXAMPLE))
    (folder / name / DONE).write_text("{}")


def _encode(uri: str, reference: str) -> None:
    from controlmill.config.training_data import EncodeOptions
    from storage.dataset import Dataset
    from training.base_model import BaseModel
    from training.encode_shard import Encoding, MissingLayers, encode_shard
    from training.reader.cache import caption_source

    dataset, base = Dataset.open(uri), BaseModel.load(reference, parts=("vae", "text"))
    options = EncodeOptions(pretrained_model_name_or_path=reference, resolution=SIZE)
    encoding = Encoding(options, base.fingerprint, "tiny_sd", caption_source(dataset, None))
    missing = MissingLayers(dataset, encoding)
    for shard in sorted(dataset.layer("image").committed()):
        encode_shard(dataset, shard, base, encoding, missing.of(shard), lambda _: None)


class Truth(Callback):
    """Samples the held-out rows at evaluations of the probe, and writes how well they obey their hints."""

    def __init__(self, spec: Spec, probe: ProbeCallback | None) -> None:
        self._spec, self._probe = spec, probe
        self._base: Any = None
        self._batch: Any = None
        self.cpu_s = 0.0

    def on_train_start(self, run: RunContext) -> None:
        """Load the parts that training does without, and sample once before the first update."""
        if self._spec.is_sampled and self._probe is not None:
            from training.base_model import BaseModel

            self._base = BaseModel.load(run.config.pretrained_model_name_or_path)
            self._batch = run.reader.held_out(min(_NUM_SAMPLED, run.reader.num_held_out))
            self._take(run)

    def on_update_end(self, run: RunContext, metrics: UpdateMetrics) -> None:
        """Sample where it is time."""
        if self._base is None or self._probe is None or metrics.update % self._spec.every:
            return
        sensitivity = self._probe.detector.evaluations[-1].sensitivity or 0.0
        is_last = metrics.update == run.num_updates
        is_rising = self._spec.is_dated and sensitivity > _SAMPLED_FROM
        if is_last or is_rising or metrics.update // self._spec.every % _ONE_IN == 0:
            self._take(run)

    def _take(self, run: RunContext) -> None:
        from training.sample import Sampling, sample

        started_s, batch = time.process_time(), self._batch
        with run.engine.evaluating():
            pixels_BCHW = sample(
                self._base, run.controlnets, batch.hints, batch.prompts, [""] * len(batch), Sampling(8, 2.0)
            )
        images = ((pixels_BCHW + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
        hints = [(hint[0] > 0.5).numpy().astype(np.uint8) for hint in batch.hints[0]]
        others = [*hints[1:], hints[0]]
        edges, discs = [cv2.Canny(image, 100, 200) for image in images], [disc_of(image) for image in images]
        scores = {
            "f1_own": [f1(one, hint) for one, hint in zip(edges, hints, strict=True)],
            "f1_other": [f1(one, hint) for one, hint in zip(edges, others, strict=True)],
            "iou_own": [overlap(one, filled(hint)) for one, hint in zip(discs, hints, strict=True)],
            "iou_other": [overlap(one, filled(hint)) for one, hint in zip(discs, others, strict=True)],
        }
        self.cpu_s += time.process_time() - started_s
        run.append(TRUTH, {"update": run.update, **scores})


def disc_of(image: np.ndarray) -> np.ndarray:
    """Where a picture differs from its rim (colour distance over half of nearly the largest), bool (H, W)."""
    rim = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    distance = np.linalg.norm(image.astype(float) - np.median(rim, axis=0), axis=-1)
    found: np.ndarray = distance > max(1.0, 0.5 * np.quantile(distance, 0.97))
    return found


def filled(hint: np.ndarray) -> np.ndarray:
    """The disc that an edge map wants: the hull of its edges, bool (H, W)."""
    mask, points = np.zeros(hint.shape, np.uint8), cv2.findNonZero(hint)
    if points is not None:
        cv2.fillConvexPoly(mask, cv2.convexHull(points), 1)
    return mask > 0


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection by union."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def run_here(spec: Spec, folder: Path) -> float:
    """Train one run in this process, leave its costs in done.json; returns the CPU seconds of its loop."""
    import torch

    from controlmill.config import TrainConfig
    from training.loop import Loop
    from training.place import Place
    from training.setup import assembled

    config = TrainConfig.model_validate(spec.config(folder))
    told: list[dict[str, Any]] = []
    place = Place(0, 1, torch.device("cpu"), tell=lambda event: told.append(dict(event)))
    probe = ProbeCallback(config) if config.num_probe_rows else None
    truth = Truth(spec, probe)
    with assembled(config, place, [truth] if probe is None else [probe, truth]) as parts:
        started_s = time.process_time()
        Loop(parts).run_to_end()
        cpu_s = time.process_time() - started_s
    costs = [event for event in told if event.get("event") == "probe_cost"]
    done = {"cpu_s": cpu_s, "sampling_cpu_s": truth.cpu_s, "probe": costs[0] if costs else None}
    (folder / spec.name / DONE).write_text(json.dumps(done))
    return cpu_s
