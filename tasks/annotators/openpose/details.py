"""Hands and faces: keypoints in the squares that the joints of the body point to.

Simon et al., "Hand Keypoint Detection in Single Images using Multiview Bootstrapping", 2017; the constants are those of
ControlNet's annotator (controlnet_aux, open_pose/hand.py and face.py).

Shapes: N squares (n of one size), K keypoints, s by s pixels of the network's input, c by c cells.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.annotators.batches import same_size
from tasks.annotators.network import finite
from tasks.annotators.openpose.body import STRIDE
from tasks.annotators.openpose.operators import enlarging, smoothing
from tasks.annotators.openpose.regions import highest_points
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
        # a fourth is exact: the same bits as a fourth of the product, on less
        mean_NKHW += (matrix / len(_HAND_SIDES)) @ maps_NKcc @ matrix.T
    blur = torch.from_numpy(smoothing(_HAND_MAP, _HAND_SIGMA)).to(device)
    smooth_NKHW = blur @ mean_NKHW @ blur.T
    points_M3 = highest_points(mean_NKHW.flatten(0, 1), smooth_NKHW.flatten(0, 1), _LEAST)
    found = list(points_M3.reshape(len(squares), NUM_HAND, 3).cpu().numpy())
    for points, square in zip(found, squares, strict=True):
        points[:, :2] = np.floor(points[:, :2] * (square.shape[1], square.shape[0]) / _HAND_MAP)
    return found


def find_faces(
    network: "nn.Module", squares: Sequence[Pixels], device: "torch.device", batch_size: int
) -> list[Points]:
    """Keypoints of the face in each BGR square; one more than 70, the last is where the network sees no keypoint."""
    import torch
    from torch.nn import functional

    maps_NKcc = _run(network, squares, _FACE_SIDE, device, batch_size)
    points_NK3 = torch.empty(*maps_NKcc.shape[:2], 3, dtype=torch.float64, device=device)
    for batch in same_size({index: square.shape[:2] for index, square in enumerate(squares)}, batch_size):
        size = squares[batch[0]].shape[:2]
        maps_nKHW = functional.interpolate(maps_NKcc[batch], size, mode="bilinear", align_corners=True)
        best_nK, index_nK = maps_nKHW.flatten(2).max(dim=2)
        points_NK3[batch] = torch.stack(
            [(index_nK % size[1]).double(), (index_nK // size[1]).double(), best_nK.double()], dim=2
        )
    points_NK3[points_NK3[:, :, 2] <= _LEAST] = math.nan
    # waited for once: which faces are of one size is known here, what is in them is not
    return list(points_NK3.cpu().numpy())


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
