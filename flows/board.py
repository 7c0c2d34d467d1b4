"""Where tasks on Ray tell how far they are, so that the flow's process can show rows and not only shards."""

from collections import Counter
from typing import Any

import ray

from controlmill.reasons import Reason
from tasks.progress import ShardProgress


class Board:
    """The latest progress of each shard under way; a Ray actor without a CPU of its own."""

    def __init__(self) -> None:
        self._shards: dict[int, ShardProgress] = {}

    def post(self, progress: ShardProgress) -> None:
        """Replace what is known of a shard; one that is started again starts again at zero."""
        self._shards[progress.shard] = progress

    def finish(self, shard: int) -> None:
        """Forget a shard: from here on its commit record tells."""
        self._shards.pop(shard, None)

    def totals(self) -> tuple[int, dict[Reason, int]]:
        """Rows done, and rows failed by reason, over the shards under way."""
        failed: Counter[Reason] = Counter()
        for progress in self._shards.values():
            failed.update(progress.failed)
        return sum(progress.done for progress in self._shards.values()), dict(failed)


def new_board() -> Any:
    """A board on the Ray that this process is connected to; where it is killed it comes back, empty."""
    # it is asked several times a second, which would push everybody's tasks out of the history that Ray keeps
    remote: Any = ray.remote(Board)
    return remote.options(num_cpus=0, max_restarts=-1, enable_task_events=False).remote()
