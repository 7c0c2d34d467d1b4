"""The weights that the option `model` names: a folder on this machine, or a repository of the Hugging Face hub.

A folder holds BLIP in transformers' form (`config.json` and `model.safetensors` or `pytorch_model.bin`) or in LAVIS's
(one `.pth`), and the vocabulary (`vocab.txt` or `tokenizer.json`).
"""

import json
import re
from pathlib import Path
from typing import Any

from controlmill.errors import ConfigError, WeightsMissingError, WeightsUnusableError
from storage.fingerprint import fingerprint
from storage.weights.digest import sha256_of
from storage.weights.reference import WeightsFile
from storage.weights.resolve import resolve
from tasks.captioners.base import CaptionModel
from tasks.captioners.convert import read_vocabulary

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BESIDE = ("config.json", "preprocessor_config.json", "vocab.txt", "tokenizer.json")
# the commits of the published captioners; another is taken from `main` unless its reference says `@revision`
_PUBLISHED = {
    "Salesforce/blip-image-captioning-base": "82a37760796d32b1411fe092ab5d4e227313294b",
    "Salesforce/blip-image-captioning-large": "2227ac38c9f16105cb0412e7cab4759978a8fd90",
}
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w.-]+))?")


def find_model(reference: str) -> CaptionModel:
    """Find the weights and hash them; from the hub they are downloaded where they are not on this machine.

    Args:
        reference: a folder, or `owner/name` or `owner/name@revision`.

    Raises:
        WeightsMissingError: the folder or one of its files is not there and not to be had.
        WeightsUnusableError: there is something else in it than a BLIP captioner.
    """
    folder = Path(reference).expanduser()
    commits: dict[str, str] = {}
    if folder.is_dir():
        name = folder.resolve().name
    elif is_on_hub(reference):
        name, (folder, commits) = reference, _from_hub(reference)
    else:
        raise WeightsMissingError(f"model: there is no folder {reference}")
    used = [weights_file(folder), *(folder / one for one in _BESIDE if (folder / one).is_file())]
    _check(folder)
    try:
        hashes = {file.name: sha256_of(file) for file in used}
    except OSError as error:
        raise WeightsUnusableError(f"model: cannot read {error.filename}: {error.strerror}") from error
    files = {f"{name.partition('@')[0]}/{file}": sha256 for file, sha256 in hashes.items()}
    commits = {file: commits[file] for file in files if file in commits}
    return CaptionModel(name, str(folder.resolve()), fingerprint(hashes), files, commits)


def is_on_hub(reference: str) -> bool:
    """Whether a reference names a repository of the hub: it is no folder of this machine, and could be one's name."""
    return not Path(reference).expanduser().is_dir() and _REPOSITORY.fullmatch(reference) is not None


def weights_file(folder: Path) -> Path:
    """The file of weights in a folder; safetensors before pickles.

    Raises:
        WeightsMissingError: there is none, or several `.pth`.
    """
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    checkpoints = sorted(folder.glob("*.pth"))
    if len(checkpoints) != 1:
        found = (
            f"has {len(checkpoints)} .pth files" if checkpoints else f"has neither {' nor '.join(_WEIGHTS)} nor a .pth"
        )
        raise WeightsMissingError(f"model: {folder} {found}; it must hold the weights of one BLIP captioner")
    return checkpoints[0]


def _check(folder: Path) -> None:
    """Refuse early what could only fail late, in every actor."""
    try:
        read_vocabulary(folder)
        config: dict[str, Any] | None = None
        if (folder / "config.json").is_file():
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsUnusableError(f"model: {' '.join(str(error).split())}") from error
    if config is None and weights_file(folder).suffix != ".pth":
        raise WeightsMissingError(f"model: {folder} has no config.json, which belongs to {weights_file(folder).name}")
    kind = "blip" if config is None else config.get("model_type")
    if kind != "blip":
        raise WeightsUnusableError(f"model: {folder} holds a model of type {kind!r}, not blip")


def model_files(reference: str) -> tuple[WeightsFile, ...]:
    """The files of a BLIP captioner on the hub.

    Args:
        reference: `owner/name` or `owner/name@revision`.

    Raises:
        ConfigError: it is something else.
    """
    repository = _REPOSITORY.fullmatch(reference)
    if repository is None:
        raise ConfigError(f"{reference!r}: a captioner's model on the hub is owner/name or owner/name@revision")

    def one(name: str, *, optional: bool = False, or_else: str | None = None) -> WeightsFile:
        revision = repository[2] or _PUBLISHED.get(repository[1], "main")
        return WeightsFile(repository[1], name, revision, unique_name=False, optional=optional, or_else=or_else)

    weights, pickled = _WEIGHTS
    config, *beside = _BESIDE
    return (one(config), *(one(name, optional=True) for name in beside), one(weights, or_else=pickled))


def _from_hub(reference: str) -> tuple[Path, dict[str, str]]:
    """Where the files of a repository are, and the commit of each that has one."""
    found = resolve(model_files(reference))
    folders = {file.path.parent for file in found}
    if len(folders) > 1:
        places = ", ".join(sorted(map(str, folders)))
        raise WeightsUnusableError(
            f"model: the files of {reference} are in different folders ({places}); put them in one"
        )
    return folders.pop(), {str(file.file): file.commit for file in found if file.commit}
