"""The probe: the losses of held-out rows with their own hint, with another row's, and with none.

Image, noise and timestep of a row stay the same for the whole run, so that a difference is due to the hint. An
evaluation draws from (seed, update) only, keeps no gradient, and leaves networks, generators and data order as they
are: a run with a probe trains bit for bit as one without.
Legend: N rows of the probe, T its timesteps, B rows of a chunk, C channels, H W latent height and width.
"""

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from training.gain import Evaluation
from training.probe_rows import Chunk, ProbeRows, chunk_noises, derangement

if TYPE_CHECKING:
    from training.base_model import BaseModel, Encoded, Residuals

Control = Callable[..., "Residuals"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one evaluation measured, the same on every rank."""

    timesteps: tuple[int, ...]
    right_NT: Tensor
    wrong_NT: Tensor
    none_NT: Tensor
    """float64 on the CPU."""
    sensitivity: float
    """S = ||residuals(hint) - residuals(other hint)|| / ||residuals(hint)||, over all rows; 0 while there are none."""
    residual_norms: dict[str, float]
    """Root mean square of each residual, per element: "down.0" …, "middle"."""
    seconds: float
    """Wall-clock time on this rank."""

    def evaluation(self, update: int, samples_seen: int, epoch: float) -> Evaluation:
        """For the detector."""
        right, wrong = (tuple(map(tuple, losses.tolist())) for losses in (self.right_NT, self.wrong_NT))
        return Evaluation(update, right, wrong, _finite(self.sensitivity), samples_seen, epoch)

    def to_json(self) -> dict[str, Any]:
        """The fields of a line of `probe.jsonl` that this measured; null for what is not finite."""
        return {
            "timesteps": list(self.timesteps),
            "loss_right": _plain(self.right_NT),
            "loss_wrong": _plain(self.wrong_NT),
            "loss_none": _plain(self.none_NT),
            "residual_sensitivity": _finite(self.sensitivity),
            "residual_norms": {name: _finite(one) for name, one in self.residual_norms.items()},
        }


class Probe:
    """Evaluates a ControlNet on the rows of the probe; every rank calls it at the same updates."""

    def __init__(
        self,
        rows: ProbeRows,
        base: "BaseModel",
        *,
        fractions: tuple[float, ...],
        seed: int,
        autocast: Callable[[], AbstractContextManager[object]],
        sum_over_ranks: Callable[[Tensor], Tensor],
    ) -> None:
        """Put together what stays the same.

        Args:
            rows: of this rank.
            base: the frozen model.
            fractions: timesteps as fractions of the base's schedule.
            seed: of noise and derangements.
            autocast: the precision that the run trains in.
            sum_over_ranks: adds up a tensor over all ranks; the identity where there is one.
        """
        self._rows = rows
        self._base = base
        self._seed = seed
        self._autocast = autocast
        self._sum = sum_over_ranks
        self.timesteps = tuple(
            min(round(one * base.num_train_timesteps), base.num_train_timesteps - 1) for one in fractions
        )
        self._none_NT: Tensor | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Of the rows."""
        return self._rows.keys

    @torch.no_grad()
    def evaluate(
        self, control: Control, update: int, *, connect_decoder: bool = True, base_changes: bool = False
    ) -> ProbeResult:
        """Measure.

        Args:
            control: called as the ControlNets; in evaluation mode.
            update: chooses the wrong hints.
            connect_decoder: whether the decoder's skip connections get their residuals.
            base_changes: whether the base's decoder is trained: the losses without control change then.
        """
        started_s = time.perf_counter()
        others = derangement(len(self._rows.keys), self._seed, update)
        sums = _Sums(len(self._rows.keys), len(self.timesteps), with_none=self._none_NT is None or base_changes)
        for chunk, number, timestep, noise_BCHW in chunk_noises(self._rows, self.timesteps, self._seed):
            timesteps_B = torch.full((len(chunk.rows),), timestep, dtype=torch.int64, device=noise_BCHW.device)
            noisy_BCHW = self._base.add_noise(chunk.latents_BCHW, noise_BCHW, timesteps_B)
            target_BCHW = self._base.target(chunk.latents_BCHW, noise_BCHW, timesteps_B)
            with self._autocast():
                right, wrong = (
                    _kept(control(noisy_BCHW, timesteps_B, chunk.prompts, hints, chunk.time_ids_BT), connect_decoder)
                    for hints in (self._rows.hints_of(chunk), self._rows.hints_of(chunk, others))
                )
            with self._autocast() if self._base.unet.dtype == torch.float32 else nullcontext():
                encoded = self._base.encode(noisy_BCHW, timesteps_B, chunk.prompts, chunk.time_ids_BT)
                sums.add_losses("right", chunk, number, self._losses(encoded, right, target_BCHW))
                sums.add_losses("wrong", chunk, number, self._losses(encoded, wrong, target_BCHW))
                if sums.with_none:
                    sums.add_losses("none", chunk, number, self._losses(encoded, None, target_BCHW))
            sums.add_residuals(chunk, right, wrong)
        return self._result(sums, started_s)

    def _losses(self, encoded: "Encoded", residuals: "Residuals | None", target_BCHW: Tensor) -> Tensor:
        """Squared error of each row, whatever loss the run trains with."""
        predicted_BCHW = self._base.decode(encoded, residuals)
        return (predicted_BCHW.float() - target_BCHW.float()).square().flatten(1).mean(1)

    def _result(self, sums: "_Sums", started_s: float) -> ProbeResult:
        device = self._base.device
        losses = {name: self._sum(one.to(device)).cpu() for name, one in sums.losses.items()}
        self._none_NT = losses.get("none", self._none_NT)
        if self._none_NT is None:
            raise RuntimeError("the first evaluation measures the losses without control")
        squares = self._sum(sums.squares.to(device)).cpu()
        changed, size = squares[:, 0].sum().item(), squares[:, 1].sum().item()
        names = [*(f"down.{number}" for number in range(len(squares) - 1)), "middle"]
        norms = (squares[:, 1] / squares[:, 2].clamp(min=1)).sqrt().tolist()
        return ProbeResult(
            self.timesteps,
            losses["right"],
            losses["wrong"],
            self._none_NT,
            math.sqrt(changed / size) if size else 0.0,
            dict(zip(names, norms, strict=True)),
            time.perf_counter() - started_s,
        )


class _Sums:
    """What one rank adds to an evaluation."""

    def __init__(self, num_rows: int, num_timesteps: int, *, with_none: bool) -> None:
        self.with_none = with_none
        names = ("right", "wrong", "none") if with_none else ("right", "wrong")
        self.losses = {name: torch.zeros(num_rows, num_timesteps, dtype=torch.float64) for name in names}
        self.squares = torch.zeros(0)
        """Per residual: squared difference between the two hints, squared size, number of elements."""

    def add_losses(self, name: str, chunk: Chunk, timestep: int, losses_B: Tensor) -> None:
        self.losses[name][chunk.rows[chunk.is_own], timestep] = losses_B.double().cpu()[chunk.is_own]

    def add_residuals(self, chunk: Chunk, right: "Residuals", wrong: "Residuals") -> None:
        own = chunk.is_own.to(right.middle.device)
        added = []
        for one, other in zip((*right.down, right.middle), (*wrong.down, wrong.middle), strict=True):
            kept, changed = one[own].double(), other[own].double()
            added += [(kept - changed).square().sum(), kept.square().sum(), kept.new_tensor(kept.numel())]
        squares = torch.stack(added).view(-1, 3)
        self.squares = squares + self.squares if len(self.squares) else squares


def _kept(residuals: "Residuals", connect_decoder: bool) -> "Residuals":  # noqa: FBT001 passed on
    if connect_decoder:
        return residuals
    return residuals._replace(down=tuple(torch.zeros_like(one) for one in residuals.down))


def _plain(losses_NT: Tensor) -> list[list[float | None]]:
    return [[_finite(one) for one in row] for row in losses_NT.tolist()]


def _finite(value: float) -> float | None:
    """None where fp16 ran over, for example on a wrong hint."""
    return value if math.isfinite(value) else None
