"""How the training loop is extended: callbacks, one file each, told by every rank at the same update."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    import torch

    from controlmill.config import TrainConfig
    from storage.stored_image import Pixels
    from training.base_model import BaseModel
    from training.controlnet import ControlNets
    from training.engine import Engine
    from training.reader.reader import ShardReader


@dataclass(frozen=True, slots=True)
class UpdateMetrics:
    """What is known after one update, the same on every rank."""

    update: int
    """Optimizer steps done, this one included: the first is 1."""
    samples_seen: int
    """Rows the run has trained on, over all ranks."""
    epoch: float
    """Epochs done, with the part of the present one."""
    loss: float
    """Mean over the rows of the update, over all ranks."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    seconds: float
    """Wall-clock time of the update on this rank."""
    loss_by_timestep: Mapping[str, float] | None = None
    """Mean loss of each timestep range since the last such update ("0-99": 0.31); None between log intervals."""


class RunContext(Protocol):
    """The run as a callback sees it. Read it, and ask for things; nothing here is to be set from a callback."""

    @property
    def config(self) -> "TrainConfig":
        """The options."""

    @property
    def base(self) -> "BaseModel":
        """The frozen model."""

    @property
    def controlnets(self) -> "ControlNets":
        """The bare module: its parameters are partitioned under ZeRO-3, see `Engine.gathered`."""

    @property
    def engine(self) -> "Engine":
        """Called as `controlnets` it gives residuals under any ZeRO stage; every rank must call it."""

    @property
    def reader(self) -> "ShardReader":
        """Where the rows come from, those held out for the probe too."""

    @property
    def rank(self) -> int:
        """Of this worker."""

    @property
    def world_size(self) -> int:
        """Number of workers."""

    @property
    def device(self) -> "torch.device":
        """Of this rank."""

    @property
    def output_dir(self) -> str:
        """Folder of the run."""

    @property
    def update(self) -> int:
        """Updates done."""

    @property
    def samples_seen(self) -> int:
        """Rows trained on, over all ranks."""

    @property
    def epoch(self) -> float:
        """Epochs done, with the part of the present one."""

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""

    @property
    def is_over(self) -> bool:
        """Whether no update comes any more, as far as callbacks before this one have asked."""

    @property
    def decoder_is_connected(self) -> bool:
        """Whether the skip connections get their residuals in the update that comes."""

    @property
    def base_is_unlocked(self) -> bool:
        """Whether the base's decoder is trained in the update that comes."""

    @property
    def announced(self) -> Sequence[str]:
        """Names of the events that callbacks before this one have announced at this update."""

    def log(self, event: str, **fields: object) -> None:
        """Write an event line (rank 0; silent on the others)."""

    def announce(self, record: Mapping[str, Any]) -> None:
        """Write an event down for good: `RUN/events.jsonl`, the log, TensorBoard. Every rank must announce alike.

        `record` holds "event", its name, and "update"; callbacks after this one find the name in `announced`.
        """

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add a line to `RUN/<name>` (rank 0; ignored on the others), for example to "probe.jsonl".

        `record` must hold an integer "update": when the run goes on from a checkpoint, lines after it are dropped.
        """

    def request_stop(self, reason: str) -> None:
        """End the run after this update, with a final checkpoint and export. Every rank must ask alike."""

    def request_checkpoint(self, tag: str) -> None:
        """Write a checkpoint after this update and keep it under `tag` beyond the limit. Every rank must ask alike."""

    def request_accumulation(self, num_batches: int) -> None:
        """Take so many batches per update from the next update on. Every rank must ask alike."""

    def request_learning_rate_factor(self, factor: float) -> None:
        """Multiply what the schedule says by `factor` from the next update on. Every rank must ask alike."""

    def request_connect_decoder(self) -> None:
        """Connect the decoder from the next update on, where `mid_until_step` or `only_mid_control` keeps it apart."""

    def request_unlock_base(self) -> None:
        """Train the base's decoder too from the next update on. Every rank must ask alike."""

    def request_timesteps_alike(self) -> None:
        """Draw all timesteps alike from the next update on. Every rank must ask alike."""

    def request_restart(self, times: int) -> None:
        """End after this update, and begin again from 0 with `times` the batches per update. Every rank must ask so."""

    def write(self, name: str, data: bytes) -> None:
        """Write the whole file `RUN/<name>` (rank 0; ignored on the others)."""

    def log_scalar(self, name: str, value: float) -> None:
        """Send one number to TensorBoard and wandb, at the present update (rank 0; ignored on the others)."""

    def log_image(self, name: str, pixels: "Pixels") -> None:
        """Send one RGB uint8 picture (height, width, 3) there."""

    def sum_over_ranks(self, values: "torch.Tensor") -> "torch.Tensor":
        """The sum of a tensor over all ranks, in place; every rank must call it."""

    def autocast(self) -> "AbstractContextManager[object]":
        """The precision that the run trains in."""


class Callback:
    """Base of what listens to a run. A subclass overrides what it needs; every method is called on every rank."""

    name = ""
    """Key of its state in a checkpoint; empty where it has none."""

    def on_train_start(self, run: RunContext) -> None:
        """Before the first update of this process, after a checkpoint was loaded."""

    def on_update_end(self, run: RunContext, metrics: UpdateMetrics) -> None:
        """After every update."""

    def on_checkpoint(self, run: RunContext, folder: str) -> None:
        """After a checkpoint was committed to `folder`."""

    def on_train_end(self, run: RunContext) -> None:
        """After the last update and the export; not called where the run failed."""

    def summary(self) -> str:
        """One sentence for the model card; empty for none."""
        return ""

    def state_dict(self) -> dict[str, Any]:
        """What it needs to go on, as JSON holds it; the same on every rank."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
