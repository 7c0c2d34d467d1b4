"""When a run is called stalled, and what is named as its likely cause."""

import math
from dataclasses import replace
from typing import Any

from controlmill.config import TrainConfig
from controlmill.config.convergence import ConvergenceOptions
from controlmill.testing.probe_curves import evaluation
from training.convergence import Detector, replay
from training.stalled import causes, stalled

RATE = 1e-4
"""With it, about 1,200 updates are usual."""


def detector(until: int, *, doubling: float = 0.0, gain: float = 0.01, level: float = 0.01) -> Detector:
    """S doubles each `doubling` updates up to 1 at update 1000, or stays at `level`."""
    seen = [
        replace(
            evaluation(update, gain if update else 0.0),
            sensitivity=math.exp((update - 1000) * math.log(2) / doubling) if doubling else level,
        )
        for update in range(0, until + 1, 40)
    ]
    return replay(seen, ConvergenceOptions())


def test_flat_sensitivity_late_in_the_run() -> None:
    assert stalled(detector(1000), 4000, RATE) is None
    found = stalled(detector(1800), 4000, RATE)
    assert found is not None
    assert found.kind == "no_growth"
    assert found.reason == "the residuals' sensitivity to the hint is 0.01, and was 0.01 halfway"


def test_hints_that_make_no_difference_at_all() -> None:
    """All alike: S is exactly 0, as at the start."""
    found = stalled(detector(1800, level=0.0), 4000, RATE)
    assert found is not None
    assert (found.kind, found.reason) == (
        "no_growth", "the residuals' sensitivity to the hint is 0, and was 0 halfway",
    )  # fmt: skip


def curve(*levels: float, gain: float = 0.01) -> Detector:
    """S at updates 0, 300, 600, …"""
    seen = [
        replace(evaluation(300 * k, gain if k else 0.0), sensitivity=level) for k, level in enumerate((0.0, *levels))
    ]
    return replay(seen, ConvergenceOptions())


def test_a_hint_that_is_read_has_its_time() -> None:
    """S grew from 0.1 to 0.9 and fell to 0.6: it is read, whatever its last steps were."""
    assert stalled(curve(0.05, 0.1, 0.1, 0.9, 0.8, 0.6), 3000, RATE) is None


def test_a_hint_that_is_read_and_never_followed() -> None:
    found = stalled(curve(0.1, 0.7, 0.8, 0.9, 0.8, 0.6, gain=0.0), 3000, RATE)
    assert found is not None
    assert found.kind == "not_followed"
    assert found.reason.startswith("the residuals' sensitivity to the hint is 0.6, and was 0.8 halfway, but the right")


def test_growth_is_left_alone() -> None:
    assert stalled(detector(800, doubling=100), 1600, RATE) is None
    assert stalled(detector(600, doubling=150), 1600, RATE) is None


def test_a_budget_that_ends_before_the_forecast() -> None:
    found = stalled(detector(800, doubling=100), 900, RATE)
    assert found is not None
    assert found.kind == "budget"
    assert found.reason == "convergence is expected around update 1,330, the run ends at 900"


def test_a_run_that_follows_is_never_stalled() -> None:
    assert stalled(detector(2000, gain=0.2), 2000, RATE) is None


def config(**options: Any) -> TrainConfig:
    needed = {"train_data_dir": "data", "condition": ["canny"], "pretrained_model_name_or_path": "b", "output_dir": "o"}
    return TrainConfig.model_validate({**needed, **options})


def test_causes_that_the_configuration_shows_come_first() -> None:
    found = causes(config(learning_rate=5e-6, gradient_accumulation_steps=8, hint_init="default"), 400, 2000)
    assert [text.split()[0] for text in found[:4]] == ["updates", "learning_rate", "there", "the"]
    assert "about 9,747 are usual" in found[0]
    good = causes(config(learning_rate=1e-4, train_batch_size=16, hint_init="kaiming"), 50_000, 2000)
    assert good[0].startswith("hints that do not belong to their images")
    assert not [text for text in good if "workers" in text]
    assert good[-1] == "if only images of other programs do not follow: their conditioning_scale is to be 1"
    several = causes(config(num_workers=2), 50_000, 2000)
    assert len([text for text in several if text.startswith("2 workers: ")]) == 1
