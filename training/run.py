"""The run as it stands: what is counted, what callbacks asked for, and who is told."""

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from controlmill.errors import ConfigError
from training.metrics import EVENTS_LOG, METRICS, RunFiles, Tracker, as_record, trackers
from training.optimizer import learning_rate_factor
from training.restart import read_restart

if TYPE_CHECKING:
    import torch

    from controlmill.config import TrainConfig
    from storage.stored_image import Pixels
    from training.base_model import BaseModel
    from training.callbacks.base import Callback, UpdateMetrics
    from training.controlnet import ControlNets
    from training.engine import Engine
    from training.place import Place
    from training.reader.reader import ShardReader


@dataclass
class Adjustments:
    """What callbacks changed about the recipe; part of every checkpoint."""

    accumulation: int
    """Batches of each worker in an update."""
    learning_rate_factor: float = 1.0
    decoder_connected: bool = False
    """Before `mid_until_step` says so, or in spite of `only_mid_control`."""
    base_unlocked: bool = False
    """Before `unlock_at_step` says so."""
    timesteps_alike: bool = False
    """All timesteps are drawn alike, as `timestep_bias_until` asked."""
    restart: int = 0
    """The run ends here, to begin again with so many times the batches per update; 0 where it does not."""


class Run:
    """State of one training run on one rank; what callbacks see of it is `training.callbacks.base.RunContext`."""

    def __init__(
        self,
        config: "TrainConfig",
        place: "Place",
        *,
        base: "BaseModel",
        controlnets: "ControlNets",
        engine: "Engine",
        reader: "ShardReader",
    ) -> None:
        self.config = config
        self.place = place
        self.base = base
        self.controlnets = controlnets
        self.engine = engine
        self.reader = reader
        self.output_dir = config.output_dir
        self.update = 0
        self.samples_seen = 0
        self.adjustments = Adjustments(config.gradient_accumulation_steps)
        self.num_updates = config.max_train_steps or config.updates_of_epochs(reader.samples_per_epoch)
        self.stop_reason = ""
        self.checkpoint_tag: str | None = None
        self.announced: list[str] = []
        self._factor = learning_rate_factor(config, self.num_updates)
        self._files: RunFiles | None = None
        self._trackers: list[Tracker] = []

    @property
    def rank(self) -> int:
        """Of this worker."""
        return self.place.rank

    @property
    def world_size(self) -> int:
        """Number of workers."""
        return self.place.world_size

    @property
    def device(self) -> "torch.device":
        """Of this rank."""
        return self.place.device

    @property
    def epoch(self) -> float:
        """Epochs done, with the part of the present one."""
        return self.reader.epochs

    @property
    def rows_per_update(self) -> int:
        """Over all ranks, as they are now."""
        return self.config.train_batch_size * self.adjustments.accumulation * self.world_size

    @property
    def schedule(self) -> float:
        """The factor on the learning rates of the update that comes."""
        return self._factor(self.update) * self.adjustments.learning_rate_factor

    @property
    def learning_rate(self) -> float:
        """Of the update that comes."""
        return self.config.peak_learning_rate * self.schedule

    @property
    def is_over(self) -> bool:
        """Whether no update comes any more."""
        return self.update >= self.num_updates or bool(self.stop_reason)

    @property
    def decoder_is_connected(self) -> bool:
        """Whether the skip connections get their residuals in the update that comes."""
        by_plan = not self.config.only_mid_control and self.update >= self.config.mid_until_step
        return self.adjustments.decoder_connected or by_plan

    @property
    def base_is_unlocked(self) -> bool:
        """Whether the base's decoder is trained in the update that comes."""
        at = self.config.unlock_at_step
        return not self.config.sd_locked or self.adjustments.base_unlocked or (at is not None and self.update >= at)

    def sum_over_ranks(self, values: "torch.Tensor") -> "torch.Tensor":
        """The sum over all ranks, in place."""
        return self.place.sum(values)

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the run."""
        return self.place.autocast(self.config.mixed_precision)

    def log(self, event: str, **fields: object) -> None:
        """Write an event line, here and to whoever watches."""
        if self.place.is_first:
            self.place.tell({"event": event, **fields})

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add a line to a file of the run."""
        if self._files is not None:
            self._files.append(name, record)

    def announce(self, record: Mapping[str, Any]) -> None:
        """Write an event down, say it, and remember it for the callbacks that come."""
        name = record["event"]
        self.append(EVENTS_LOG, record)
        self.log(name, **{key: value for key, value in record.items() if key != "event"})
        self.log_scalar(f"events/{name}", 1.0)
        self.announced.append(name)

    def log_scalar(self, name: str, value: float) -> None:
        """Send a number to TensorBoard and wandb; those that are in no record go to whoever watches, too."""
        for tracker in self._trackers:
            tracker.scalar(name, value, self.update)
        if self.place.is_first and name.startswith("probe/"):
            self.place.tell({"scalar": name, "value": value})

    def log_image(self, name: str, pixels: "Pixels") -> None:
        """Send a picture to TensorBoard and wandb."""
        for tracker in self._trackers:
            tracker.image(name, pixels, self.update)

    def request_stop(self, reason: str) -> None:
        """End after this update."""
        self.stop_reason = self.stop_reason or reason

    def request_checkpoint(self, tag: str) -> None:
        """Write a checkpoint after this update, and keep it."""
        self.checkpoint_tag = tag

    def request_accumulation(self, num_batches: int) -> None:
        """Take so many batches per update."""
        if num_batches < 1:
            raise ConfigError(f"accumulate: {num_batches} batches per update are not possible; give 1 or more")
        self.adjustments.accumulation = num_batches

    def request_learning_rate_factor(self, factor: float) -> None:
        """Multiply the schedule, on top of earlier requests."""
        self.adjustments.learning_rate_factor *= factor

    def request_connect_decoder(self) -> None:
        """Connect the decoder."""
        self.adjustments.decoder_connected = True
        # DeepSpeed has had these parameters from the start; without a gradient they stayed as they were
        self.controlnets.connect_decoder = True

    def request_unlock_base(self) -> None:
        """Train the base's decoder too."""
        if self.config.mixed_precision == "fp16":
            raise ConfigError("unlock_base: needs mixed_precision bf16 or no: fp16 scales the loss")
        self.adjustments.base_unlocked = True

    def request_timesteps_alike(self) -> None:
        """Draw all timesteps alike."""
        self.adjustments.timesteps_alike = True

    def request_restart(self, times: int) -> None:
        """End after this update, and begin again with `times` the batches per update."""
        self.adjustments.restart = times
        self.request_stop(f"begins again with {times} times the batches per update")

    def begin(self) -> None:
        """Open what is written, on rank 0; after a checkpoint was loaded."""
        if not self.place.is_first:
            return
        self._files = RunFiles(self.output_dir)
        self._files.go_on_from(self.update)
        restarted = read_restart(self.output_dir)
        values = self.config.model_dump(mode="json") | ({} if restarted is None else {"restarted": asdict(restarted)})
        self._files.write("config.json", json.dumps(values, indent=1).encode())
        self._trackers = trackers(self.config, self._files, self.update)

    def record(self, metrics: "UpdateMetrics") -> None:
        """Write down one update, and tell whoever watches."""
        if self._files is None:
            return
        record = as_record(metrics)
        self._files.append(METRICS, record)
        for name in ("loss", "learning_rate", "gradient_norm"):
            self.log_scalar(name, record[name])
        for name, value in (metrics.loss_by_timestep or {}).items():
            self.log_scalar(f"loss_by_timestep/{name}", value)
        self.place.tell({"num_updates": self.num_updates, **record})

    def sync(self) -> None:
        """Make what was written safe."""
        if self._files is not None:
            self._files.sync()

    def write(self, name: str, data: bytes) -> None:
        """Write a whole small file of the run (rank 0)."""
        if self._files is not None:
            self._files.write(name, data)

    def end(self) -> None:
        """Close what is written."""
        for tracker in self._trackers:
            tracker.close()
        if self._files is not None:
            self._files.close()
        self._trackers, self._files = [], None

    def state_dict(self, callbacks: Sequence["Callback"]) -> dict[str, Any]:
        """What a checkpoint keeps beside tensors."""
        return {
            "adjustments": asdict(self.adjustments),
            "reader": self.reader.state_dict(),
            "callbacks": {callback.name: callback.state_dict() for callback in callbacks if callback.name},
        }

    def load_state_dict(self, state: Mapping[str, Any], callbacks: Sequence["Callback"]) -> None:
        """Go on from `state_dict`."""
        self.adjustments = Adjustments(**state["adjustments"])
        if self.adjustments.decoder_connected:
            self.request_connect_decoder()
        before = state["reader"]
        self.reader.load_state_dict(before)
        if before.get("num_shards") != self.reader.state_dict()["num_shards"]:
            self.log("dataset_grew", rows=self.reader.samples_per_epoch, before=before["samples_per_epoch"])
        for callback in callbacks:
            if callback.name in state["callbacks"]:
                callback.load_state_dict(state["callbacks"][callback.name])
