"""What a run tells Prometheus, through the metrics of the Ray that it runs on. docs/monitoring.md explains each.

Ray exports the metrics of every process at a port of its node, with `ray_` before each name. They are set by the
process of the flow, which hears of every commit: a counter says what is committed. After a run that was killed
Prometheus sees counters begin again, as it is used to. Where nobody collects them, setting one costs microseconds.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from storage.record import CommitRecord


class Metric(NamedTuple):
    """One metric; Ray's exporter puts `ray_` before its name."""

    kind: str
    """counter, gauge or histogram."""
    description: str
    tags: tuple[str, ...] = ()


METRICS = {
    "controlmill_rows_total": Metric("counter", "Rows of committed shards, by what became of them.", ("result",)),
    "controlmill_failures_total": Metric("counter", "Rows without an image in committed shards.", ("reason",)),
    "controlmill_layer_rows_total": Metric("counter", "Rows of committed shards of a layer.", ("layer",)),
    "controlmill_shard_seconds": Metric("histogram", "Seconds that a committed shard of a layer took.", ("layer",)),
    "controlmill_jobs_waiting": Metric("gauge", "Shards that wait for a place in a lane.", ("lane",)),
    "controlmill_shards_under_way": Metric("gauge", "Shards that are begun or waiting, and not complete."),
    "controlmill_rows_under_way": Metric("gauge", "Rows done of shards that are not committed yet."),
    "controlmill_updates_total": Metric("counter", "Updates of the optimizer."),
    "controlmill_update_seconds": Metric("histogram", "Seconds of an update."),
    "controlmill_samples_seen": Metric("gauge", "Samples that the run has trained on."),
    "controlmill_training_loss": Metric("gauge", "Loss of the last update."),
    "controlmill_learning_rate": Metric("gauge", "Learning rate of the last update."),
    "controlmill_control_gain": Metric("gauge", "Control gain at the last measurement of the probe."),
    "controlmill_events_total": Metric("counter", "Events of training runs.", ("event",)),
}

_GAIN = "controlmill_control_gain"
_OF_UPDATES = {
    "controlmill_training_loss": "loss",
    "controlmill_learning_rate": "learning_rate",
    "controlmill_samples_seen": "samples_seen",
}
_BOUNDARIES: dict[str, list[float]] = {
    "controlmill_shard_seconds": [1, 3, 10, 30, 60, 120, 300, 600, 1800, 3600],
    "controlmill_update_seconds": [0.03, 0.1, 0.3, 1, 3, 10, 30],
}


def shard_committed(records: Sequence[CommitRecord], counted: CommitRecord | None) -> None:
    """Count the commit records of a job; `counted` is the one whose rows are: those of a shard are, once."""
    if counted is not None:
        _add("controlmill_rows_total", counted.successes, result="image")
        _add("controlmill_rows_total", counted.count - counted.successes, result="failed")
        for reason, num in counted.reasons.items():
            _add("controlmill_failures_total", num, reason=str(reason))
    for record in records:
        _add("controlmill_layer_rows_total", record.rows, layer=record.layer)
    # layers that are made in the pass that pulls are part of it
    for record in records[:1] if records[0].layer == "image" else records:
        _metric("controlmill_shard_seconds").observe(record.duration, tags={"layer": record.layer})


def queues(waiting: Mapping[str, int], num_under_way: int, num_rows_under_way: int) -> None:
    """Set the depth of the queue of each lane, and how much is under way."""
    for lane, num in waiting.items():
        _metric("controlmill_jobs_waiting").set(num, tags={"lane": lane})
    _metric("controlmill_shards_under_way").set(num_under_way)
    _metric("controlmill_rows_under_way").set(num_rows_under_way)


class TrainingGauges:
    """What one training run tells of its updates.

    Ray forgets a gauge that was not set for some seconds, so the gain is set again with each update: the probe measures
    it once in hundreds of them.
    """

    def __init__(self) -> None:
        self._gain: float | None = None

    def trained(self, record: Mapping[str, Any]) -> None:
        """Take one update: a line of metrics.jsonl."""
        _add("controlmill_updates_total", 1)
        _metric("controlmill_update_seconds").observe(record["seconds"])
        for name, key in _OF_UPDATES.items():
            _metric(name).set(record[key])
        if self._gain is not None:
            _metric(_GAIN).set(self._gain)

    def measured(self, name: str, value: float) -> None:
        """Take a number that a callback measured; those that have no metric are passed over."""
        if name == "probe/gain":
            self._gain = value
            _metric(_GAIN).set(value)


def happened(event: str) -> None:
    """Count an event of a training run."""
    _add("controlmill_events_total", 1, event=event)


def _add(name: str, num: int, **tags: str) -> None:
    if num > 0:  # Ray refuses to add nothing
        _metric(name).inc(num, tags=tags)


@cache
def _metric(name: str) -> Any:
    """Ray's object behind a name, made when it is first needed: Ray has to run by then."""
    from ray.util import metrics

    kind, description, tags = METRICS[name]
    if kind == "histogram":
        return metrics.Histogram(name, description, boundaries=_BOUNDARIES[name], tag_keys=tags)
    return {"counter": metrics.Counter, "gauge": metrics.Gauge}[kind](name, description, tag_keys=tags)
