"""What travels with a job to a cluster: a folder with its options and those local files that nodes cannot see.

Nothing else goes with it, so nothing has to be left out: no secrets, no images, no weights.
"""

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from controlmill.config import LayerOptions, Options, RunOptions
from controlmill.config.base import refuse_secrets
from controlmill.errors import ConfigError, SourceMissingError
from storage.filesystem import redact

PACKAGES = ("controlmill", "flows", "storage", "tasks", "training")
MAX_BYTES = 100 * 2**20
"""Ray keeps what travels in the memory of the head node, and takes 500 MiB at most."""

_SENT = ("url_list", "deepspeed")
"""Options whose value may be a file of this machine: it travels."""
_PLACES = (
    *_SENT,
    "output_folder",
    "image_folder",
    "from_img2dataset",
    "train_data_dir",
    "output_dir",
    "offload_folder",
    "resume_from_checkpoint",
)
_NAMES = ("latest",)
_WEIGHTS = ("pretrained_model_name_or_path", "controlnet_model_name_or_path", "transfer_from", "model", "weights")
_SHARED = "has to be the same place on every node of the cluster, as on a shared disk or as an URI (s3://bucket/…)"
_REMEDY = "give an URI that all nodes of the cluster can read, such as s3://bucket/…"


def write_job_folder(folder: Path, command: str, config: Options, *, with_code: bool) -> str | None:
    """Write `<command>.yaml` and what it names into an empty folder; returns what the user has to know of its paths.

    Args:
        folder: the job's working folder to be.
        command: the command that the job runs.
        config: its options, valid.
        with_code: whether controlmill itself travels, for nodes that have its requirements but not itself.

    Raises:
        ConfigError: a path is relative, so that it means nothing to another machine, a file is too large to travel, or
            an option is a secret.
        SourceMissingError: a list of URLs is not there.
    """
    _check_layers(config)
    refuse_secrets(config, "export CONTROLMILL_WEBHOOK_URL and add --env CONTROLMILL_WEBHOOK_URL")
    values = config.model_dump(mode="json", exclude_unset=True)
    if isinstance(config, RunOptions):
        # its default is a folder beside the user, which for a job is one that nobody sees again
        values["output_dir"] = config.output_dir
    if values.get("ray_address") is not None:
        raise ConfigError("ray_address: leave it out; a job runs on the cluster that it is submitted to")
    shared = []
    for place, value in list(_paths(values)):
        name = place.rpartition(".")[2]
        if name in _SENT and Path(value).expanduser().is_file():
            values[name] = _take_along(folder, name, Path(value).expanduser())
        elif value.startswith(("/", "~")):
            shared.append(f"{place} {value}")
        elif name == "url_list" and not Path(value).exists():
            raise SourceMissingError(f"url_list: there is no file {value}")
        else:
            raise ConfigError(f"{place}: {value} is a path of this machine, which the job does not see; {_REMEDY}")
    text = yaml.safe_dump({**values, "ray_address": "auto"}, allow_unicode=True, sort_keys=False)
    (folder / f"{command}.yaml").write_text(text, encoding="utf-8")
    if with_code:
        _copy_code(folder)
    return f"{_SHARED}: {', '.join(shared)}" if shared else None


def _check_layers(config: Options) -> None:
    """Raise `ConfigError` for annotators, or options of one, that are none; files that only nodes have wait."""
    from tasks.annotators.user_file import is_in_file
    from tasks.recipe import annotators

    if not isinstance(config, LayerOptions):
        return
    files = [Path(name.rpartition(":")[0]) for name in config.annotators if is_in_file(name)]
    if all(file.exists() for file in files):
        annotators(config)


def _paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every value that is a path and no URI, with the dotted name of its option."""
    for name, value in values.items():
        place = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{place}.")
        elif isinstance(value, list):
            # annotators in files have absolute paths by now
            yield from ((place, item) for item in value if isinstance(item, str) and item.startswith("/"))
        elif isinstance(value, str) and _is_path(name, value):
            yield place, value


def _is_path(name: str, value: str) -> bool:
    if "://" in value or "::" in value or value in _NAMES:
        return False
    if name == "resume_from_checkpoint":
        return "/" in value
    if name in _PLACES or value.startswith(("/", "~/", "./", "../")):
        return True
    return name in _WEIGHTS and Path(value).exists()


def _take_along(folder: Path, name: str, path: Path) -> str:
    """Copy a file into the folder under its own name; returns its path in the folder."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ConfigError(
            f"{name}: {path} has {size / 2**20:,.0f} MiB, more than the {MAX_BYTES // 2**20} MiB that travel with a "
            f"job; {_REMEDY}"
        )
    (folder / name).mkdir()
    shutil.copyfile(path, folder / name / path.name)
    return f"{name}/{path.name}"


def _copy_code(folder: Path) -> None:
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        assert found is not None  # noqa: S101  they are ours
        assert found.origin is not None  # noqa: S101  each has an __init__.py
        source = Path(found.origin).parent
        shutil.copytree(source, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))


def described(config: Options) -> str:
    """What a job makes, without secrets, for lists of jobs."""
    made = getattr(config, "output_dir", None) or getattr(config, "output_folder", "")
    return redact(str(made))
