"""The drawing of people, against controlnet_aux's, and in a mirror."""

import numpy as np
import pytest

from controlmill.testing.poses import standing
from storage.people import BODY, FACE, LEFT_HAND, RIGHT_HAND, draw_body, draw_people, mirrored
from tasks.annotators.network import foreign_imports

SIZE = np.array([192, 256])


@pytest.mark.parametrize("seed", range(6))
def test_bodies_are_the_same_pixels_as_controlnet_aux_draws(seed: int) -> None:
    with foreign_imports():
        from controlnet_aux.open_pose.body import Keypoint
        from controlnet_aux.open_pose.util import draw_bodypose
    rng = np.random.default_rng(seed)
    shares = standing(seed=seed) if seed < 3 else rng.uniform(0, 1, (18, 2))
    shares[rng.uniform(size=18) < 0.2] = np.nan
    ours, theirs = np.zeros((256, 192, 3), np.uint8), np.zeros((256, 192, 3), np.uint8)
    draw_body(ours, np.column_stack([shares * SIZE, np.ones(18)]))
    draw_bodypose(theirs, [None if np.isnan(x) else Keypoint(x=x * 192 / 192, y=y * 256 / 256) for x, y in shares])
    assert ours.any()
    assert (ours == theirs).all()


def person(seed: int) -> dict[str, list[float] | None]:
    rng = np.random.default_rng(seed)
    joints = np.column_stack([standing(seed=seed) * SIZE, np.ones(18)])
    joints[3] = 0  # an elbow that was not found
    hand = np.column_stack([rng.uniform(20, 60, (21, 2)), np.ones(21)])
    return {BODY: joints.ravel().tolist(), LEFT_HAND: hand.ravel().tolist(), RIGHT_HAND: None, FACE: None}


def test_a_mirror_in_a_mirror_shows_the_same() -> None:
    people = [person(0), person(1)]
    once = mirrored(people, 192)
    assert once != people
    for back, one in zip(mirrored(once, 192), people, strict=True):
        assert back[RIGHT_HAND] is back[FACE] is None
        for name in (BODY, LEFT_HAND):
            assert back[name] == pytest.approx(one[name])


def test_sides_change_places() -> None:
    before, (after,) = person(0), mirrored([person(0)], 192)
    was, now = (np.reshape(one[BODY], (18, 3)) for one in (before, after))
    assert now[2].tolist() == [191 - was[5, 0], *was[5, 1:]]
    assert now[6].tolist() == [0, 0, 0]
    assert now[0].tolist() == [191 - was[0, 0], *was[0, 1:]]
    assert after[LEFT_HAND] is None
    assert after[RIGHT_HAND] is not None


def test_hands_without_bodies() -> None:
    whole, hands = draw_people([person(0)], 256, 192), draw_people([person(0)], 256, 192, body=False)
    assert 0 < np.count_nonzero(hands.any(2)) < np.count_nonzero(whole.any(2))
