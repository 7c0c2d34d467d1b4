"""Hands and faces as controlnet_aux finds them, with small networks of the same inputs and outputs."""

from typing import Any

import numpy as np
import torch

from controlmill.testing.pictures import photo
from tasks.annotators.network import foreign_imports
from tasks.annotators.openpose.details import NUM_FACE, NUM_HAND, find_faces, find_hands

CPU = torch.device("cpu")
SQUARES = [photo(90, 90), photo(140, 140, seed=1), photo(33, 33, seed=2)]


def small_network(num_maps: int) -> torch.nn.Module:
    """Eight pixels to a cell, like the real ones; its maps are neither all high nor all low."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 8, stride=8), torch.nn.ReLU(), torch.nn.Conv2d(16, num_maps, 3, padding=1)
    )
    with torch.no_grad():
        network[2].weight *= 3  # type: ignore[operator]
    return network.eval()


def test_hands_are_where_controlnet_aux_finds_them() -> None:
    """Equal to the pixel."""
    with foreign_imports():
        from controlnet_aux.open_pose.hand import Hand
    hand: Any = Hand.__new__(Hand)
    hand.model = small_network(NUM_HAND + 1)
    with torch.inference_mode():
        ours = find_hands(hand.model, SQUARES, CPU, batch_size=2)
    num_found = 0
    for points, square in zip(ours, SQUARES, strict=True):
        theirs = hand(square)
        num_found += int((~np.isnan(points[:, 0])).sum())
        assert (np.nan_to_num(points[:, :2]) == theirs).all()
    assert num_found > NUM_HAND


def test_faces_are_where_controlnet_aux_finds_them() -> None:
    """Equal to the pixel; controlnet_aux leaves out what it does not find, and so forgets which point is which."""
    with foreign_imports():
        from controlnet_aux.open_pose.face import Face
    face: Any = Face.__new__(Face)
    network = small_network(NUM_FACE + 1)
    face.model = torch.nn.Sequential(network, _AsList())
    with torch.inference_mode():
        ours = find_faces(face.model, SQUARES, CPU, batch_size=8)
    for points, square in zip(ours, SQUARES, strict=True):
        theirs = face.compute_peaks_from_heatmaps(face(square))
        there = points[~np.isnan(points[:, 0]), :2]
        assert len(there) > NUM_FACE / 4
        assert (there == theirs).all()


class _AsList(torch.nn.Module):
    """The face's network gives the maps of each of its stages."""

    def forward(self, maps: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros_like(maps), maps]


def test_no_square_is_no_point() -> None:
    dark = torch.nn.Sequential(torch.nn.Conv2d(3, NUM_HAND + 1, 8, stride=8))
    with torch.no_grad():
        dark[0].weight.zero_()
        dark[0].bias.fill_(-1)  # type: ignore[union-attr]
    with torch.inference_mode():
        (points,) = find_hands(dark, SQUARES[:1], CPU, batch_size=1)
    assert np.isnan(points).all()
