"""A run that begins again from update 0 with a larger batch, as `restart: N` asked: what it left goes to `attempt-1/`.

`restart.json` is written first, and says later that the files have been moved: a kill in between is made up for by
whoever starts next. From then on it holds what the second attempt trains with.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlmill.errors import ConfigError, RunUnusableError
from storage.filesystem import is_leftover, open_files, redact
from storage.lock import LOCK_NAME

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from storage.filesystem import Files
    from training.place import Place

RECORD = "restart.json"
EARLIER = "attempt-1"
"""Folder of the run for what its first attempt left."""
RAY_NOTES = ".ray-train"
"""Folder of the run where Ray Train keeps notes while it works."""
_STAYS = frozenset({RECORD, EARLIER, LOCK_NAME, RAY_NOTES})
"""The lock and the notes belong to the process that is at work, whichever attempt it is at."""
_ACTION = "restart"
_INPUTS = ("train_data_dir", "pretrained_model_name_or_path", "controlnet_model_name_or_path")


@dataclass(frozen=True, slots=True)
class Restart:
    """Why and how a run began again."""

    at_update: int
    """Where the first attempt ended."""
    gradient_accumulation_steps: int
    """Of the second attempt."""
    before: int
    """Of the first."""
    launch: str
    """The launch that did it: a worker that it starts again goes on with the second attempt."""
    earlier: str = EARLIER
    moved: bool = False
    """Whether the files of the first attempt are in its folder."""


def read_restart(output_dir: str) -> Restart | None:
    """What a run has recorded, None where it never began again; raise `RunUnusableError` where it cannot be read."""
    files, root = open_files(output_dir)
    data = files.read(f"{root}/{RECORD}")
    if data is None:
        return None
    try:
        return Restart(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise RunUnusableError(f"{redact(output_dir)}/{RECORD}: not the record of a restart") from error


def refuse_if_impossible(config: "TrainConfig") -> None:
    """Raise `ConfigError` where a restart would move what the run reads."""
    files, root = open_files(config.output_dir)
    for name in _INPUTS if files.is_local else ():
        value = getattr(config, name)
        if value is not None and "://" not in value and Path(root) in Path(value).absolute().parents:
            raise ConfigError(
                f"restart: would move {name} {value}, which lies in output_dir; choose another output_dir"
            )


def latest_attempt(config: "TrainConfig", place: "Place") -> "TrainConfig":
    """The options of the attempt that is to be trained; every rank calls it.

    Raises:
        ConfigError: a run that began again is in the folder, and was not asked to go on.
    """

    def choose() -> Restart | None:
        found = read_restart(config.output_dir)
        if found is None:
            return None
        if not config.resume_from_checkpoint and not _is_of(found, place):
            raise ConfigError(
                f"output_dir: there is a run in {redact(config.output_dir)} already; go on with "
                "resume_from_checkpoint=latest, or give another folder"
            )
        return found if found.moved else _move(config.output_dir, found)

    found = place.of_first(choose)
    if found is None:
        return config
    changes: dict[str, Any] = {
        "gradient_accumulation_steps": found.gradient_accumulation_steps,
        "on_following": _without_restart(config.on_following),
        "on_settled": _without_restart(config.on_settled),
    }
    if _is_of(found, place):
        changes["resume_from_checkpoint"] = "latest"
    return config.model_copy(update=changes)


def begin_again(config: "TrainConfig", place: "Place", *, times: int, at_update: int) -> "TrainConfig":
    """Record that the run begins again, once no rank writes to its folder any more; what `latest_attempt` is to get.

    Args:
        config: the options of the attempt that has ended.
        place: of this worker.
        times: how often the batches of an update are taken now.
        at_update: where it has ended.
    """
    place.barrier()
    before = config.gradient_accumulation_steps
    if place.is_first:
        _write(config.output_dir, Restart(at_update, before * times, before, place.launch))
        place.tell({"event": "restarted", "update": at_update, "gradient_accumulation_steps": before * times})
    return config.model_copy(update={"resume_from_checkpoint": "latest"})


def _is_of(found: Restart, place: "Place") -> bool:
    return bool(place.launch) and found.launch == place.launch


def _without_restart(actions: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(action for action in actions if not action.startswith(f"{_ACTION}:"))


def _write(output_dir: str, record: Restart) -> None:
    files, root = open_files(output_dir)
    files.write(f"{root}/{RECORD}", json.dumps(asdict(record), indent=1).encode())


def _move(output_dir: str, record: Restart) -> Restart:
    """Move all that the first attempt left; may be called again where it was cut off."""
    files, root = open_files(output_dir)
    for entry in files.entries(root):
        if entry.name not in _STAYS and not is_leftover(entry.name):
            _move_entry(files, root, entry.name)
    done = replace(record, moved=True)
    _write(output_dir, done)
    return done


def _move_entry(files: "Files", root: str, name: str) -> None:
    if files.is_local:
        files.make_folder(f"{root}/{EARLIER}")
        Path(root, name).rename(Path(root, EARLIER, name))
        return
    # file by file: what was moved before a kill is not found any more
    for path in files.fs.find(f"{root}/{name}"):
        files.fs.mv(path, f"{root}/{EARLIER}/{path.removeprefix(root).lstrip('/')}")
