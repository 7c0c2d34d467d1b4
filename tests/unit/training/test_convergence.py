"""The detector over whole curves: what happens when, what does not happen, and resume."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from controlmill.config.convergence import ConvergenceOptions
from controlmill.testing.probe_curves import evaluation, evaluations
from training.convergence import Detector, replay
from training.gain import Evaluation, measure

OPTIONS = ConvergenceOptions()
UPDATES = range(0, 2001, 40)


def logistic(update: int, width: float = 0.25) -> float:
    """Midpoint at update 1000, up to 0.6; 10 to 90 % take `width` times the way to it."""
    return 0.6 / (1 + math.exp(-2 * math.log(9) / (1000 * width) * (update - 1000)))


def growing(update: int) -> float:
    """S of a run that converges at 1000: doubles each 75 updates, 1 at update 960."""
    return min(1.2, math.exp((update - 960) * math.log(2) / 75))


def events_of(detector: Detector) -> dict[str, int]:
    return {event.name: event.update for event in detector.events.values()}


def test_a_sudden_run() -> None:
    detector = replay(evaluations(UPDATES, logistic), OPTIONS)
    assert events_of(detector) == {"control_onset": 880, "control_following": 1000, "control_settled": 1320}
    settled = detector.events["control_settled"]
    assert settled.values["convergence_update"] == pytest.approx(1000, abs=10)
    low, high = settled.values["ci95"]
    assert low <= settled.values["convergence_update"] <= high
    assert settled.values["label"] == "sudden"
    assert settled.values["R"] == pytest.approx(0.125, abs=0.01)
    assert settled.values["rho"] == pytest.approx(0.25, abs=0.02)
    assert settled.to_json()["samples_seen"] == 16 * 1320
    assert settled.to_json()["epoch"] == pytest.approx(13.2)


@pytest.mark.parametrize(("top", "width"), [(0.8, 0.08), (0.8, 0.25), (0.8, 0.5), (0.6, 0.25), (0.4, 0.25)])
def test_strong_hints_are_followed_where_their_rise_is_well_begun(top: float, width: float) -> None:
    """Not at 6 % of it, where the floor of the gain is, and within -40 to +10 % of its midpoint."""
    seen = evaluations(UPDATES, lambda update: top / 0.6 * logistic(update, width))
    at = events_of(replay(seen, OPTIONS))["control_following"]
    assert top / 0.6 * logistic(at - 40, width) >= OPTIONS.following_high_gain - 0.02
    assert 800 <= at <= 1080


@pytest.mark.parametrize("top", [0.07, 0.1, 0.13])
def test_weak_hints_are_followed_once_their_rise_has_bent(top: float) -> None:
    """They never reach the high gain."""
    at = events_of(replay(evaluations(UPDATES, lambda update: top / 0.6 * logistic(update)), OPTIONS))
    assert 1000 < at["control_following"] <= 1200
    assert top / 0.6 * logistic(at["control_following"]) >= 0.85 * top
    unbent = ConvergenceOptions(following_bend=1e-9)
    assert "control_following" not in events_of(
        replay(evaluations(UPDATES, lambda update: top / 0.6 * logistic(update), spread=0.0), unbent)
    )


@pytest.mark.parametrize(
    ("curve", "label"),
    [
        (lambda update: 0.6 * update / 2000, "gradual"),
        (lambda update: 0.6 * (1 - math.exp(-update / 500)), "gradual"),
        (lambda update: 0.6 * math.sqrt(update / 2000), "gradual"),
        (lambda update: 0.6 * (update / 2000) ** 2, "indeterminate"),
        (lambda update: logistic(update, 1.25), "indeterminate"),
    ],
    ids=["line", "exponential", "root", "square", "broad"],
)
def test_runs_that_are_not_sudden(curve: Callable[[int], float], label: str) -> None:
    found = replay(evaluations(UPDATES, curve), OPTIONS).convergence()
    assert found is not None
    assert found.label == label


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.2])
def test_unrelated_hints_are_silent(spread: float) -> None:
    """The last one scatters so much that its mean passes the floor now and then: significance holds it back."""
    detector = replay(evaluations(UPDATES, lambda _: 0.0, spread=spread), OPTIONS)
    assert events_of(detector) == {}
    assert detector.convergence() is None
    assert detector.max_gain is not None
    assert (detector.max_gain > OPTIONS.following_gain) == (spread == 0.2)


def test_a_small_effect_is_onset_and_never_following() -> None:
    detector = replay(evaluations(UPDATES, lambda update: 0.03 if update else 0.0), OPTIONS)
    assert events_of(detector) == {"control_onset": 120}


def test_the_sensitivity_announces_the_onset() -> None:
    seen = [replace(evaluation(update, 0.0), sensitivity=growing(update)) for update in UPDATES]
    # 0.5 is passed at 885
    assert events_of(replay(seen, OPTIONS)) == {"control_onset": 920}


def test_one_good_evaluation_is_not_enough() -> None:
    gains = {400: 0.2, 800: 0.3}
    assert "control_following" not in events_of(
        replay(evaluations(UPDATES, lambda update: gains.get(update, 0.0)), OPTIONS)
    )


def test_a_run_that_follows_from_the_start_has_no_event_to_date() -> None:
    detector = replay(evaluations(range(3000, 4000, 40), lambda update: 0.3 + (update - 3000) / 10000), OPTIONS)
    assert events_of(detector) == {"already_following": 3000}
    assert detector.convergence() is None
    assert detector.forecasts == []


def test_at_the_first_evaluation_the_gain_decides() -> None:
    """16 rows whose penalties scatter: not significant enough for `following`, and no noise either."""
    seen = evaluations(range(40, 2001, 40), lambda _: 0.2, num_rows=16, spread=0.45)
    first = measure(seen[0])
    assert first is not None
    assert OPTIONS.following_p < first.p_value < 0.05
    assert events_of(replay(seen, OPTIONS)) == {"already_following": 40}


def test_noise_at_the_first_evaluation_decides_nothing() -> None:
    """A gain above the floor, by chance."""
    by_chance = 0
    for start in range(40, 8000, 40):
        one = evaluation(start, 0.0, num_rows=8, spread=0.3)
        found = measure(one)
        assert found is not None
        by_chance += found.gain >= OPTIONS.following_gain
        if found.p_value >= 0.05:
            assert Detector(OPTIONS).add(one) == []
    assert by_chance > 30


def test_values_before_settled_are_provisional() -> None:
    detector = replay(evaluations(range(0, 1001, 40), logistic), OPTIONS)
    assert set(events_of(detector)) == {"control_onset", "control_following"}
    found = detector.convergence()
    assert found is not None
    assert 900 < found.rise.s50 < 1000


@pytest.mark.parametrize("stop", [1, 10, 23, 24, 33, 34, 50])
def test_a_resumed_detector_is_the_uninterrupted_one(stop: int) -> None:
    seen = [replace(one, sensitivity=growing(one.update)) for one in evaluations(UPDATES, logistic)]
    whole = replay(seen, OPTIONS)
    first = replay(seen[:stop], OPTIONS)
    resumed = Detector(OPTIONS)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    announced = [event for one in seen[stop:] for event in resumed.add(one)]
    assert resumed.state_dict() == whole.state_dict()
    assert [*first.events.values(), *announced] == list(whole.events.values())
    assert resumed.forecasts == whole.forecasts


def test_known_gains_are_enough_for_all_but_the_interval() -> None:
    seen = [replace(one, sensitivity=growing(one.update)) for one in evaluations(UPDATES, logistic)]
    whole, again = replay(seen, OPTIONS), Detector(OPTIONS)
    for one, gain in zip(whole.evaluations, whole.gains, strict=True):
        again.take(Evaluation(one.update, (), (), one.sensitivity), gain)
    assert events_of(again) == events_of(whole)
    assert again.forecasts == whole.forecasts
    found, expected = again.convergence(), whole.convergence()
    assert found is not None
    assert expected is not None
    assert found.rise == expected.rise
    assert found.ci95 is None


def test_evaluations_may_be_missing_and_unevenly_spaced() -> None:
    updates = [update for update in UPDATES if update % 280 and update not in (840, 880)]
    detector = replay(evaluations(updates, logistic), OPTIONS)
    assert list(events_of(detector)) == ["control_onset", "control_following", "control_settled"]
    assert detector.events["control_settled"].values["convergence_update"] == pytest.approx(1000, rel=0.02)


def test_an_evaluation_of_nan_counts_as_missing() -> None:
    seen = evaluations(UPDATES, logistic)
    broken = [replace(one, right=((math.nan,) * 3,) * 32) if one.update in (200, 960) else one for one in seen]
    kept = [one for one in seen if one.update not in (200, 960)]
    detector = replay(broken, OPTIONS)
    assert detector.num_unusable == 2
    assert detector.events == replay(kept, OPTIONS).events


def test_single_rows_of_nan_do_not_move_the_result() -> None:
    seen = evaluations(UPDATES, logistic)
    holed = [replace(one, wrong=((math.nan,) * 3, *one.wrong[1:])) if one.update % 80 else one for one in seen]
    detector = replay(holed, OPTIONS)
    assert detector.events["control_settled"].values["convergence_update"] == pytest.approx(1000, rel=0.01)
    assert detector.events["control_settled"].values["ci95"] is not None


def test_a_plateau_on_the_way_up_is_not_the_end() -> None:
    """A step to 0.2 at 500 settles; the rise to 0.6 at 1500 shows that it was a step on the way."""

    def two_steps(update: int) -> float:
        return 0.2 / (1 + math.exp((500 - update) / 20)) + 0.4 / (1 + math.exp((1500 - update) / 20))

    settled = {}
    detector = Detector(OPTIONS)
    for one in evaluations(UPDATES, two_steps):
        for event in detector.add(one):
            if event.name == "control_settled":
                settled[event.update] = event.values["convergence_update"]
    first, second = settled.values()
    assert first == pytest.approx(500, abs=15)
    assert second == pytest.approx(1500, abs=25)
    assert detector.events["control_settled"].update == max(settled)


def test_two_rows_are_too_few_for_a_false_alarm_and_eight_are_enough() -> None:
    few = replay(evaluations(UPDATES, logistic, num_rows=2, spread=0.1), OPTIONS)
    assert "control_following" not in few.events
    assert "control_settled" in replay(evaluations(UPDATES, logistic, num_rows=8), OPTIONS).events


def test_before_the_first_update_nothing_is_divided_by_zero() -> None:
    losses = ((0.1, 0.2, 0.3),) * 32
    assert Detector(OPTIONS).add(Evaluation(0, losses, losses, 0.0)) == []
