"""What is checked before the first update: data, hints, prompts, gradients, and what the run will take.

Shapes: B batch, C channels, H W height and width.
"""

import time
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from controlmill.errors import PreflightError
from storage.filesystem import one_line
from training.estimate import Cost, memory_bytes
from training.objective import Objective
from training.preflight_rows import (
    Finding,
    check_alignment,
    check_channel_order,
    check_hints,
    check_layers,
    check_pixels,
    check_prompts,
)
from training.reader.reader import ShardReader
from training.step import Step

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.base_model import BaseModel, Residuals
    from training.batch import Batch
    from training.controlnet import ControlNets
    from training.place import Place

_NUM_ROWS = 8
_REPEAT_BELOW_S = 10.0


def preflight(
    config: "TrainConfig", place: "Place", base: "BaseModel", controlnets: "ControlNets", reader: ShardReader
) -> list[Finding]:
    """Look at some rows and one backward pass; nothing is changed and no row is used up.

    Args:
        config: the options.
        place: of this rank; the others need not take part.
        base: with its UNet, on the device.
        controlnets: as training begins with them, not yet in DeepSpeed's hands.
        reader: of this rank; its next batch is looked at, and comes again.
    """
    rows = _rows(config)
    kinds = reader.hint_kinds
    findings = [*check_hints(rows), *check_layers(rows, kinds), *check_pixels(rows), *check_prompts(rows)]
    findings += [check_alignment(rows, kinds[0]), check_channel_order(controlnets, kinds)]
    if any(finding.is_wrong for finding in findings):
        return findings
    probe = _Probe(config, place, base, controlnets, reader)
    return [*findings, *probe.findings()]


def refuse_if_wrong(findings: list[Finding]) -> None:
    """Raise `PreflightError` that names everything that is wrong."""
    wrong = [f"{finding.name}: {finding.said}" for finding in findings if finding.is_wrong]
    if wrong:
        raise PreflightError(f"preflight: {'; '.join(wrong)} (no-preflight trains all the same)")


def _rows(config: "TrainConfig") -> "Batch":
    """Some rows with their pixels and all of their prompts."""
    changed = {"cached_layers": "ignore", "proportion_empty_prompts": 0.0}
    options = config.model_copy(update=changed)
    with ShardReader(options, batch_size=_NUM_ROWS, seed=config.seed, num_probe_rows=config.num_probe_rows) as reader:
        return next(iter(reader))


class _Probe:
    """One forward and backward pass of the real networks on a real batch."""

    def __init__(
        self,
        config: "TrainConfig",
        place: "Place",
        base: "BaseModel",
        controlnets: "ControlNets",
        reader: ShardReader,
    ) -> None:
        self._config, self._place, self._base, self._controlnets = config, place, base, controlnets
        self._batch = reader.peek()
        self._samples_per_epoch = reader.samples_per_epoch
        objective = Objective(config, alphas_cumprod_T=base.alphas_cumprod, prediction_type=base.prediction_type)
        self._step = Step(
            base,
            objective,
            seed=config.seed,
            device=place.device,
            autocast=lambda: place.autocast(config.mixed_precision),
            rounds=reader.rounds,
        )

    def findings(self) -> list[Finding]:
        """What the pass shows; gradients are forgotten again."""
        try:
            return self._findings()
        except torch.OutOfMemoryError as error:
            said = f"a batch of {len(self._batch)} does not fit into the GPU: {one_line(error)}"
            return [Finding("memory", f"{said}; lower train_batch_size, or give gradient_checkpointing", is_wrong=True)]
        finally:
            self._controlnets.zero_grad(set_to_none=True)

    def _findings(self) -> list[Finding]:
        cost = self._cost()
        found = [self._gradients(), *self._frozen()]
        self._controlnets.zero_grad(set_to_none=True)
        if self._is_fresh:
            found.insert(0, self._first_output())
        return [*found, *self._estimates(cost)]

    @property
    def _is_fresh(self) -> bool:
        options = self._config
        return options.controlnet_model_name_or_path is None and options.connection_init == "zero"

    def _cost(self) -> Cost:
        if self._place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with FlopCounterMode(display=False) as counter:
            seconds = self._pass()
        if seconds < _REPEAT_BELOW_S:
            seconds = self._pass()
        peak = torch.cuda.max_memory_allocated() if self._place.device.type == "cuda" else None
        return Cost(counter.get_total_flops() / len(self._batch), seconds / len(self._batch), peak)

    def _pass(self) -> float:
        started_s = time.perf_counter()
        loss = self._step.losses(self._batch, self._controlnets).losses_B.mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if self._place.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started_s

    @torch.no_grad()
    def _first_output(self) -> Finding:
        with_control = self._step.losses(self._batch, self._controlnets).losses_B
        without = self._step.losses(self._batch, self._no_control).losses_B
        is_same = torch.equal(with_control, without)
        said = "the first output is the base's, bit by bit" if is_same else "the first output is not the base's"
        return Finding("step 0", said, is_wrong=not is_same)

    def _no_control(self, *inputs: Any) -> "Residuals":
        residuals: Residuals = self._controlnets(*inputs)
        zeros = tuple(torch.zeros_like(down_BCHW) for down_BCHW in residuals.down)
        return residuals._replace(down=zeros, middle=torch.zeros_like(residuals.middle))

    def _gradients(self) -> Finding:
        connections = self._controlnets.groups()["connections"]
        reached = [name for name, value in connections.items() if value.grad is not None and bool(value.grad.any())]
        said = f"reach {len(reached)} of {len(connections)} tensors of the zero convolutions"
        return Finding("gradients", said, is_wrong=not reached)

    def _frozen(self) -> list[Finding]:
        touched = [name for name, value in self._base.unet.named_parameters() if value.grad is not None]
        if not touched:
            return [Finding("base", "no gradient reaches its weights")]
        return [Finding("base", f"gradients reach {len(touched)} of its weights, as {touched[0]}", is_wrong=True)]

    def _estimates(self, cost: Cost) -> list[Finding]:
        config = self._config
        updates = (
            config.max_train_steps or config.additional_train_steps or config.updates_of_epochs(self._samples_per_epoch)
        )
        hours = cost.seconds_per_image * config.rows_per_update / config.num_workers * updates / 3600
        needed, available = memory_bytes(config, self._base, self._controlnets, cost, self._place.device)
        fits = available is None or needed <= available
        of = "" if available is None else f" of {available / 2**30:,.1f}"
        activations = "" if cost.peak_bytes is not None else ", activations apart"
        return [
            Finding("FLOP", f"{cost.flops_per_image / 1e9:,.1f} GFLOP per image"),
            Finding("time", f"about {hours:,.2f} hours for {updates:,} updates, data and optimizer apart"),
            Finding("memory", f"about {needed / 2**30:,.2f}{of} GiB per worker{activations}", is_wrong=not fits),
        ]
