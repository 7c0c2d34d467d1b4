"""Scores of maps that were read back, on numbers worked out by hand."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.annotators import registry
from training.controllability import SCORES, confirmed, f1, lift, mean_angle, mean_iou, ms_ssim, pose_similarity, rmse


def grid(*rows: str) -> NDArray[np.uint8]:
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.uint8)


def test_f1_of_edges() -> None:
    # two of three wanted pixels found, and two others: precision 1/2, recall 2/3
    assert f1(grid("110", "110"), grid("100", "101")) == pytest.approx(2 * 2 / (4 + 3))
    assert f1(grid("10", "00") * 255, grid("10", "00") * 255) == 1.0
    assert f1(grid("10"), grid("01")) == 0.0
    assert f1(grid("00"), grid("00")) == 1.0
    assert f1(grid("00"), grid("01")) == 0.0


def test_rmse_of_depth_divides_each_map_by_its_maximum() -> None:
    assert rmse(grid("12", "34"), grid("24", "68")) == pytest.approx(0.0, abs=1e-9)
    assert rmse(grid("10"), grid("01")) == pytest.approx(255.0)
    assert rmse(grid("00"), grid("00")) == 0.0


def test_miou_of_classes() -> None:
    # class 1: 1 of 2, class 2: 1 of 2, class 3: 0 of 1 (only wanted), class 4: 0 of 1 (only read)
    assert mean_iou(grid("1124"), grid("1223")) == pytest.approx((1 / 2 + 1 / 2 + 0 + 0) / 4)
    assert mean_iou(grid("57"), grid("57")) == 1.0


def test_angle_between_normals() -> None:
    right, up = np.array([[[255, 127, 127]]], dtype=np.uint8), np.array([[[127, 255, 127]]], dtype=np.uint8)
    assert mean_angle(right, up) == pytest.approx(90, abs=1)
    assert mean_angle(right, right) == pytest.approx(0, abs=1e-3)


def test_ssim_is_one_for_equal_maps_and_falls_with_noise() -> None:
    draw = np.random.default_rng(0)
    clean = (np.indices((64, 64)).sum(0) % 16 < 8).astype(np.uint8) * 255
    scores = []
    for share in (0.0, 0.05, 0.2, 0.5):
        noisy = clean.copy()
        flipped = draw.random(clean.shape) < share
        noisy[flipped] = 255 - noisy[flipped]
        scores.append(ms_ssim(noisy, clean))
    assert scores[0] == pytest.approx(1.0)
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < 0.3
    assert 0 <= ms_ssim(clean, 255 - clean) < 0.05


def test_ssim_of_flat_maps_is_the_luminance_term() -> None:
    dark, light = (np.full((256, 256), value, dtype=np.uint8) for value in (51, 102))
    expected = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    # five scales: the luminance counts at the last one, with its weight
    assert ms_ssim(dark, light) == pytest.approx(expected**0.1333, rel=1e-3)


def person(x: float, y: float, *, size: float = 100.0, missing: tuple[int, ...] = ()) -> dict[str, list[float]]:
    corners = [(0, 0), (1, 0), (0, 1), (1, 1)]
    joints = [(x + size * corners[joint % 4][0], y + size * corners[joint % 4][1]) for joint in range(18)]
    return {
        "pose_keypoints_2d": [
            value
            for joint, (px, py) in enumerate(joints)
            for value in ((0.0, 0.0, 0.0) if joint in missing else (px, py, 1.0))
        ]
    }


def test_keypoint_similarity() -> None:
    assert pose_similarity([person(0, 0)], [person(0, 0)]) == pytest.approx(1.0)
    assert pose_similarity([], []) == 1.0
    assert pose_similarity([], [person(0, 0)]) == 0.0
    assert pose_similarity([person(500, 500)], [person(0, 0)]) == pytest.approx(0.0, abs=1e-6)
    # a person too many halves it, whatever the order
    assert pose_similarity([person(900, 0), person(0, 0)], [person(0, 0)]) == pytest.approx(0.5)
    # one of 17 joints was not read (the neck, number 1, does not count)
    assert pose_similarity([person(0, 0, missing=(4,))], [person(0, 0)]) == pytest.approx(16 / 17)
    assert pose_similarity([person(0, 0, missing=(1,))], [person(0, 0)]) == pytest.approx(1.0)


def test_keypoint_similarity_of_one_joint_by_the_formula() -> None:
    moved = person(0, 0)
    moved["pose_keypoints_2d"][3 * 4] += 10.0
    area = 100.0 * 100.0 * 0.53
    one = math.exp(-100 / (2 * area * (2 * 0.062) ** 2))
    assert pose_similarity([moved], [person(0, 0)]) == pytest.approx((16 + one) / 17)


def test_lift_compares_scores_of_any_unit() -> None:
    assert lift(0.5, 0.1, 0.9) == pytest.approx(0.5)
    assert lift(40.0, 60.0, 20.0) == pytest.approx(0.5)
    assert lift(0.1, 0.1, 0.9) == 0.0
    assert lift(0.2, 0.3, 0.3) == 0.0


def test_samples_confirm_where_the_rows_gained_clearly() -> None:
    before = [0.0, 0.01, -0.01, 0.02]
    # gains 0.3, 0.2, 0.4, 0.3: mean 0.3, standard error 0.041
    assert confirmed([0.3, 0.21, 0.39, 0.32], before)
    # gains 0.3, -0.1, 0.2, -0.1: mean 0.075, standard error 0.1
    assert not confirmed([0.3, -0.09, 0.19, -0.08], before)
    assert not confirmed([0.3], [0.0])


def test_every_annotator_has_a_score() -> None:
    own = {name for name in registry.names() if registry.find(name).__module__.startswith("tasks.")}
    assert {name for name in own if name not in registry.PRESETS} <= set(SCORES)
    flat = np.zeros((32, 32), dtype=np.uint8)
    normals = np.full((32, 32, 3), (127, 127, 255), dtype=np.uint8)
    for name, score in SCORES.items():
        same = [person(0, 0)] if name == "openpose" else normals if name.startswith("normal") else flat
        assert score.of(same, same) == pytest.approx(score.perfect, abs=1e-3)
