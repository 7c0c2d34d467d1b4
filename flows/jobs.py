"""The jobs of one run: made as shards are planned, handed out lane by lane, and counted as they end."""

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
from ray.exceptions import RayError

from controlmill.config import ShardOptions
from controlmill.logs import log
from controlmill.progress import observer
from controlmill.reasons import Reason
from flows import metrics
from flows.crews import ANNOTATE, CAPTION, Crew
from flows.fan_out import Job
from flows.planner import BackgroundPlanner
from flows.report import BuildReport, counted
from flows.shard_tasks import annotate_shard, caption_shard, pull_shard
from storage.dataset import Dataset
from storage.record import CommitRecord
from tasks.annotators.base import Annotator
from tasks.captioners.base import LAYER, Captioner
from tasks.stages import Work

PULL = "pull"
"""The lane of jobs that occupy a CPU: they pull, or annotate without a network."""

_LOOK_AHEAD = 64


class Lookup(Protocol):
    """Knows what each shard still needs."""

    def missing(self, shard: int) -> Work | None:
        """The work that a planned shard needs, None where it is complete."""


class Maker(Protocol):
    """Turns what a shard needs into jobs."""

    board: Any
    """Where tasks post their progress."""
    pulls: bool
    """Whether shards without images are made; else they are left alone."""

    def jobs(self, work: Work) -> list[tuple[str, Job]]:
        """The jobs that a shard needs now, each with its lane."""

    def afterwards(self, work: Work) -> Work | None:
        """What a shard needs after `work`, None where that is all."""


class JobMaker:
    """Makes the jobs of the dataset commands."""

    def __init__(
        self,
        dataset: Dataset,
        pull: ShardOptions | None,
        units: Sequence[Annotator],
        captioner: Captioner | None,
        num_parallel: int,
        board: Any,
    ) -> None:
        """`pull`: how shards are pulled, None where they are not; `units`: all annotators of the run."""
        self.pulls = pull is not None
        self.board = board
        self._address = dataset.address
        self._pull = pull
        self._units = units
        self._captioner = captioner
        self._num_parallel = num_parallel

    def jobs(self, work: Work) -> list[tuple[str, Job]]:
        """The jobs that a shard needs now, each with its lane."""
        if work.pull:
            given = {"options": self._pull, "num_parallel": self._num_parallel}
            return [(PULL, self._job(work, pull_shard, given))]
        made = []
        units = tuple(unit for unit in self._units if unit.name in work.layers)
        if units:
            lane = ANNOTATE if any(unit.needed_weights() for unit in units) else PULL
            made.append((lane, self._job(work, annotate_shard, {"units": units, "num_parallel": self._num_parallel})))
        if LAYER in work.layers:
            beside = replace(work, follows=work.follows or bool(units))
            made.append((CAPTION, self._job(beside, caption_shard, {"captioner": self._captioner})))
        return made

    def afterwards(self, work: Work) -> Work | None:
        """What a shard needs after `work`, None where that is all: pulling makes the layers without networks."""
        needing = {unit.name for unit in self._units if unit.needed_weights()} | {LAYER}
        layers = tuple(layer for layer in work.layers if layer in needing) if work.pull else ()
        return Work(work.shard, work.num_rows, pull=False, layers=layers, follows=True) if layers else None

    def _job(self, work: Work, task: Any, parameters: dict[str, Any]) -> Job:
        # whose rows are counted elsewhere posts no progress
        board = None if work.follows else self.board
        given = {"uri": self._address, "shard": work.shard, "board": board, **parameters}
        return Job(work.shard, task, given, counts=not work.follows)


@dataclass
class _Open:
    """A shard that is worked on."""

    work: Work
    num_jobs: int
    records: list[CommitRecord]
    """What this run has committed of it so far."""


