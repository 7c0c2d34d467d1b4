"""Shards onto Ray: bounded in flight, watched while they run, stopped at the first error."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import ray
from prefect import Task
from prefect.client.orchestration import get_client
from prefect.states import Crashed
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options

from controlmill.errors import EngineError, WorkerLostError
from flows.termination import DeferredTermination
from flows.worker_output import COMING_S

_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Lane:
    """Jobs of one kind. Those of one lane do not wait for those of another."""

    limit: int
    """How many are under way at most."""
    num_cpus: float = 1
    """CPUs that one occupies; 0 for jobs that only wait for actors, or there may be none left."""
    num_gpus: float = 0
    """GPUs that one occupies."""


@dataclass(frozen=True)
class Job:
    """One Prefect task run to be."""

    shard: int
    task: Task[..., Any]
    parameters: dict[str, Any]
    counts: bool = True
    """Whether its rows are counted; those of a shard are, once."""


class FanOut:
    """Runs jobs on Ray through Prefect's Ray task runner, in lanes with a limit each.

    A worker that dies is replaced and its shard started again, `max_retries` times; shards are idempotent.
    """

    def __init__(self, lanes: Mapping[str, Lane], max_retries: int) -> None:
        """`lanes`, by their names."""
        self._lanes = lanes
        self._max_retries = max_retries
        self._in_flight: dict[Any, tuple[str, Job, Any]] = {}

    def run(
        self, next_job: Callable[[str], Job | None], finished: Callable[[], bool]
    ) -> Iterator[tuple[Job, Any] | None]:
        """Yield each job with its result as it ends, and None twice a second while nothing does.

        `next_job` gives the next one of a lane, None while there is none yet; the run ends when `finished` and nothing
        is in flight. The first exception of a job is raised here; what is in flight then ends with the caller's
        connection to Ray.
        """
        with RayTaskRunner() as runner, DeferredTermination() as termination:
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
            except EngineError:
                # while Ray is there: what a worker wrote before it died is on its way
                time.sleep(COMING_S)
                raise
            finally:
                # It ends with Ray, or with the connection to it. ray.cancel can meet an answer that is on its way, and
                # Ray 2.60 aborts the process then ("Tried to complete task that was not pending"; ray#54527).
                self._in_flight.clear()

    def _fill(self, runner: RayTaskRunner[Any], next_job: Callable[[str], Job | None]) -> None:
        for name, lane in self._lanes.items():
            free = lane.limit - sum(other == name for other, _, _ in self._in_flight.values())
            for _ in range(free):
                job = next_job(name)
                if job is None:
                    break
                with remote_options(max_retries=self._max_retries, num_cpus=lane.num_cpus, num_gpus=lane.num_gpus):
                    future = runner.submit(job.task, parameters=job.parameters)
                self._in_flight[future.wrapped_future] = (name, job, future)

    def _collect(self) -> Iterator[tuple[Job, Any] | None]:
        ready, _ = ray.wait(list(self._in_flight), timeout=_POLL_S)
        for reference in ready:
            _, job, future = self._in_flight.pop(reference)
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


def _mark_crashed(task_run_id: UUID, message: str) -> None:
    """Prefect never hears of a worker that is gone: its task run would stay "Running" for good."""
    with get_client(sync_client=True) as client:
        try:
            client.set_task_run_state(task_run_id, Crashed(message=message[:500]), force=True)
        except httpx.HTTPStatusError as error:
            # where it died before its first words came, there is no task run to mark
            if error.response.status_code != httpx.codes.NOT_FOUND:
                raise
