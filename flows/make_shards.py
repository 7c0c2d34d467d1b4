"""What the dataset flows share: take shards as they are planned, find what each still needs, run it on Ray, count."""

from collections import Counter
from typing import Any

import ray
from ray.exceptions import RayError

from controlmill.config import EngineOptions, LayerOptions, ShardOptions
from controlmill.logs import log
from controlmill.progress import observer
from controlmill.reasons import Reason
from flows.board import Board
from flows.fan_out import FanOut, Job
from flows.planner import BackgroundPlanner
from flows.report import BuildReport
from flows.shard_tasks import annotate_shard, pull_shard
from storage.dataset import Dataset
from storage.record import CommitRecord
from tasks.stages import Stages


def make_shards(
    dataset: Dataset, options: LayerOptions, engine: EngineOptions, planner: BackgroundPlanner, num_cpus: int
) -> BuildReport:
    """Make what the planned shards lack, on the Ray that this process is connected to.

    Shards without images are pulled when `options` are `ShardOptions`, and left alone when they are not. Raises the
    first error of a shard; the others that are under way are cancelled, and nothing of them is committed.
    """
    planner.check(timeout_s=None)
    work = _Work(dataset, options, planner, engine.processes_count or num_cpus)
    fan_out = FanOut(limit=engine.processes_count or num_cpus, max_retries=engine.max_shard_retry)
    for ended in fan_out.run(work.next_job, lambda: planner.exhausted):
        if ended is not None:
            work.count(*ended)
        work.show()
    return work.report


class _Work:
    """The jobs of one run, and what became of them."""

    def __init__(self, dataset: Dataset, options: LayerOptions, planner: BackgroundPlanner, num_parallel: int) -> None:
        self._dataset = dataset
        self._options = options
        self._planner = planner
        self._num_parallel = num_parallel
        self._stages = Stages(dataset, options)
        self._board: Any = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()
        self._num_shards = 0
        self._num_rows = 0
        self.report = BuildReport(dataset.uri)

    def next_job(self) -> Job | None:
        """The next shard that lacks something; None where none is planned yet."""
        while (shard := self._planner.take()) is not None:
            work = self._stages.missing(shard)
            if work is None:
                self.report.num_shards_before += 1
                continue
            common = {"uri": self._dataset.uri, "shard": shard, "options": self._options, "board": self._board}
            common["num_parallel"] = self._num_parallel
            if work.pull and not isinstance(self._options, ShardOptions):
                continue
            self._num_shards += 1
            self._num_rows += work.num_rows
            if work.pull:
                return Job(shard, pull_shard, common)
            return Job(shard, annotate_shard, {**common, "names": work.layers})
        return None

    def count(self, job: Job, records: list[CommitRecord]) -> None:
        """Take a shard's commit records into the report."""
        self.report.add(records[0])
        log("shard_written", shard=f"{job.shard:05d}", rows=records[0].rows, failed=sum(records[0].reasons.values()))
        observer().shard_done(job.shard)

    def show(self) -> None:
        """Tell the observer where the run is."""
        observer().planned(self._num_shards, self._num_rows, complete=self._planner.exhausted)
        done, failed = self._under_way()
        observer().rows(self.report.num_rows + done, Counter(failed) + self.report.failed)

    def _under_way(self) -> tuple[int, dict[Reason, int]]:
        try:
            done, failed = ray.get(self._board.totals.remote(), timeout=1.0)
        except (RayError, TimeoutError):
            return 0, {}  # the board was killed and is coming back, empty: a display, nothing depends on it
        return int(done), failed
