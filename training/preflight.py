"""What is checked before the first update: data, hints, prompts, gradients, and what the run will take.

Shapes: B batch, C channels, H W height and width.
"""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from controlmill.errors import PreflightError
from training.estimate import Cost, memory_bytes
from training.objective import Objective
from training.reader.reader import ShardReader
from training.step import Step

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.base_model import BaseModel, Residuals
    from training.batch import Batch
    from training.controlnet import ControlNets
    from training.place import Place

_NUM_ROWS = 8
_MOSTLY = 0.5
_REPEAT_BELOW_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question."""

    name: str
    said: str
    is_wrong: bool = False
    """Whether training would be in vain."""


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
    findings = [*check_hints(rows), *check_pixels(rows), *check_prompts(rows), check_alignment(rows)]
    findings.append(_channel_order(controlnets))
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


def check_hints(rows: "Batch") -> list[Finding]:
    """Hints are in [0, 1], fit the pixels, and show something."""
    findings = []
    for hint_BCHW in rows.hints:
        low, high = float(hint_BCHW.min()), float(hint_BCHW.max())
        spread_B = (hint_BCHW.flatten(1).amax(1) - hint_BCHW.flatten(1).amin(1)).double()
        num_flat = int((spread_B == 0).sum())
        if low < 0 or high > 1:
            findings.append(Finding("hint range", f"{low:g} to {high:g} instead of 0 to 1", is_wrong=True))
        elif num_flat == len(rows):
            findings.append(Finding("hints", f"none of {num_flat} shows anything: all pixels are alike", is_wrong=True))
        else:
            findings.append(Finding("hints", f"{low:g} to {high:g}, {num_flat} of {len(rows)} show nothing"))
    return findings


def check_pixels(rows: "Batch") -> list[Finding]:
    """Pixels are in [-1, 1], and hints have their size."""
    pixels_BCHW = rows.pixels_BCHW
    if pixels_BCHW is None:
        return []
    low, high = float(pixels_BCHW.min()), float(pixels_BCHW.max())
    findings = [Finding("pixels", f"{low:g} to {high:g}", is_wrong=low < -1 or high > 1 or low >= 0)]
    for hint_BCHW in rows.hints:
        if hint_BCHW.shape[-2:] != pixels_BCHW.shape[-2:]:
            sizes = f"hints are {tuple(hint_BCHW.shape[-2:])}, images {tuple(pixels_BCHW.shape[-2:])}"
            findings.append(Finding("size", sizes, is_wrong=True))
    return findings


def check_prompts(rows: "Batch") -> list[Finding]:
    """Prompts are not empty before any is dropped."""
    num_empty = sum(not prompt.strip() for prompt in rows.prompts)
    said = f"{num_empty} of {len(rows)} are empty before any is dropped"
    if num_empty == len(rows):
        return [Finding("prompts", f"{said}; run `controlmill caption`, or give caption_column", is_wrong=True)]
    return [Finding("prompts", said)]


def check_alignment(rows: "Batch") -> Finding:
    """Whether edges of hints lie on edges of their own images rather than on those of other rows.

    Poses and the like need not; so this only tells, and stops nothing.
    """
    if rows.pixels_BCHW is None or len(rows) < 2:
        return Finding("alignment", "not looked at")
    image_edges_BN = _edges(rows.pixels_BCHW)
    hint_edges_BN = _edges(rows.hints[0])
    similar_BB = image_edges_BN @ hint_edges_BN.T
    own = float(similar_BB.diagonal().mean())
    others = float((similar_BB.sum() - similar_BB.diagonal().sum()) / (len(rows) * (len(rows) - 1)))
    verdict = "" if own > others else ": hints fit their images no better than those of other rows; look at some"
    return Finding("alignment", f"edges agree {own:.2f} with the own image, {others:.2f} with others{verdict}")


def _edges(pixels_BCHW: Tensor) -> Tensor:
    """Where brightness changes, as vectors of length 1 around their mean."""
    grey_BHW = pixels_BCHW.float().mean(1)
    rows_BHW = (grey_BHW[:, 1:, :-1] - grey_BHW[:, :-1, :-1]).abs()
    columns_BHW = (grey_BHW[:, :-1, 1:] - grey_BHW[:, :-1, :-1]).abs()
    edges_BN = (rows_BHW + columns_BHW).flatten(1)
    return torch.nn.functional.normalize(edges_BN - edges_BN.mean(1, keepdim=True), dim=1)


def _channel_order(controlnets: "ControlNets") -> Finding:
    orders = {str(getattr(net.config, "controlnet_conditioning_channel_order", "rgb")) for net in controlnets.nets}
    said = f"hints are RGB, the ControlNet takes {', '.join(sorted(orders))}"
    return Finding("channel order", said, is_wrong=not orders <= {"rgb", "bgr"})


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
            cost = self._cost()
            found = [self._gradients(), *self._frozen()]
        finally:
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
