"""What a run did, for the person who started it and for Prefect's page."""

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from controlmill.reasons import Reason
from storage.record import CommitRecord


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
    started_s: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    """Seconds of work, the start of Ray and Prefect not included."""
    flow_run_url: str | None = None

    def add(self, record: CommitRecord) -> None:
        """Count a shard that this run has committed."""
        self.num_shards += 1
        self.num_rows += record.count
        self.num_images += record.successes
        self.failed.update({Reason(reason): num for reason, num in record.reasons.items()})

    def table(self) -> list[dict[str, Any]]:
        """Totals and failures by reason, the most frequent first, as rows of a table."""
        rows = [
            {"what": "shards", "rows": self.num_shards},
            {"what": "rows", "rows": self.num_rows},
            {"what": "images", "rows": self.num_images},
        ]
        return rows + [{"what": f"failed: {reason}", "rows": num} for reason, num in self.failed.most_common()]