class Jobs:
    """The jobs of one run, and what became of them."""

    def __init__(
        self,
        planner: BackgroundPlanner,
        stages: Lookup,
        maker: Maker,
        crews: Mapping[str, Crew],
        report: BuildReport,
    ) -> None:
        self.report = report
        self._planner = planner
        self._stages = stages
        self._maker = maker
        self._crews = crews
        self._waiting: dict[str, deque[Job]] = defaultdict(deque)
        self._open: dict[int, _Open] = {}
        self._num_shards = 0
        self._num_rows = 0

    def next_job(self, lane: str) -> Job | None:
        """The next job of a lane; None where there is none yet, or where its actors are still loading."""
        self._look_ahead()
        waiting = self._waiting[lane]
        if not waiting or lane not in self._crews:
            return waiting.popleft() if waiting else None
        pool = self._crews[lane].ready()
        if pool is None:
            return None
        job = waiting.popleft()
        return replace(job, parameters={**job.parameters, "pool": pool})

    @property
    def exhausted(self) -> bool:
        """Whether no job will come any more."""
        return self._planner.exhausted and not any(self._waiting.values())

    def _look_ahead(self) -> None:
        """Find out what the shards that are planned by now lack, some at a time, so that the totals are soon known.

        Shards that are complete are passed over at once: they cost no request.
        """
        num_added = 0
        while num_added < _LOOK_AHEAD:
            shard = self._planner.take()
            if shard is None:
                return
            work = self._stages.missing(shard)
            if work is None:
                self.report.num_shards_before += 1
            elif not work.pull or self._maker.pulls:
                self._add(work)
                self._num_shards += 1
                self._num_rows += work.num_rows
                num_added += 1

    def _add(self, work: Work, records: Sequence[CommitRecord] = ()) -> None:
        jobs = self._maker.jobs(work)
        self._open[work.shard] = _Open(work, len(jobs), list(records))
        for lane, job in jobs:
            self._waiting[lane].append(job)
        # networks load while the first shards are pulled
        for lane, _ in self._maker.jobs(self._maker.afterwards(work) or work):
            if lane in self._crews:
                self._crews[lane].start()

    def count(self, job: Job, records: list[CommitRecord]) -> None:
        """Take a job's commit records into the report; whatever its shard needs next is waiting then."""
        self.report.add(records, counts=job.counts)
        metrics.shard_committed(records, counted(records) if job.counts else None)
        shard = self._open[job.shard]
        shard.records += records
        shard.num_jobs -= 1
        if shard.num_jobs:
            return
        del self._open[job.shard]
        following = self._maker.afterwards(shard.work)
        if following is not None:
            self._add(following, shard.records)
            return
        _log_written(job.shard, shard.records)
        self.show()
        observer().shard_done(job.shard)

    def show(self) -> None:
        """Tell the observer where the run is."""
        observer().planned(self._num_shards, self._num_rows, complete=self._planner.exhausted)
        done, failed = self._under_way()
        observer().rows(self.report.num_rows + done, Counter(failed) + self.report.failed)
        metrics.queues({lane: len(waiting) for lane, waiting in self._waiting.items()}, len(self._open), done)

    def _under_way(self) -> tuple[int, dict[Reason, int]]:
        try:
            done, failed = ray.get(self._maker.board.totals.remote(), timeout=1.0)
        except (RayError, TimeoutError):
            return 0, {}  # the board was killed and is coming back, empty: a display, nothing depends on it
        return int(done), failed


def _log_written(shard: int, records: list[CommitRecord]) -> None:
    """Say that a shard is complete, how many of its rows failed, and how many each layer lacks."""
    of_rows = counted(records)
    lacking = {record.layer: record.count - record.successes for record in records if record is not of_rows}
    beside = ",".join(f"{layer}:{num}" for layer, num in sorted(lacking.items()) if num)
    said = {"rows": of_rows.rows, "failed": of_rows.count - of_rows.successes}
    log("shard_written", shard=f"{shard:05d}", **said, **({"lacking": beside} if beside else {}))
