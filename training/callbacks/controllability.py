"""Measures controllability when the probe says that it pays: images, read back, confirm what the gain says."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from controlmill.errors import ControlmillError, ReadBackError
from training.callbacks.base import Callback, RunContext, UpdateMetrics
from training.controllability import SCORES
from training.controllability_cost import cost_in_updates, default_num_rows
from training.controllability_grid import grid, grid_name
from training.controllability_result import Baseline, Controllability
from training.controllability_run import (
    Measured,
    ReadBack,
    Rows,
    Share,
    compared,
    measure,
    measure_real,
    undisturbed,
)
from training.pictures import as_png
from training.sample import Sampling

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.base_model import Residuals

CONTROLLABILITY_LOG = "controllability.jsonl"
_GATES = ("control_settled", "control_following", "already_following")
_MOST_ROWS_AT_ONCE = 4


class ControllabilityCallback(Callback):
    """At the start, at events of the probe, at the end, and every `controllability_steps` updates; behind the probe."""

    name = "controllability"

    def __init__(self, config: "TrainConfig", read_backs: Mapping[str, ReadBack]) -> None:
        """Take over the options.

        Args:
            config: of the run.
            read_backs: the annotators of the conditions' layers that can be had.
        """
        self._config = config
        self._read_backs = {layer: read_backs[layer] for layer in config.condition if layer in read_backs}
        self._num_rows = 0
        self._baseline: Baseline | None = None
        self._keys: list[str] = []
        self._told: dict[str, Any] = {}
        self._seconds = self._train_s = 0.0

    def on_train_start(self, run: RunContext) -> None:
        """Say what is going to happen, or why nothing is, and measure before the first update."""
        why_not = self._why_not(run)
        if why_not:
            run.log("controllability_off", reason=why_not)
            return
        wanted, most = self._config.num_controllability_rows, run.reader.num_held_out
        costs = self._sampling(), self._config.rows_per_update
        self._num_rows = default_num_rows(most, *costs, run.num_updates) if wanted is None else min(wanted, most)
        each = cost_in_updates(self._num_rows, *costs)
        every = self._config.controllability_steps
        run.log(
            "controllability",
            rows=self._num_rows,
            steps=self._config.controllability_num_steps,
            measures=[f"{layer}_{SCORES[one.score].name}" for layer, one in self._read_backs.items()],
            when="start, control_following, control_settled, end" + (f", every {every} updates" if every else ""),
            estimated_updates_each=round(each, 1),
        )
        if run.update == 0:
            self._measure(run, "start")

    def on_update_end(self, run: RunContext, metrics: UpdateMetrics) -> None:
        """Measure where the probe has announced something, or where it is time."""
        self._train_s += metrics.seconds
        every = self._config.controllability_steps
        announced = next((name for name in _GATES if name in run.announced), None)
        if announced is not None:
            self._measure(run, announced)
        elif run.is_over:
            self._measure(run, "end")
        elif every is not None and run.update % every == 0:
            self._measure(run, "interval")

    def on_train_end(self, run: RunContext) -> None:
        """Say what the measurements cost."""
        if self._num_rows:
            share = self._seconds / self._train_s if self._train_s else 0.0
            run.log("controllability_cost", seconds=round(self._seconds, 2), share_of_training=f"{share:.1%}")

    def summary(self) -> str:
        """What samples say of the run."""
        if self._told.get("confirmed") is None:
            return ""
        told, verb = self._told, "confirm" if self._told["confirmed"] else "do not confirm"
        return (
            f"Generated images {verb} it: {told['measure']} {told['mean_own']:.2f} at update {told['update']:,}, "
            f"{told['off']:.2f} without control, {told['real']:.2f} of the real images."
        )

    def state_dict(self) -> dict[str, Any]:
        """What does not change and need not be measured again; the same on every rank."""
        baseline = None if self._baseline is None else self._baseline.to_json()
        return {"keys": self._keys, "baseline": baseline, "told": self._told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._keys, self._told = list(state["keys"]), dict(state["told"])
        self._baseline = None if state["baseline"] is None else Baseline.from_json(state["baseline"])

    def _why_not(self, run: RunContext) -> str:
        """Why nothing is measured, the same on every rank; empty where all is there."""
        if not self._read_backs:
            return f"no annotator with a score is known for {', '.join(self._config.condition)}"
        if run.reader.num_held_out < 2:
            return f"{run.reader.num_held_out} rows are held out, at least 2 are needed: the dataset is too small"
        trouble = ""
        try:
            for read_back in self._read_backs.values():
                read_back.check()
        except ControlmillError as error:
            trouble = str(error)
        return trouble if _any(run, trouble) else ""

    def _sampling(self) -> Sampling:
        config = self._config
        return Sampling(config.controllability_num_steps, config.controllability_guidance_scale, seed=config.seed)

    def _measure(self, run: RunContext, because: str) -> None:
        if not self._num_rows:
            return
        started_s = time.perf_counter()
        try:
            with undisturbed(run.device), run.engine.evaluating():
                rows = Rows.of(run.reader, self._config.condition, self._num_rows, self._config.seed)
                measured = self._now(run, rows)
                found = compared(measured, self._with_baseline(run, rows, measured), self._read_backs)
        except ReadBackError as error:
            # the annotator's trouble is no reason to end a run of days
            run.log("controllability_off", reason=f"{error}; nothing more is measured")
            self._num_rows = 0
            return
        seconds = time.perf_counter() - started_s
        self._seconds += seconds
        picture = grid(rows, measured)
        run.write(grid_name(run.update), as_png(picture))
        run.log_image("controllability/samples", picture)
        for one in found:
            self._tell(run, one, because, seconds)

    def _now(self, run: RunContext, rows: Rows) -> Measured:
        return measure(run.base, _control(run), rows, self._read_backs, self._sampling(), self._share(run))

    def _with_baseline(self, run: RunContext, rows: Rows, now: Measured) -> Baseline:
        keys = list(rows.batch.keys)
        if self._baseline is None or self._keys != keys or self._baseline.real.keys() != self._read_backs.keys():
            share = self._share(run)
            starts_silent = self._config.connection_init == "zero" and not self._config.controlnet_model_name_or_path
            # zero convolutions that were never trained add nothing: these are the base's own images already
            off = (
                now
                if run.update == 0 and starts_silent
                else measure(run.base, None, rows, self._read_backs, self._sampling(), share)
            )
            real = measure_real(run.base, rows, self._read_backs, share)
            self._baseline, self._keys = Baseline(off.readings, real), keys
        return self._baseline

    def _share(self, run: RunContext) -> Share:
        size = min(self._config.train_batch_size, _MOST_ROWS_AT_ONCE)
        return Share(run.rank, run.world_size, size, run.sum_over_ranks, run.autocast)

    def _tell(self, run: RunContext, found: Controllability, because: str, seconds: float) -> None:
        head = {"update": run.update, "samples_seen": run.samples_seen, "epoch": run.epoch}
        line = found.to_json()
        run.append(CONTROLLABILITY_LOG, {**head, "because": because, **line, "seconds": seconds})
        for name, value in (("own", line["mean_own"]), ("other", line["mean_other"]), ("lift", line["lift"])):
            run.log_scalar(f"controllability/{found.measure}_{name}", value)
        numbers = {"own": line["mean_own"], "other": line["mean_other"], "off": line["off"], "lift": line["lift"]}
        is_gated = because in _GATES or "already_following" in run.announced or (because == "end" and self._told)
        if is_gated and found.confirmed is not None:
            self._told = {**line, **head}
            confirmed = {"confirmed": found.confirmed, "because": because, "measure": found.measure}
            run.announce({"event": "control_confirmed", **head, **confirmed, **numbers})
        run.log(
            "controllability_measured",
            update=run.update, because=because, measure=found.measure, **numbers, real=found.real,
            confirmed=found.confirmed, seconds=round(seconds, 2),
        )  # fmt: skip


def _control(run: RunContext) -> Any:
    """The ControlNets as they act in training: in its precision, and with the decoder connected where it is."""

    def control(*inputs: Any) -> "Residuals":
        with run.autocast():
            residuals = run.engine(*inputs)
        if run.decoder_is_connected:
            return residuals
        return residuals._replace(down=tuple(torch.zeros_like(one) for one in residuals.down))

    return control


def _any(run: RunContext, trouble: str) -> bool:
    """Whether one of the ranks has trouble."""
    return bool(run.sum_over_ranks(torch.tensor([float(bool(trouble))], device=run.device)).item())
