"""The model card of a run: the recipe for people, and the front matter that the Hugging Face hub reads."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from controlmill import __version__
from controlmill.errors import StorageWriteError
from training.base_files import Kind

CARD_NAME = "README.md"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a ControlNet was made from."""

    base: str
    """Folder name or repository."""
    base_fingerprint: str
    kind: Kind
    conditions: tuple[str, ...]
    """Layers that hints came from."""
    dataset: str
    """Name of its folder, no path of a machine."""
    layer_fingerprints: Mapping[str, str]
    """By layer: what its shards were made by and from."""
    updates: int
    samples_seen: int
    epochs: float
    options: Mapping[str, Any]
    """Every option of the run that is not at its default."""
    num_rows: int | None = None
    """Rows of the dataset that were trained on."""
    decoder_trained: bool = False
    """Whether the base's decoder was trained too: its UNet is in `unet/`."""
    following: str | None = None
    """What the probe says of sudden convergence, in one sentence."""
    libraries: Mapping[str, str] = field(default_factory=dict)
    """Versions."""


def write_model_card(folder: Path, recipe: Recipe) -> Path:
    """Write `README.md` into the folder of a run or of a ControlNet.

    Raises:
        StorageWriteError: it cannot be written.
    """
    path = folder / CARD_NAME
    try:
        path.write_text(model_card(recipe), encoding="utf-8")
    except OSError as error:
        raise StorageWriteError(f"cannot write {path}: {error.strerror}") from error
    return path


def model_card(recipe: Recipe) -> str:
    """The text of the card; no clock and no machine in it."""
    front = yaml.safe_dump(_front_matter(recipe), sort_keys=False, allow_unicode=True)
    what = ", ".join(recipe.conditions)
    parts = [
        f"---\n{front}---\n",
        f"# ControlNet: {what} on {recipe.base}\n",
        _counts(recipe),
        *([f"{recipe.following}\n"] if recipe.following else []),
        "## How to use it\n",
        _usage(recipe),
        "## How it was made\n",
        _table(("what", "which"), _made_from(recipe)),
        "## Options\n",
        "Those that differ from the defaults.\n",
        _table(("option", "value"), [(f"`{name}`", f"`{value}`") for name, value in sorted(recipe.options.items())]),
    ]
    return "\n".join(parts)


def _counts(recipe: Recipe) -> str:
    counted = f"{recipe.updates:,} updates, {recipe.samples_seen:,} samples, {recipe.epochs:,.2f} epochs"
    return f"Trained with controlmill {__version__}: {counted}.\n"


def _front_matter(recipe: Recipe) -> dict[str, Any]:
    family = "stable-diffusion-xl" if recipe.kind == "sdxl" else "stable-diffusion"
    tags = [family, f"{family}-diffusers", "text-to-image", "diffusers", "controlnet", "diffusers-training"]
    matter: dict[str, Any] = {"library_name": "diffusers", "inference": True, "tags": [*tags, *recipe.conditions]}
    # a folder of this machine is no name that the hub knows
    return {"base_model": recipe.base, **matter} if "/" in recipe.base else matter


def _usage(recipe: Recipe) -> str:
    name = f"StableDiffusion{'XL' if recipe.kind == 'sdxl' else ''}ControlNetPipeline"
    if recipe.options.get("hint_network") == "v1":
        return (
            "Its hint network is that of the article's text, which diffusers does not have: use `controlmill sample`.\n"
        )
    if len(recipe.conditions) == 1:
        load = 'controlnet = ControlNetModel.from_pretrained("controlnet")'
    elif recipe.options.get("several_conditions") == "stack":
        return "One network takes the hints of all conditions stacked: use `controlmill sample`.\n"
    else:
        folders = ["controlnet", *(f"controlnet_{number}" for number in range(1, len(recipe.conditions)))]
        load = f"controlnet = [ControlNetModel.from_pretrained(name) for name in {folders}]"
    classes = ["ControlNetModel", name, *(["UNet2DConditionModel"] if recipe.decoder_trained else [])]
    unet = 'unet = UNet2DConditionModel.from_pretrained("unet")'
    given = ", unet=unet" if recipe.decoder_trained else ""
    return "\n".join(
        [
            "```python",
            f"from diffusers import {', '.join(classes)}",
            "",
            load,
            *([unet] if recipe.decoder_trained else []),
            f'pipeline = {name}.from_pretrained("{recipe.base}", controlnet=controlnet{given})',
            "```",
            "",
        ]
    )


def _made_from(recipe: Recipe) -> list[tuple[str, str]]:
    rows = [
        ("base", recipe.base),
        ("base, VAE and text encoders", f"`{recipe.base_fingerprint}`"),
        ("dataset", recipe.dataset if recipe.num_rows is None else f"{recipe.dataset}, {recipe.num_rows:,} rows"),
    ]
    rows += [(f"layer {name}", f"`{value}`") for name, value in sorted(recipe.layer_fingerprints.items())]
    return rows + [(name, version) for name, version in sorted(recipe.libraries.items())]


def _table(header: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [f"| {header[0]} | {header[1]} |", "|---|---|"]
    lines += [f"| {one.replace('|', '/')} | {two.replace('|', '/')} |" for one, two in rows]
    return "\n".join([*lines, ""])
