"""Networks in Ray actors: loaded once per actor, and batches go to whichever has the least to do.

An actor that dies is started again and its batches are sent to it again: they depend on nothing but themselves, so
nothing is lost and nothing is there twice. What is in a batch is decided by the shard, never by the number of actors.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import ray
from ray.exceptions import RayError, RayTaskError

from controlmill.errors import ControlmillError, DeviceLostError, EngineError, EngineStartError, WorkerLostError
from controlmill.logs import log, warning
from controlmill.progress import observer
from flows.sharing import Demand, Share

_START_S = 600.0
_MAX_RESTARTS = 3
_IN_FLIGHT_PER_ACTOR = 2
"""Batches that a task has at each actor: one that is worked on, and one that is there when it is done."""
_AHEAD = 2
"""Finished batches that may wait for a slower one before them, in units of what is in flight."""


@dataclass(frozen=True)
class Actors:
    """The actors of a pool that are ready: what a task is given, with the same actors behind every copy."""

    what: str
    method: str
    """What is called with a batch."""
    handles: tuple[Any, ...]
    versions: dict[str, str]
    """Versions of the libraries in the actors' environment, as they tell."""

    def map(self, batches: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """The results of the batches, in order; a bounded number is under way or waits to be taken.

        Raises:
            WorkerLostError: an actor died more often than it may.
            EngineError: the work on a batch raised something that is no row's failure.
        """
        calls = Calls(self)
        ordered: deque[Any] = deque()
        for batch in batches:
            while len(ordered) >= calls.limit * (1 + _AHEAD):
                yield calls.take(ordered.popleft())
            ordered.append(calls.send(*batch))
        while ordered:
            yield calls.take(ordered.popleft())


class Calls:
    """The calls of one task to the actors of a pool, a bounded number of them under way."""

    def __init__(self, actors: Actors) -> None:
        self._actors = actors
        self._at: dict[Any, int] = {}
        self.limit = _IN_FLIGHT_PER_ACTOR * len(actors.handles)

    def send(self, *batch: Any) -> Any:
        """Send a batch to the actor with the least to do, once that is little enough; the result is taken later."""
        if len(self._at) == self.limit:
            done, _ = ray.wait(list(self._at), num_returns=1, fetch_local=False)
            for reference in done:
                del self._at[reference]
        load = [list(self._at.values()).count(number) for number in range(len(self._actors.handles))]
        number = load.index(min(load))
        reference = getattr(self._actors.handles[number], self._actors.method).remote(*batch)
        self._at[reference] = number
        return reference

    def take(self, reference: Any) -> Any:
        """The result of a batch; waits for it.

        Raises:
            WorkerLostError: its actor died more often than it may.
            EngineError: the work on it raised something that is no row's failure; of its own kind where it is ours.
        """
        try:
            result = ray.get(reference)
        except RayTaskError as error:
            raise _told_by_actor(self._actors.what, error) from error
        except RayError as error:
            raise WorkerLostError(
                f"{self._actors.what}: an actor was lost ({type(error).__name__}: {_last_line(error)}); often that is "
                "memory: lower batch_size or num_actors, then run the same command again"
            ) from error
        self._at.pop(reference, None)
        return result


@dataclass(frozen=True)
class ActorRecipe:
    """How an actor of a pool is made."""

    what: str
    """What its errors begin with: captions, annotators."""
    name: str
    """What it works with."""
    kind: type
    """Its class: `ready` gives versions of libraries, `method` takes a batch."""
    method: str
    arguments: dict[str, Any]
    demand: Demand
    runtime_env: dict[str, Any] = field(default_factory=dict)
    at_once: int = 1
    """Batches that one actor may work on at the same time, where it is on a GPU."""


class ActorPool:
    """The actors of one run that work with the same networks; started when they are first needed."""

    def __init__(self, recipe: ActorRecipe, share: Share) -> None:
        self._recipe = recipe
        self._share = share
        self._handles: tuple[Any, ...] = ()
        self._ready: list[Any] = []
        self._deadline_s = 0.0
        self._actors: Actors | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            ray.kill(handle)

    @property
    def num_actors(self) -> int:
        """Actors that it has, or will have."""
        return self._share.num_actors

    def start(self) -> None:
        """Begin to start the actors, unless they are; does not wait for them."""
        if self._handles:
            return
        recipe, share = self._recipe, self._share
        observer().message(f"loading {recipe.name} in {share.num_actors} x {recipe.what}, {share.device}")
        remote: Any = ray.remote(recipe.kind).options(**self._options())
        self._handles = tuple(remote.remote(**recipe.arguments) for _ in range(share.num_actors))
        self._ready = [handle.ready.remote() for handle in self._handles]
        self._deadline_s = time.monotonic() + _START_S

    def actors(self, timeout_s: float = 0.0) -> Actors | None:
        """The actors once all of them have loaded their networks; None where they have not after `timeout_s`.

        Raises:
            EngineStartError: an actor cannot load its network, or takes much too long.
        """
        self.start()
        if self._actors is None:
            recipe = self._recipe
            done, waiting = ray.wait(self._ready, num_returns=len(self._ready), timeout=timeout_s)
            try:
                versions = ray.get(done)
            except RayError as error:
                raise EngineStartError(f"{recipe.what}: {recipe.name} did not start: {_last_line(error)}") from error
            if waiting and time.monotonic() < self._deadline_s:
                return None
            if waiting:
                raise EngineStartError(
                    f"{recipe.what}: {recipe.name} was not ready after {_START_S:.0f} s; is the Ray cluster busy with "
                    "other work?"
                )
            self._actors = Actors(recipe.what, recipe.method, self._handles, versions[0])
            log("actors_ready", what=recipe.what, networks=recipe.name, actors=len(done), device=self._share.device)
        return self._actors

    def _options(self) -> dict[str, Any]:
        share, runtime_env = self._share, self._recipe.runtime_env
        # Ray would set one thread, because the actor occupies no CPU
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(share.num_threads))}
        return {
            "num_cpus": 0,
            "num_gpus": share.num_gpus,
            "scheduling_strategy": "SPREAD" if share.device == "cpu" else "DEFAULT",
            "max_concurrency": self._recipe.at_once if share.device == "cuda" else 1,
            "max_restarts": _MAX_RESTARTS,
            "max_task_retries": _MAX_RESTARTS,
            "runtime_env": {**runtime_env, "env_vars": {**threads, **runtime_env.get("env_vars", {})}},
        }


def _last_line(error: RayError) -> str:
    """What went wrong in an actor: the last line of its traceback, without the traceback."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _told_by_actor(what: str, error: RayTaskError) -> ControlmillError:
    """What an actor raised, and lives on: the error itself where it is ours, else one that tells it."""
    cause = error.cause
    if isinstance(cause, ControlmillError):
        return cause
    if isinstance(cause, MemoryError):
        remedy = "end what else fills the memory, lower num_actors, or use device=cpu, then run the same command again"
        return EngineError(f"{what}: {_last_line(error)}; {remedy}")
    remedy = "run the same command again once that is mended; what is committed stays"
    return EngineError(f"{what}: {type(cause).__name__}: {_last_line(error)}; {remedy}")


def end_process(error: DeviceLostError) -> NoReturn:
    """End this actor's process, so that Ray starts it again and sends its batches again: its GPU is lost to it."""
    warning("device_lost", error=str(error))
    os._exit(1)
