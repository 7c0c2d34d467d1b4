"""Hands and faces: keypoints in the squares that the joints of the body point to.

Simon et al., "Hand Keypoint Detection in Single Images using Multiview Bootstrapping", 2017; the constants are those of
ControlNet's annotator (controlnet_aux, open_pose/hand.py and face.py).

Shapes: N squares, K keypoints, s by s pixels of the network's input, c by c cells.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.annotators.network import finite
from tasks.annotators.openpose.body import STRIDE
from tasks.annotators.openpose.operators import enlarging, smoothing
from tasks.images.types import Pixels, as_pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NUM_HAND: Final = 21
NUM_FACE: Final = 70
Points = NDArray[np.float64]
"""(K, 3): x, y in pixels of the square and the score; NaN where a keypoint was not found."""

_HAND_SIDES = (184, 368, 552, 736)
_HAND_MAP = 128
_HAND_SIGMA = 3.0
_LEAST = 0.05
_FACE_SIDE = 384


def find_hands(
    network: "nn.Module", squares: Sequence[Pixels], device: "torch.device", batch_size: int
) -> list[Points]:
    """Keypoints of the hand in each BGR square, of any sizes; each is looked at in four sizes."""
    import torch

    soft = [as_pixels(cv2.GaussianBlur(square, (0, 0), 0.8)) for square in squares]
    mean_NKHW = torch.zeros(len(squares), NUM_HAND, _HAND_MAP, _HAND_MAP, dtype=torch.float64, device=device)
    for side in _HAND_SIDES:
        maps_NKcc = _run(network, soft, side, device, batch_size)[:, :NUM_HAND].double()
        matrix = torch.from_numpy(enlarging(maps_NKcc.shape[2], side, _HAND_MAP, stride=STRIDE, area=True)).to(device)
        mean_NKHW = mean_NKHW + matrix @ maps_NKcc @ matrix.T / len(_HAND_SIDES)
    blur = torch.from_numpy(smoothing(_HAND_MAP, _HAND_SIGMA)).to(device)
    smooth_NKHW = blur @ mean_NKHW @ blur.T
    pairs = zip(mean_NKHW.cpu().numpy(), smooth_NKHW.cpu().numpy(), squares, strict=True)
    return [
        np.stack([_hand_point(raw, smooth, square) for raw, smooth in zip(raws, smooths, strict=True)])
        for raws, smooths, square in pairs
    ]


def find_faces(
    network: "nn.Module", squares: Sequence[Pixels], device: "torch.device", batch_size: int
) -> list[Points]:
    """Keypoints of the face in each BGR square; one more than 70, the last is where the network sees no keypoint."""
    from torch.nn import functional

    maps_NKcc = _run(network, squares, _FACE_SIDE, device, batch_size)
    found = []
    for maps_Kcc, square in zip(maps_NKcc, squares, strict=True):
        size = square.shape[:2]
        maps_1KHW = functional.interpolate(maps_Kcc[None], size, mode="bilinear", align_corners=True)
        best_K, index_K = maps_1KHW[0].flatten(1).max(dim=1)
        points = np.stack([(index_K % size[1]).cpu(), (index_K // size[1]).cpu(), best_K.cpu()], axis=1).astype(float)
        points[points[:, 2] <= _LEAST] = np.nan
        found.append(points)
    return found


def _run(
    network: "nn.Module", squares: Sequence[Pixels], side: int, device: "torch.device", batch_size: int
) -> "Tensor":
    """The network's last maps (N, K, c, c) of squares resized to `side`."""
    import torch

    resized = np.stack([_resized(square, side) for square in squares])
    made = []
    for start in range(0, len(squares), batch_size):
        batch_NHWC = torch.from_numpy(resized[start : start + batch_size]).to(device)
        maps = network(batch_NHWC.permute(0, 3, 1, 2).float() / 256 - 0.5)
        # the face's network gives the maps of all of its stages
        made.append(maps[-1] if isinstance(maps, list | tuple) else maps)
    return finite(torch.cat(made))


def _resized(square: Pixels, side: int) -> Pixels:
    interpolation = cv2.INTER_AREA if side < square.shape[0] else cv2.INTER_LANCZOS4
    return as_pixels(cv2.resize(square, (side, side), interpolation=interpolation))


def _hand_point(raw: NDArray[np.float64], smooth: NDArray[np.float64], square: Pixels) -> NDArray[np.float64]:
    """The highest point of the connected region with the largest sum, in pixels of the square."""
    num_regions, regions = cv2.connectedComponents(as_pixels(smooth > _LEAST), connectivity=8)
    if num_regions == 1:
        return np.full(3, np.nan)
    sums = np.bincount(regions.ravel(), weights=raw.ravel(), minlength=num_regions)
    there = np.where(regions == 1 + sums[1:].argmax(), raw, 0.0)
    row, column = divmod(int(there.argmax()), raw.shape[1])
    height, width = square.shape[:2]
    return np.array([int(column * width / raw.shape[1]), int(row * height / raw.shape[0]), there[row, column]])
