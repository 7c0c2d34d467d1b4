"""The files of a base: a folder in diffusers' layout, or a repository of the Hugging Face hub. Loads nothing."""

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from controlmill.errors import WeightsMissingError, WeightsUnusableError
from storage.fingerprint import fingerprint
from storage.weights.digest import sha256_of
from storage.weights.reference import WeightsFile
from storage.weights.resolve import locate_any, resolve

Part = Literal["unet", "vae", "text"]
Kind = Literal["sd", "sdxl"]

ALL_PARTS: tuple[Part, ...] = ("unet", "vae", "text")
_KINDS: dict[str, Kind] = {"StableDiffusion": "sd", "StableDiffusionXL": "sdxl"}
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
_WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, slots=True)
class BaseFiles:
    """The files of a base, all in one folder of this machine."""

    reference: str
    """As it was given, a folder by its name only: what logs and cards call it."""
    folder: Path
    kind: Kind
    variant: dict[str, str | None]
    """By folder of a part: the variant that its files are of."""
    weights: dict[str, Path]
    """By folder of a part: its file of weights."""

    @property
    def text_folders(self) -> list[tuple[str, str]]:
        """Folders of text encoders and of their tokenizers."""
        pairs = [("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")]
        return pairs if self.kind == "sdxl" else pairs[:1]

    def scaling_factor(self) -> float:
        """What latents are multiplied by, of the VAE's configuration: 0.18215 for SD 1.x and 2.x."""
        return float(read_json(self.folder / "vae" / "config.json").get("scaling_factor", 0.18215))

    def fingerprint(self) -> str:
        """SHA-256 (hex) over what latents and prompt embeddings depend on: VAE, text encoders, tokenizers.

        Raises:
            WeightsUnusableError: a file cannot be read.
        """
        folders = ["vae", *(name for pair in self.text_folders for name in pair)]
        used = [self.weights[name] for name in folders if name in self.weights]
        used += [self.folder / name / "config.json" for name in folders]
        used += [self.folder / name / file for name in folders for file in _TOKENIZER_FILES]
        return fingerprint({file.relative_to(self.folder).as_posix(): _hash(file) for file in used if file.is_file()})


def find_base(
    reference: str, *, parts: Collection[Part] = ALL_PARTS, revision: str | None = None, variant: str | None = None
) -> BaseFiles:
    """Find the files of a base; from the hub those that are not on this machine are downloaded.

    Args:
        reference: a folder, or `owner/name` or `owner/name@revision`.
        parts: what is needed of it; the scheduler's configuration always is.
        revision: commit, branch or tag on the hub.
        variant: kind of the files of weights; where a part has none of it, its plain file is taken.

    Raises:
        WeightsMissingError: naming every file that is not there, its repository and what to do.
        WeightsUnusableError: it is no Stable Diffusion in diffusers' layout.
    """
    found_repository = _REPOSITORY.fullmatch(reference)
    given = Path(reference).expanduser()
    if given.is_dir():
        finder = _Finder(str(given), reference, "main", variant)
    elif found_repository:
        finder = _Finder(None, found_repository[1], revision or found_repository[2] or "main", variant)
    else:
        raise WeightsMissingError(f"pretrained_model_name_or_path: there is no folder {reference}")
    return finder.find(parts, given.resolve().name if given.is_dir() else reference)


def kind_of(index: dict[str, Any], reference: str) -> Kind:
    """Which Stable Diffusion a `model_index.json` is of.

    Raises:
        WeightsUnusableError: of none that can be trained on.
    """
    name = str(index.get("_class_name", ""))
    # img2img, inpainting and ControlNet pipelines keep the same parts
    for prefix, kind in sorted(_KINDS.items(), key=lambda item: -len(item[0])):
        if name.startswith(prefix) and not name.startswith("StableDiffusion3"):
            return kind
    raise WeightsUnusableError(
        f"pretrained_model_name_or_path: {reference} is a {name or 'folder without _class_name'}; bases are "
        "Stable Diffusion 1.x, 2.x and XL in diffusers' layout"
    )


@dataclass(frozen=True, slots=True)
class _Finder:
    given: str | None
    repository: str
    revision: str
    variant: str | None

    def find(self, parts: Collection[Part], name: str) -> BaseFiles:
        index = self._one("model_index.json")
        root, kind = index.parent, kind_of(read_json(index), name)
        folders = [part for part in ("unet", "vae") if part in parts]
        tokenizers: list[str] = []
        if "text" in parts:
            folders += ["text_encoder", "text_encoder_2"] if kind == "sdxl" else ["text_encoder"]
            tokenizers = ["tokenizer", "tokenizer_2"] if kind == "sdxl" else ["tokenizer"]
        # the UNet alone needs to know by how much the VAE's latents are scaled
        configs = dict.fromkeys([*folders, *(["vae"] if "unet" in parts else [])])
        wanted = ["scheduler/scheduler_config.json", *(f"{folder}/config.json" for folder in configs)]
        resolve([self._file(file) for file in wanted], self.given)
        weights, variants = {}, {}
        for folder in folders:
            weights[folder], variants[folder] = self._weights(folder)
        for folder in tokenizers:
            self._tokenizer(folder)
        elsewhere = [str(path) for path in weights.values() if not path.is_relative_to(root)]
        if elsewhere:
            raise WeightsUnusableError(
                f"pretrained_model_name_or_path: the files of {name} are in different folders ({root}, "
                f"{', '.join(elsewhere)}); put them in one"
            )
        return BaseFiles(name, root, kind, variants, weights)

    def _file(self, name: str, *, or_else: str | None = None, optional: bool = False) -> WeightsFile:
        return WeightsFile(self.repository, name, self.revision, unique_name=False, or_else=or_else, optional=optional)

    def _one(self, name: str) -> Path:
        return resolve([self._file(name)], self.given)[0].path

    def _weights(self, folder: str) -> tuple[Path, str | None]:
        """The file of weights of one part, and its variant; safetensors before pickles."""
        stem = _WEIGHTS.get(folder)
        pickled = f"{folder}/{stem or 'pytorch_model'}.bin"
        plain = self._file(f"{folder}/{stem or 'model'}.safetensors", or_else=pickled)
        if self.variant is None:
            return resolve([plain], self.given)[0].path, None
        of_variant = replace(
            plain,
            filename=f"{folder}/{stem or 'model'}.{self.variant}.safetensors",
            or_else=pickled.replace(".bin", f".{self.variant}.bin"),
            optional=True,
        )
        found = resolve([of_variant], self.given)
        # a published base may have a variant of its UNet only
        return (found[0].path, self.variant) if found else (resolve([plain], self.given)[0].path, None)

    def _tokenizer(self, folder: str) -> None:
        """Either the two files of the published tokenizers, or the one that transformers 5 writes."""
        single = self._file(f"{folder}/tokenizer.json", optional=True)
        pair = [self._file(f"{folder}/vocab.json"), self._file(f"{folder}/merges.txt")]
        others = [self._file(f"{folder}/{name}", optional=True) for name in _TOKENIZER_FILES[3:]]
        if locate_any(single, self.given) is None:
            resolve(pair, self.given)
        else:
            pair = [replace(file, optional=True) for file in pair]
        resolve([*pair, single, *others], self.given)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        WeightsUnusableError: it is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsUnusableError(f"weights: {path} is not JSON: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise WeightsUnusableError(f"weights: {path} holds no JSON object")
    return content


def _hash(file: Path) -> str:
    try:
        return sha256_of(file)
    except OSError as error:
        raise WeightsUnusableError(f"weights: cannot read {file}: {error.strerror}") from error
