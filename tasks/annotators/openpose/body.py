"""Joints of a batch of images: the network's coarse maps, and the peaks in them, found on the device.

Cao et al., "Realtime Multi-Person 2D Pose Estimation using Part Affinity Fields", 2017; the constants are those of
ControlNet's annotator (controlnet_aux, open_pose/body.py).

Shapes: B images of H by W, P joints, L channels of limb fields, h and w cells of 8 pixels of the network's input.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from tasks.annotators.network import finite
from tasks.annotators.openpose.operators import Matrix, enlarging, enlarging_smoothly
from tasks.images.types import Pixels, as_pixels

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NUM_JOINTS: Final = 18
STRIDE: Final = 8
_INPUT_HEIGHT = 184
_GREY = 128
_SIGMA = 3.0
_LEAST_PEAK = 0.1
_ROUNDING = 1e-5
_WIDEST = 8


@dataclass(frozen=True, slots=True)
class Field:
    """What the network found in one image."""

    peaks: list[NDArray[np.float64]]
    """For each joint (n, 3): x, y in pixels, and the score; by rows of the image."""
    limbs_Lhw: NDArray[np.float64]
    """Part affinity fields, coarse."""
    rows: Matrix
    """(H, h): the coarse fields at a row of the image."""
    columns: Matrix
    """(W, w): the same for a column."""

    def at(self, channel: int, x: NDArray[np.intp], y: NDArray[np.intp]) -> NDArray[np.float64]:
        """Values of a limb field at pixels, as if it had been enlarged to the image."""
        values: NDArray[np.float64] = np.einsum("nh,nh->n", self.rows[y], self.columns[x] @ self.limbs_Lhw[channel].T)
        return values


def find_joints(network: "nn.Module", images: Sequence[Pixels], device: "torch.device") -> list[Field]:
    """Joints of RGB images of one size.

    Raises:
        ValueError: the images are too long for their width.
    """
    batch_B3hw, kept = network_input(images)
    limbs_BLhw, joints_BPhw = network(batch_B3hw.to(device))
    height, width = images[0].shape[:2]
    return fields(finite(limbs_BLhw), finite(joints_BPhw), (height, width), kept)


def network_input(images: Sequence[Pixels]) -> tuple["Tensor", tuple[int, int]]:
    """BGR of about -0.5 to 0.5, 184 pixels high, grey below and to the right; and its size without the grey."""
    import torch

    height, width = images[0].shape[:2]
    scale = _INPUT_HEIGHT / height
    size = (int(width * scale), int(height * scale))
    if not 0 < size[0] <= _WIDEST * _INPUT_HEIGHT:
        raise ValueError(f"the image of {width}x{height} pixels is too long for its width for OpenPose")
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LANCZOS4
    small = [cv2.resize(np.ascontiguousarray(image[:, :, ::-1]), size, interpolation=interpolation) for image in images]
    below, right = -size[1] % STRIDE, -size[0] % STRIDE
    padded = np.pad(np.stack(small), ((0, 0), (0, below), (0, right), (0, 0)), constant_values=_GREY)
    return torch.from_numpy(as_pixels(padded)).permute(0, 3, 1, 2).float() / 256 - 0.5, (size[1], size[0])


def fields(limbs_BLhw: "Tensor", joints_BPhw: "Tensor", size: tuple[int, int], kept: tuple[int, int]) -> list[Field]:
    """Peaks of the network's maps in images of `size` (H, W), whose network input without padding was `kept`."""
    import torch

    device = joints_BPhw.device
    area = sum(size) < sum(kept)
    axes = list(zip(joints_BPhw.shape[2:], kept, size, strict=True))
    rows, columns = (enlarging(*axis, stride=STRIDE, area=area) for axis in axes)
    smooth_rows, smooth_columns = (
        torch.from_numpy(enlarging_smoothly(*axis, stride=STRIDE, area=area, sigma=_SIGMA)).to(device) for axis in axes
    )
    joints_BPhw = joints_BPhw[:, :NUM_JOINTS].double()
    image, joint, y, x = _peaks(smooth_rows @ joints_BPhw, smooth_columns).unbind(1)
    rows_there, columns_there = torch.from_numpy(rows).to(device)[y], torch.from_numpy(columns).to(device)[x]
    scores = torch.einsum("nh,nhw,nw->n", rows_there, joints_BPhw[image, joint], columns_there)
    found = torch.stack([image.double(), joint.double(), x.double(), y.double(), scores], dim=1).cpu().numpy()
    return [
        Field(
            [found[(found[:, 0] == index) & (found[:, 1] == part), 2:] for part in range(NUM_JOINTS)],
            limbs_Lhw,
            rows,
            columns,
        )
        for index, limbs_Lhw in enumerate(limbs_BLhw.double().cpu().numpy())
    ]


def _peaks(rows_BPHw: "Tensor", columns_Ww: "Tensor") -> "Tensor":
    """Where `rows @ columns.T` is over the threshold and at least its four neighbours, (N, 4): image, joint, y, x.

    Most rows of most maps are far from any joint: only rows (R) that can pass the threshold at all are multiplied out,
    in single precision, to find candidates; whether they are peaks is decided in double precision. What is beyond the
    edges is less than any peak.
    """
    import torch

    num_joints, height = rows_BPHw.shape[1:3]
    rows_Rw = rows_BPHw.flatten(0, 2)
    highest = columns_Ww.abs().sum(dim=1).max() * rows_Rw.abs().amax(dim=1)
    row_R = (highest > _LEAST_PEAK - _ROUNDING).nonzero()[:, 0]
    value_RW = rows_Rw[row_R].float() @ columns_Ww.float().T
    may_be_RW = value_RW > _LEAST_PEAK - _ROUNDING
    almost_RW = value_RW - _ROUNDING
    may_be_RW[:, 1:] &= value_RW[:, 1:] >= almost_RW[:, :-1]
    may_be_RW[:, :-1] &= value_RW[:, :-1] >= almost_RW[:, 1:]
    line, x = may_be_RW.nonzero().unbind(1)
    row, y, width = row_R[line], row_R[line] % height, len(columns_Ww)

    def value(row: "Tensor", x: "Tensor") -> "Tensor":
        return (rows_Rw[row.clamp(0, len(rows_Rw) - 1)] * columns_Ww[x.clamp(0, width - 1)]).sum(dim=1)

    here = value(row, x)
    is_peak = here > _LEAST_PEAK
    for down, right, inside in ((-1, 0, y > 0), (1, 0, y < height - 1), (0, -1, x > 0), (0, 1, x < width - 1)):
        is_peak &= ~inside | (here >= value(row + down, x + right))
    which = row // height
    return torch.stack([which // num_joints, which % num_joints, y, x], dim=1)[is_peak]
