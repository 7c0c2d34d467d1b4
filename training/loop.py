"""The training loop of one rank, without Ray or Prefect: whoever calls it has initialised torch.distributed."""

import gc
import json
import time
from typing import TYPE_CHECKING, NoReturn

import torch

from controlmill.errors import NonFiniteLossError
from storage.filesystem import redact
from training.callbacks.base import Callback, UpdateMetrics
from training.callbacks.controllability import ControllabilityCallback
from training.callbacks.probe import ProbeCallback
from training.decoder import DecoderTraining
from training.outcome import Outcome
from training.restart import begin_again, latest_attempt
from training.saving import export, save
from training.setup import Assembled, assembled, is_finite

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from controlmill.config import TrainConfig
    from training.batch import Batch
    from training.controllability_run import ReadBack
    from training.place import Place
    from training.step import RowLosses

NON_FINITE = "nonfinite.json"


def callbacks_of(config: "TrainConfig", read_backs: "Mapping[str, ReadBack]") -> list[Callback]:
    """What listens to the run, in the order in which it is told."""
    if not config.num_probe_rows:
        return []
    # behind the probe, whose events it waits for
    confirming = [ControllabilityCallback(config, read_backs)] if config.controllability else []
    return [ProbeCallback(config), *confirming]


def train(config: "TrainConfig", place: "Place", read_backs: "Mapping[str, ReadBack] | None" = None) -> Outcome:
    """Train on this rank until the last update; every rank returns the same.

    A run that `restart: N` ended begins again in the same call, with what it was restarted with.

    Args:
        config: the options.
        place: of this rank.
        read_backs: annotators by condition, for controllability.

    Raises:
        ControlmillError: options, data, weights or checkpoint are not usable, or the loss became NaN.
    """
    while True:
        attempt = latest_attempt(config, place)
        outcome, times = _train_once(attempt, place, read_backs or {})
        if not times:
            return outcome
        config = begin_again(attempt, place, times=times, at_update=outcome.update)
        # engines are full of cycles: their memory is needed for the next one
        gc.collect()


def _train_once(config: "TrainConfig", place: "Place", read_backs: "Mapping[str, ReadBack]") -> tuple[Outcome, int]:
    """How it ended, and what `restart` asked for, 0 for nothing."""
    callbacks = callbacks_of(config, read_backs)
    with assembled(config, place, callbacks) as parts:
        return Loop(parts).run_to_end(), parts.trained.run.adjustments.restart


