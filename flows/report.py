"""What a run did, for the person who started it and for Prefect's page."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from controlmill.reasons import SUCCESS, Reason
from storage.record import CommitRecord

_IMAGE, _CAPTION = "image", "caption"
_LONGEST = 200
"""Characters of what a network said that stand in a line."""


@dataclass(slots=True)
class Lack:
    """Rows with an image that have no result in a layer."""

    num_rows: int = 0
    messages: Counter[str] = field(default_factory=Counter)

    @property
    def why(self) -> str:
        """What went wrong, as it was told most often."""
        told = next((message for message, _ in self.messages.most_common(1)), "no reason told")
        said = told if len(told) <= _LONGEST else f"{told[:_LONGEST]}…"
        return f"most often {said}" if len(self.messages) > 1 else said


@dataclass(slots=True)
class BuildReport:
    """What one run did to a dataset."""

    uri: str
    num_shards: int = 0
    num_shards_before: int = 0
    """Shards that were complete already."""
    num_rows: int = 0
    """Rows tried in this run."""
    num_images: int = 0
    failed: Counter[Reason] = field(default_factory=Counter)
    lacks: dict[str, Lack] = field(default_factory=dict)
    """By layer made from the images: the rows that it failed on."""
    started_s: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Seconds of work, the start of Ray and Prefect not included."""
    flow_run_url: str | None = None

    def add(self, records: list[CommitRecord], *, counts: bool) -> None:
        """Take what a job has committed of a shard; its rows where it `counts`, and what each layer lacks."""
        if counts:
            record = counted(records)
            self.num_shards += 1
            self.num_rows += record.count
            self.num_images += record.successes
            self.failed.update({Reason(reason): num for reason, num in record.reasons.items()})
        for record in records:
            if record.layer != _IMAGE and record.successes < record.count:
                lack = self.lacks.setdefault(record.layer, Lack())
                lack.num_rows += record.count - record.successes
                lack.messages.update({told: num for told, num in record.status_dict.items() if told != SUCCESS})

    def lines(self) -> list[str]:
        """A line for each layer that lacks rows, in the order of their names."""
        return [
            f"{layer}: {lack.num_rows:,} {'row' if lack.num_rows == 1 else 'rows'} {_without(layer)} ({lack.why})"
            for layer, lack in sorted(self.lacks.items())
        ]

    def table(self) -> list[dict[str, Any]]:
        """Totals, failures by reason, the most frequent first, and what layers lack, as rows of a table."""
        rows = [
            {"what": "shards", "rows": self.num_shards},
            {"what": "rows", "rows": self.num_rows},
            {"what": "images", "rows": self.num_images},
        ]
        rows += [{"what": f"failed: {reason}", "rows": num} for reason, num in self.failed.most_common()]
        return rows + [
            {"what": f"{layer}: {_without(layer)} ({lack.why})", "rows": lack.num_rows}
            for layer, lack in sorted(self.lacks.items())
        ]


def counted(records: list[CommitRecord]) -> CommitRecord:
    """The record whose rows stand for those of a shard: that of the images, else of the layer that lacks most."""
    if records[0].layer == _IMAGE:
        return records[0]
    return max(records, key=lambda record: record.count - record.successes)


def _without(layer: str) -> str:
    return f"without a {'caption' if layer == _CAPTION else 'map'}"
