"""What the dataset flows share: take shards as they are planned, find what each still needs, run it on Ray, count."""

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Protocol

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
from tasks.recipe import annotators, layer_fingerprints
from tasks.stages import Stages, Work

_LOOK_AHEAD = 64


def make_shards(
    dataset: Dataset, options: LayerOptions, engine: EngineOptions, planner: BackgroundPlanner, num_cpus: int
) -> BuildReport:
    """Make what the planned shards lack, on the Ray that this process is connected to.

    Shards without images are pulled when `options` are `ShardOptions`, and left alone when they are not. Raises the
    first error of a shard; the others that are under way are cancelled, and nothing of them is committed.
    """
    planner.check(timeout_s=None)
    num_parallel = engine.processes_count or num_cpus
    stages = Stages(dataset, layer_fingerprints(dataset, options))

    networks = tuple(unit.name for unit in annotators(options) if unit.needed_weights())
    light = tuple(name for name in options.annotators if name not in networks)
    # a network wants batches and its weights loaded once, so it works on stored images, in a job of its own
    pulled_with = options.model_copy(update={"annotators": light})

    def job(work: Work, board: Any) -> Job:
        common = {"uri": dataset.address, "shard": work.shard, "options": options, "board": board}
        common["num_parallel"] = num_parallel
        if work.pull:
            then = Work(work.shard, work.num_rows, pull=False, layers=networks, follows=True) if networks else None
            return Job(work.shard, pull_shard, {**common, "options": pulled_with}, then)
        # whose rows are counted already posts no progress
        common["board"] = None if work.follows else board
        return Job(work.shard, annotate_shard, {**common, "names": work.layers}, follows=work.follows)

    jobs = Jobs(dataset, planner, stages, job, pulls=isinstance(options, ShardOptions))
    return run_jobs(jobs, FanOut(num_parallel, engine.max_shard_retry))


def run_jobs(jobs: "Jobs", fan_out: FanOut) -> BuildReport:
    """Run the jobs as their shards are planned, and count; raises the first error of one."""
    for ended in fan_out.run(jobs.next_job, lambda: jobs.exhausted):
        if ended is not None:
            jobs.count(*ended)
        else:
            jobs.show()
    return jobs.report


class Lookup(Protocol):
    """Knows what each shard still needs."""

    def missing(self, shard: int) -> Work | None:
        """The work that a planned shard needs, None where it is complete."""


class Jobs:
    """The jobs of one run, and what became of them."""

    def __init__(
        self,
        dataset: Dataset,
        planner: BackgroundPlanner,
        stages: Lookup,
        make: Callable[[Work, Any], Job],
        *,
        pulls: bool,
    ) -> None:
        """`make` makes the job of some work and the board; shards without images are left alone unless `pulls`."""
        self._planner = planner
        self._stages = stages
        self._make = make
        self._pulls = pulls
        self._board: Any = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()
        self._lacking: deque[Work] = deque()
        self._num_shards = 0
        self._num_rows = 0
        self.report = BuildReport(dataset.uri)

    def next_job(self) -> Job | None:
        """The next shard that lacks something; None where none is planned yet."""
        self._look_ahead()
        return self._make(self._lacking.popleft(), self._board) if self._lacking else None

    @property
    def exhausted(self) -> bool:
        """Whether no job will come any more."""
        return self._planner.exhausted and not self._lacking

    def _look_ahead(self) -> None:
        """Find out what the shards that are planned by now lack, some at a time, so that the totals are soon known."""
        for _ in range(_LOOK_AHEAD):
            shard = self._planner.take()
            if shard is None:
                return
            work = self._stages.missing(shard)
            if work is None:
                self.report.num_shards_before += 1
            elif not work.pull or self._pulls:
                self._lacking.append(work)
                self._num_shards += 1
                self._num_rows += work.num_rows

    def count(self, job: Job, records: list[CommitRecord]) -> None:
        """Take a shard's commit records into the report."""
        if not job.follows:
            self.report.add(records[0])
        if job.then is not None:
            self._lacking.append(job.then)
            return
        log("shard_written", shard=f"{job.shard:05d}", rows=records[0].rows, failed=sum(records[0].reasons.values()))
        self.show()
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