class Loop:
    """Updates, one after the other."""

    def __init__(self, parts: Assembled) -> None:
        self._parts = parts
        self._trained = parts.trained
        self._run = parts.trained.run
        self._saved_at = -1

    def run_to_end(self) -> Outcome:
        """Go on until the last update or until somebody asked to stop; then save and export."""
        run, callbacks = self._run, self._trained.callbacks
        for callback in callbacks:
            callback.on_train_start(run)
        batches, started_at = iter(run.reader), run.update
        while run.update < run.num_updates and not run.stop_reason and not run.adjustments.restart:
            metrics = self._update(batches)
            run.record(metrics)
            for callback in callbacks:
                callback.on_update_end(run, metrics)
            if run.checkpoint_tag is not None or run.update % run.config.checkpointing_steps == 0:
                self._save()
        # a resumed run that is at its end already is not saved again: other ranks may still be reading that checkpoint
        if self._saved_at != run.update and not (run.update == started_at and self._is_committed()):
            self._save()
        folder = export(self._trained, self._parts.checkpoints)
        for callback in callbacks:
            callback.on_train_end(run)
        if run.stop_reason:
            run.log("stopped", update=run.update, reason=run.stop_reason)
        return Outcome(run.update, run.samples_seen, run.epoch, redact(folder), run.stop_reason)

    def _is_committed(self) -> bool:
        """Whether a checkpoint of this update is in the folder of the run; the same on every rank."""
        run, checkpoints = self._run, self._parts.checkpoints
        return run.place.of_first(lambda: any(one.update == run.update for one in checkpoints.committed()))

    def _save(self) -> None:
        run = self._run
        folder = save(self._trained, self._parts.checkpoints, run.checkpoint_tag or "")
        run.checkpoint_tag = None
        self._saved_at = run.update
        for callback in self._trained.callbacks:
            callback.on_checkpoint(run, folder)

    def _update(self, batches: "Iterator[Batch]") -> UpdateMetrics:
        run, trained = self._run, self._trained
        started_s = time.perf_counter()
        if run.base_is_unlocked and trained.decoder is None:
            trained.decoder = DecoderTraining(run.base, run.config)
            run.log("base_unlocked", update=run.update)
        loss, outcomes = self._backward(batches)
        learning_rate, num_rows = run.learning_rate, run.rows_per_update
        norm = run.engine.step(learning_rate)
        if not is_finite(norm) and not run.engine.step_was_skipped:
            self._stop(f"the gradients of update {run.update + 1} are {norm}", outcomes)
        if trained.decoder is not None:
            trained.decoder.step(run.schedule)
        run.update += 1
        run.announced.clear()
        run.samples_seen += num_rows
        if run.engine.step_was_skipped and run.engine.loss_scale is not None:
            run.log("update_skipped", update=run.update, loss_scale=run.engine.loss_scale.value)
        if trained.average is not None:
            trained.average.update(run.update)
        by_timestep = self._parts.bins.take() if run.update % run.config.log_steps == 0 else None
        seconds = time.perf_counter() - started_s
        return UpdateMetrics(run.update, run.samples_seen, run.epoch, loss, learning_rate, norm, seconds, by_timestep)

    def _backward(self, batches: "Iterator[Batch]") -> "tuple[float, list[RowLosses]]":
        """Gradients of all batches of an update.

        Returns:
            The mean loss over the rows of all ranks, and what it is of on this rank.
        """
        run, step, bins = self._run, self._parts.step, self._parts.bins
        num_batches = run.adjustments.accumulation
        outcomes: list[RowLosses] = []
        sums = torch.zeros(2, len(bins.names), dtype=torch.float64, device=run.device)
        for index in range(num_batches):
            outcome = step.losses(
                next(batches),
                run.engine,
                connect_decoder=run.decoder_is_connected,
                timesteps_alike=run.adjustments.timesteps_alike,
            )
            run.engine.backward(outcome.losses_B.mean() / num_batches, is_last=index == num_batches - 1)
            sums += bins.sums_of(outcome.losses_B, outcome.timesteps_B)
            outcomes.append(outcome)
        sums = run.place.sum(sums).cpu()
        loss = float(sums[0].sum() / sums[1].sum())
        if not is_finite(loss):
            self._stop(f"the loss of update {run.update + 1} is {loss}", outcomes)
        bins.add(sums)
        return loss, outcomes

    def _stop(self, what: str, outcomes: "list[RowLosses]") -> NoReturn:
        """Leave behind which rows did it; every rank must call it."""
        self._write_batch(outcomes)
        raise NonFiniteLossError(self._failure(what))

    def _write_batch(self, outcomes: "list[RowLosses]") -> None:
        """Leave the keys and losses of the rows of all ranks, for whoever looks for the row that did it."""
        run = self._run
        own = [
            {"key": key, "timestep": timestep, "loss": str(loss)}
            for outcome in outcomes
            for key, timestep, loss in zip(
                outcome.keys, outcome.timesteps_B.tolist(), outcome.losses_B.tolist(), strict=True
            )
        ]
        rows = [row for part in run.place.gather(own) for row in part]
        run.write(NON_FINITE, json.dumps({"update": run.update + 1, "rows": rows}, indent=1).encode())

    def _failure(self, what: str) -> str:
        run = self._run
        committed = self._parts.checkpoints.committed()
        last = f"checkpoint-{committed[-1].update}" if committed else "none was written yet"
        return (
            f"{what}: stopped; last good checkpoint: {last}; the rows are in {redact(run.output_dir)}/{NON_FINITE}; "
            "try a lower learning_rate, bf16 instead of fp16, or look at these rows"
        )
