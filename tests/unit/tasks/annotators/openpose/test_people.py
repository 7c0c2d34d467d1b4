"""Known skeletons, drawn as the network would see them, are found again, and as controlnet_aux finds them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from controlmill.testing.pictures import photo
from controlmill.testing.poses import Joints, draw_maps, standing
from tasks.annotators.network import foreign_imports
from tasks.annotators.openpose.body import Field, fields, network_input
from tasks.annotators.openpose.people import LIMBS, Person, find_people

SIZE = (256, 320)
CELLS = (23, 29)


def found(people: Sequence[Joints], size: tuple[int, int] = SIZE, cells: tuple[int, int] = CELLS) -> list[Person]:
    return find_people(field_of(*draw_maps(people, LIMBS, *cells), size))


def field_of(limbs: np.ndarray, joints: np.ndarray, size: tuple[int, int]) -> Field:
    _, kept = network_input([photo(size[1], size[0])])
    (field,) = fields(torch.from_numpy(limbs)[None], torch.from_numpy(joints)[None], size, kept)
    return field


def theirs(limbs: np.ndarray, joints: np.ndarray, size: tuple[int, int]) -> Any:
    """Peaks and people of controlnet_aux from the same maps."""
    with foreign_imports():
        from controlnet_aux.open_pose.body import Body

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.anything = torch.nn.Parameter(torch.zeros(1))

        def forward(self, _pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.from_numpy(limbs)[None], torch.from_numpy(joints)[None]

    body = Body.__new__(Body)
    body.model = Maps()
    return body(photo(size[1], size[0]))


def assert_same(limbs: np.ndarray, joints: np.ndarray, size: tuple[int, int]) -> int:
    """That both find the same; how many people there are."""
    field = field_of(limbs, joints, size)
    candidates, subset = theirs(limbs, joints, size)
    ours = np.concatenate(field.peaks)
    assert (ours[:, :2] == candidates[:, :2]).all()
    # their enlarged maps are in single precision
    assert np.abs(ours[:, 2] - candidates[:, 2]).max() < 5e-5
    people = find_people(field)
    assert len(people) == len(subset)
    for person, row in zip(people, subset, strict=True):
        there = row[:18].astype(int)
        assert (np.isnan(person.joints[:, 0]) == (there < 0)).all()
        assert (person.joints[there >= 0, :2] == candidates[there[there >= 0], :2]).all()
        assert abs(person.score - row[18] / row[19]) < 5e-5
    return len(people)


@pytest.mark.parametrize("num_people", [1, 2, 3])
def test_everybody_is_found_within_a_few_pixels(num_people: int) -> None:
    there = [standing(index / num_people, 0.02, 0.95 / num_people, seed=index) for index in range(num_people)]
    people = sorted(found(there), key=lambda person: float(np.nanmean(person.joints[:, 0])))
    assert len(people) == num_people
    for person, joints in zip(people, there, strict=True):
        apart = person.joints[:, :2] - joints * SIZE[::-1]
        assert np.nanmax(np.abs(apart)) < 6
        assert np.isnan(person.joints[:, 0]).sum() <= 2
        assert person.score > 0.4


def test_a_hidden_joint_is_missing() -> None:
    joints = standing(0.1, 0.02, 0.9)
    joints[[4, 10]] = np.nan
    (person,) = found([joints])
    assert np.isnan(person.joints[[4, 10]]).all()
    assert not np.isnan(person.joints[[3, 9]]).any()


def test_nobody_is_nobody() -> None:
    assert found([]) == []
    lonely = np.full((18, 2), np.nan)
    lonely[0] = 0.5
    assert found([lonely]) == []


@pytest.mark.parametrize(
    ("size", "cells"), [((256, 320), (23, 29)), ((512, 384), (23, 18)), ((128, 192), (23, 35)), ((100, 37), (23, 9))]
)
def test_the_same_peaks_and_people_as_controlnet_aux_for_drawn_people(
    size: tuple[int, int], cells: tuple[int, int]
) -> None:
    """Joints are equal, scores within 5e-5."""
    people = [standing(0.0, 0.02, 0.6), standing(0.4, 0.3, 0.6, seed=1)]
    assert assert_same(*draw_maps(people, LIMBS, *cells), size) > 0


@pytest.mark.parametrize("seed", range(2))
def test_the_same_peaks_and_people_as_controlnet_aux_for_noise(seed: int) -> None:
    """Where joints touch several people, and people are merged: equal too."""
    rng = np.random.default_rng(seed)
    limbs, joints = draw_maps([standing(0.1 * index, 0.02, 0.9, seed=index) for index in range(3)], LIMBS, *CELLS)
    limbs += rng.normal(0, 0.3, limbs.shape).astype(np.float32)
    joints += rng.normal(0, 0.05, joints.shape).astype(np.float32)
    assert assert_same(limbs, joints, SIZE) > 0


def test_each_image_of_a_batch_has_its_own_people() -> None:
    one, two = (draw_maps([standing(left, 0.02, 0.6)], LIMBS, *CELLS) for left in (0.0, 0.4))
    batch = [torch.from_numpy(np.stack(pair)) for pair in zip(one, two, strict=True)]
    _, kept = network_input([photo(SIZE[1], SIZE[0])])
    both = [find_people(field) for field in fields(batch[0], batch[1], SIZE, kept)]
    alone = [find_people(field_of(*maps, SIZE)) for maps in (one, two)]
    assert [len(people) for people in both] == [1, 1]
    for people, other in zip(both, alone, strict=True):
        assert np.array_equal(people[0].joints, other[0].joints, equal_nan=True)


def test_an_image_too_long_for_its_width_is_refused() -> None:
    for size in ((1000, 20), (20, 4000)):
        with pytest.raises(ValueError, match="too long for its width"):
            network_input([np.zeros((size[1], size[0], 3), np.uint8), np.zeros((size[1], size[0], 3), np.uint8)])
