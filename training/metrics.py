"""What a run writes about itself while it goes on: lines of JSON in its folder, TensorBoard, wandb. Rank 0 only."""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from controlmill.errors import ConfigError
from storage.filesystem import one_line, open_files
from storage.staging import Staging

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from storage.stored_image import Pixels
    from training.callbacks.base import UpdateMetrics

METRICS = "metrics.jsonl"
EVENTS_LOG = "events.jsonl"
WANDB_ID = "wandb-id.txt"
"""File of a run for the name that wandb knows it by, so that a training which goes on is one run there."""
SAMPLES = "samples"
"""Folder of a run for pictures that were generated while it went on."""


class RunFiles:
    """Files that grow with the run; under an URI they grow on this machine, and are uploaded at every `sync`."""

    def __init__(self, output_dir: str) -> None:
        self._files, self._root = open_files(output_dir)
        self._open: dict[str, IO[str]] = {}
        self._staging = Staging()
        if self._files.is_local:
            self.folder = Path(self._root)
            self._files.make_folder(self._root)
        else:
            self.folder = self._staging.new_folder()
            for entry in self._files.entries(self._root):
                if entry.name.endswith(".jsonl"):
                    (self.folder / entry.name).write_bytes(self._files.read(f"{self._root}/{entry.name}") or b"")

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self._root.rpartition("/")[2]

    def read(self, name: str) -> bytes | None:
        """Read a whole small file, None if it is not there."""
        return self._files.read(f"{self._root}/{name}")

    def write(self, name: str, data: bytes) -> None:
        """Write a whole small file."""
        self._files.write(f"{self._root}/{name}", data)

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Add one line; numbers that JSON has no word for become null."""
        file = self._open.get(name)
        if file is None:
            file = self._open[name] = (self.folder / name).open("a", encoding="utf-8")
        file.write(json.dumps(_finite(record)) + "\n")
        file.flush()

    def go_on_from(self, update: int) -> None:
        """Drop the lines of updates after `update`, which are done again, and a line that was cut off."""
        for path in sorted(self.folder.glob("*.jsonl")):
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _is_until(line, update)]
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
            temporary.replace(path)

    def sync(self) -> None:
        """Make what was written safe."""
        for file in self._open.values():
            os.fsync(file.fileno())
        if self._files.is_local:
            return
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                self._files.write(f"{self._root}/{name}", path.read_bytes())

    def close(self) -> None:
        """Sync and close all files."""
        self.sync()
        for file in self._open.values():
            file.close()
        self._open.clear()
        if not self._files.is_local:
            self._staging.discard(self.folder)


def _is_until(line: str, update: int) -> bool:
    with contextlib.suppress(ValueError, AttributeError, TypeError):
        return int(json.loads(line).get("update", 0)) <= update
    return False


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def as_record(metrics: "UpdateMetrics") -> dict[str, Any]:
    """The line of metrics.jsonl for an update."""
    record: dict[str, Any] = {
        "update": metrics.update,
        "samples_seen": metrics.samples_seen,
        "epoch": round(metrics.epoch, 6),
        "loss": metrics.loss,
        "learning_rate": metrics.learning_rate,
        "gradient_norm": metrics.gradient_norm,
        "seconds": round(metrics.seconds, 6),
    }
    if metrics.loss_by_timestep is not None:
        record["loss_by_timestep"] = dict(metrics.loss_by_timestep)
    return record


class Tracker(Protocol):
    """Something that plots numbers over updates."""

    def scalar(self, name: str, value: float, update: int) -> None:
        """Take one number."""

    def image(self, name: str, pixels: "Pixels", update: int) -> None:
        """Take one RGB picture (height, width, 3)."""

    def close(self) -> None:
        """Flush."""


class TensorBoardTracker:
    """Event files that TensorBoard reads."""

    def __init__(self, folder: Path, first_update: int) -> None:
        """Open `folder`; points after `first_update`, of a run that was cut off, are taken back."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=first_update + 1 if first_update else None)

    def scalar(self, name: str, value: float, update: int) -> None:
        """Take one number."""
        self._writer.add_scalar(name, value, update)

    def image(self, name: str, pixels: "Pixels", update: int) -> None:
        """Take one picture."""
        self._writer.add_image(name, pixels, update, dataformats="HWC")

    def close(self) -> None:
        """Flush."""
        self._writer.close()


class WandbTracker:
    """A run of Weights & Biases, whose steps are the updates."""

    def __init__(self, config: "TrainConfig", files: RunFiles, first_update: int) -> None:
        """Begin a run, or go on with that of a training which goes on.

        Raises:
            ConfigError: the package is not installed, or the server is out of reach or wants a key.
        """
        try:
            import wandb
        except ImportError as error:
            raise ConfigError("report_to wandb: needs the package wandb: pip install wandb") from error
        try:
            self._run = wandb.init(
                project=config.tracker_project_name,
                id=self._id(files, first_update),
                resume="allow",
                name=files.name,
                dir=str(files.folder),
                config=config.model_dump(mode="json"),
                allow_val_change=True,
                # what a worker prints is in Ray's logs and on Prefect's page
                settings=wandb.Settings(console="off"),
            )
        except wandb.Error as error:
            remedy = "or set WANDB_API_KEY, or WANDB_MODE=offline to send it later"
            raise ConfigError(f"report_to wandb: {one_line(error).rstrip('.')}; {remedy}") from error

    @staticmethod
    def _id(files: RunFiles, first_update: int) -> str:
        written = files.read(WANDB_ID) if first_update else None
        if written is None:
            written = secrets.token_hex(4).encode()
            files.write(WANDB_ID, written)
        return written.decode()

    def scalar(self, name: str, value: float, update: int) -> None:
        """Take one number; those of updates that are done again, with the same values, wandb drops."""
        self._run.log({name: value}, step=update)

    def image(self, name: str, pixels: "Pixels", update: int) -> None:
        """Take one picture."""
        import wandb

        self._run.log({name: wandb.Image(pixels)}, step=update)

    def close(self) -> None:
        """Flush."""
        self._run.finish()


def trackers(config: "TrainConfig", files: RunFiles, first_update: int) -> list[Tracker]:
    """Those that `report_to` names; `first_update` is 0 where the run begins."""
    wanted = {"tensorboard", "wandb"} if "all" in config.report_to else set(config.report_to)
    made: list[Tracker] = []
    if "tensorboard" in wanted:
        made.append(TensorBoardTracker(files.folder / config.logging_dir, first_update))
    if "wandb" in wanted:
        made.append(WandbTracker(config, files, first_update))
    return made
