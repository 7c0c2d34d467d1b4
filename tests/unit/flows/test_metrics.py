"""When gauges are set; what Prometheus collects of them is in tests/integration/test_metrics.py."""

from collections import defaultdict
from typing import Any

import pytest

from flows import metrics

UPDATE = {"seconds": 0.1, "loss": 0.5, "learning_rate": 1e-5, "samples_seen": 4}
GAIN = "controlmill_control_gain"


class Told:
    """Keeps what one metric is told, as Ray's have it."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def set(self, value: float) -> None:
        self.values.append(value)

    def observe(self, value: float) -> None:
        self.values.append(value)

    def inc(self, value: float, tags: dict[str, str]) -> None:
        assert not tags
        self.values.append(value)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    kept: dict[str, Any] = defaultdict(Told)
    monkeypatch.setattr(metrics, "_metric", kept.__getitem__)
    return kept


def test_the_last_gain_is_set_with_each_update_of_its_run(told: dict[str, Any]) -> None:
    gauges = metrics.TrainingGauges()
    gauges.trained(UPDATE)
    assert GAIN not in told
    gauges.measured("probe/gain", 0.25)
    gauges.measured("probe/other", 7.0)
    for _ in range(2):
        gauges.trained(UPDATE)
    assert told[GAIN].values == [0.25] * 3
    assert told["controlmill_updates_total"].values == [1] * 3
    metrics.TrainingGauges().trained(UPDATE)
    assert told[GAIN].values == [0.25] * 3
