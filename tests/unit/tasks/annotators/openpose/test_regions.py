"""Connected regions of a batch, as OpenCV finds them in each map."""

import cv2
import numpy as np
import pytest
import torch

from tasks.annotators.openpose.regions import highest_points, regions


def _spiral(side: int) -> np.ndarray:
    """One long way to the middle: what takes the most steps."""
    drawn = np.zeros((side, side), np.uint8)
    low, high = 0, side - 1
    way = [(0, 0)]
    while high - low > 2:
        way += [(high, low), (high, high), (low, high), (low, low + 2), (high - 2, low + 2)]
        low, high = low + 2, high - 2
    cv2.polylines(drawn, [np.array(way, np.int32)], isClosed=False, color=1)
    return drawn


def _masks() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    noise = [(rng.random((33, 40)) < share).astype(np.uint8) for share in (0.05, 0.2, 0.35, 0.5, 0.9)]
    edges = np.zeros((33, 40), np.uint8)
    edges[0, 39] = edges[1, 0] = edges[32, 0] = edges[32, 39] = 1
    return [*noise, edges, np.zeros((33, 40), np.uint8), np.ones((33, 40), np.uint8)]


def test_the_regions_of_each_map_are_opencvs() -> None:
    masks = np.stack(_masks())
    place_P, root_P = regions(torch.from_numpy(masks > 0))
    assert (np.flatnonzero(masks) == place_P.numpy()).all()
    root = np.full(masks.size, -1)
    root[place_P] = place_P[root_P]
    every_place = np.arange(masks.size).reshape(masks.shape)
    for mask, of_map, places in zip(masks, root.reshape(masks.shape), every_place, strict=True):
        num_regions, labels = cv2.connectedComponents(mask, connectivity=8)
        assert len(np.unique(of_map[mask > 0])) == num_regions - 1
        for label in range(1, num_regions):
            # the first pixel of a region stands for it
            (root_of_region,) = set(of_map[labels == label])
            assert root_of_region == places[labels == label].min()


def test_a_long_way_is_one_region() -> None:
    spiral = _spiral(61)
    num_regions, _ = cv2.connectedComponents(spiral, connectivity=8)
    _, root_P = regions(torch.from_numpy(spiral[None] > 0))
    assert num_regions == 2
    assert root_P.unique().tolist() == [0]


@pytest.mark.parametrize("seed", range(3))
def test_the_highest_point_is_in_the_region_with_the_largest_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    raw = cv2.GaussianBlur(rng.normal(0, 1, (40, 40, 6)), (0, 0), 2).transpose(2, 0, 1).copy()
    smooth = cv2.GaussianBlur(raw.transpose(1, 2, 0), (0, 0), 2).transpose(2, 0, 1)
    smooth[4] = -1
    points = highest_points(torch.from_numpy(raw), torch.from_numpy(smooth), 0.05).numpy()
    assert np.isnan(points[4]).all()
    for number in (0, 1, 2, 3, 5):
        num_regions, labels = cv2.connectedComponents((smooth[number] > 0.05).astype(np.uint8), connectivity=8)
        assert num_regions > 2
        sums = [raw[number][labels == label].sum() for label in range(1, num_regions)]
        there = np.where(labels == 1 + int(np.argmax(sums)), raw[number], -np.inf)
        y, x = np.unravel_index(there.argmax(), there.shape)
        assert points[number].tolist() == [x, y, raw[number, y, x]]


def test_a_region_without_a_value_over_zero_has_no_point() -> None:
    raw, smooth = torch.full((2, 5, 5), -1.0), torch.full((2, 5, 5), -1.0)
    smooth[:, 1:3, 1:3] = 1
    raw[1, 2, 1] = 0.5
    none, one = highest_points(raw, smooth, 0.05).tolist()
    assert np.isnan(none).all()
    assert one == [1, 2, 0.5]
