"""What preflight finds in rows of the dataset: hints, pixels, prompts, and whether layers are what they say.

Shapes: B batch, C channels, H W height and width.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from training.batch import Batch
    from training.controlnet import ControlNets
    from training.reader.hints import HintKind

_LINES = "white_on_black"
_MOSTLY = 0.5
_NO_AGREEMENT = 0.05
"""Edges of lines drawn from an image agree with its own by several times that."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one question."""

    name: str
    said: str
    is_wrong: bool = False
    """Whether training would be in vain."""


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


def check_layers(rows: "Batch", kinds: "Sequence[HintKind]") -> list[Finding]:
    """Whether maps are as their layers say: the order of channels, and lines bright on dark."""
    findings = []
    for kind, hint_BCHW in zip(kinds, rows.hints, strict=True):
        if kind.channel_order not in ("RGB", "L", ""):
            said = f"{kind.layer} is {kind.channel_order}, and hints are read as RGB; write the layer anew as RGB"
            findings.append(Finding("channel order", said, is_wrong=True))
        bright = float((hint_BCHW > _MOSTLY).double().mean())
        if kind.polarity == _LINES and bright > _MOSTLY:
            said = f"{kind.layer} says white on black, and {bright:.0%} of it is white; invert the maps"
            findings.append(Finding("polarity", said, is_wrong=True))
    return findings


def check_channel_order(controlnets: "ControlNets", kinds: "Sequence[HintKind]") -> Finding:
    """Whether ControlNets know the order of the hints' channels; diffusers turns RGB around for one that takes BGR."""
    orders = {str(getattr(net.config, "controlnet_conditioning_channel_order", "rgb")) for net in controlnets.nets}
    layers = ", ".join(f"{kind.layer} {kind.channel_order or 'not recorded, read as RGB'}" for kind in kinds)
    said = f"hints are {layers}; the ControlNet takes {', '.join(sorted(orders))}"
    return Finding("channel order", said, is_wrong=not orders <= {"rgb", "bgr"})


def check_alignment(rows: "Batch", kind: "HintKind") -> Finding:
    """Whether edges of hints lie on edges of their own images rather than on those of other rows.

    Poses and the like need not, so this only tells of them. Lines that agree with nothing, or clearly better with
    images of other rows, are wrong.
    """
    if rows.pixels_BCHW is None or len(rows) < 2:
        return Finding("alignment", "not looked at")
    image_edges_BN = _edges(rows.pixels_BCHW)
    hint_edges_BN = _edges(rows.hints[0])
    similar_BB = image_edges_BN @ hint_edges_BN.T
    own = float(similar_BB.diagonal().mean())
    others = float((similar_BB.sum() - similar_BB.diagonal().sum()) / (len(rows) * (len(rows) - 1)))
    verdict = "" if own > others else ": hints fit their images no better than those of other rows; look at some"
    is_of_others = own < _NO_AGREEMENT or own < others - _NO_AGREEMENT
    is_wrong = bool(verdict) and kind.polarity == _LINES and is_of_others
    said = f"edges agree {own:.2f} with the own image, {others:.2f} with others{verdict}"
    return Finding("alignment", said, is_wrong=is_wrong)


def _edges(pixels_BCHW: Tensor) -> Tensor:
    """Where brightness changes, as vectors of length 1 around their mean."""
    grey_BHW = pixels_BCHW.float().mean(1)
    rows_BHW = (grey_BHW[:, 1:, :-1] - grey_BHW[:, :-1, :-1]).abs()
    columns_BHW = (grey_BHW[:, :-1, 1:] - grey_BHW[:, :-1, :-1]).abs()
    edges_BN = (rows_BHW + columns_BHW).flatten(1)
    return torch.nn.functional.normalize(edges_BN - edges_BN.mean(1, keepdim=True), dim=1)
