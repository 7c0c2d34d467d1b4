"""Shards onto Ray: bounded in flight, watched while they run, stopped at the first error."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import ray
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.states import Crashed
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options

from controlmill.errors import EngineError, WorkerLostError
from flows.termination import DeferredTermination
from tasks.stages import Work

_POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """One Prefect task run to be."""

    shard: int
    task: Task[..., Any]
    parameters: dict[str, Any]
    then: Work | None = None
    """What the shard needs after it."""
    follows: bool = False
    """Whether it is such work itself, so that its rows are counted already."""


class FanOut:
    """Runs jobs on Ray through Prefect's Ray task runner, at most `limit` at a time.

    A worker that dies is replaced and its shard started again, `max_retries` times; shards are idempotent.
    """

    def __init__(self, limit: int, max_retries: int, num_cpus: float = 1, num_gpus: float = 0) -> None:
        """`num_cpus`: CPUs that one job occupies; 0 for jobs that only wait for actors, or there may be none left."""
        self._limit = limit
        self._resources = {"num_cpus": num_cpus, **({"num_gpus": num_gpus} if num_gpus else {})}
        self._max_retries = max_retries
        self._in_flight: dict[Any, tuple[Job, Any]] = {}

    def run(self, next_job: Callable[[], Job | None], finished: Callable[[], bool]) -> Iterator[tuple[Job, Any] | None]:
        """Yield each job with its result as it ends, and None twice a second while nothing does.

        `next_job` gives None while there is none yet; the run ends when `finished` and nothing is in flight. The first
        exception of a job is raised here, with everything in flight cancelled.
        """
        with self._runner() as runner, DeferredTermination() as termination:
            try:
                while True:
                    termination.check()
                    self._fill(runner, next_job)
                    if self._in_flight:
                        yield from self._collect()
                    elif finished():
                        return
                    else:
                        time.sleep(_POLL_S / 10)
                        yield None
            finally:
                self._cancel()

    @contextmanager
    def _runner(self) -> Iterator[RayTaskRunner[Any]]:
        with RayTaskRunner() as runner, remote_options(max_retries=self._max_retries, **self._resources):
            yield runner

    def _fill(self, runner: RayTaskRunner[Any], next_job: Callable[[], Job | None]) -> None:
        while len(self._in_flight) < self._limit:
            job = next_job()
            if job is None:
                return
            future = runner.submit(job.task, parameters=job.parameters)
            self._in_flight[future.wrapped_future] = (job, future)

    def _collect(self) -> Iterator[tuple[Job, Any] | None]:
        ready, _ = ray.wait(list(self._in_flight), timeout=_POLL_S)
        for reference in ready:
            job, future = self._in_flight.pop(reference)
            try:
                result = future.result()
            except ray.exceptions.RayError as error:
                _mark_crashed(future.task_run_id, str(error))
                raise self._lost(job, error) from error
            yield job, result
        if not ready:
            yield None

    def _lost(self, job: Job, error: "ray.exceptions.RayError") -> EngineError:
        if isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.OutOfMemoryError):
            return WorkerLostError(
                f"shard {job.shard:05d}: its worker died {self._max_retries + 1} times ({type(error).__name__}); often "
                "that is memory: lower thread_count or processes_count, then run the same command again"
            )
        return EngineError(
            f"shard {job.shard:05d}: Ray failed ({type(error).__name__}); nothing is half-written, "
            "run the same command again"
        )

    def _cancel(self) -> None:
        for reference in self._in_flight:
            ray.cancel(reference, force=True)
        self._in_flight.clear()


def _mark_crashed(task_run_id: UUID, message: str) -> None:
    """Prefect never hears of a worker that is gone: its task run would stay "Running" for good."""
    with get_client(sync_client=True) as client:
        client.set_task_run_state(task_run_id, Crashed(message=message[:500]), force=True)
