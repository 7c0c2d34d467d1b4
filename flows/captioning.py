"""Captioners as Ray actors: the network is loaded once per actor, and batches go to whichever has the least to do.

An actor that dies is started again and its batches are sent to it again: they depend on nothing but themselves, so
nothing is lost and nothing is there twice. A captioner of an isolated environment runs in that environment's
interpreter; its class is sent by value, so that nothing of ours has to be importable there.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import GetTimeoutError, RayError

from controlmill.config import CaptionConfig
from controlmill.errors import EngineStartError, WorkerLostError
from controlmill.logs import log
from controlmill.progress import observer
from controlmill.reasons import RowFailure
from tasks.caption_shard import Batch, Caption
from tasks.captioners.base import Captioner, LocalCaptioner
from tasks.captioners.lavis import Lavis
from tasks.environments import require

_START_S = 600.0
_MAX_RESTARTS = 3
_IN_FLIGHT_PER_ACTOR = 2
"""Batches that a shard has at each actor: one that is worked on, and one that is there when it is done."""
_AHEAD = 2
"""Finished batches that may wait for a slower one before them, in units of what is in flight."""


class CaptionActor:
    """A captioner of the main environment, behind the same two methods that `LavisWorker` has."""

    def __init__(self, captioner: LocalCaptioner, device: str) -> None:
        captioner.setup(device)
        self._captioner = captioner

    def ready(self) -> dict[str, str]:
        """Versions of what decides about captions."""
        return self._captioner.versions()

    def process_id(self) -> int:
        """The process that this runs in."""
        return os.getpid()

    def caption(self, images: list[bytes], keys: list[str]) -> list[Caption]:
        """A caption or the failure of each encoded image; each is decoded once."""
        from tasks.images.decode import decode_stored

        results: dict[int, Caption] = {}
        pixels = {}
        for index, encoded in enumerate(images):
            try:
                pixels[index] = decode_stored(encoded)
            except ValueError as error:
                results[index] = (None, f"{type(error).__name__}: {error}")
        made = self._captioner(list(pixels.values()), [keys[index] for index in pixels])
        for index, one in zip(pixels, made, strict=True):
            results[index] = (None, one.message) if isinstance(one, RowFailure) else (one, None)
        return [results[index] for index in range(len(images))]


@dataclass(frozen=True)
class CaptionPool:
    """The actors of one run; tasks get a copy of it, with the same actors behind it."""

    actors: tuple[Any, ...]
    versions: dict[str, str]
    """Versions of the libraries in the actors' environment."""

    def caption_all(self, batches: Iterable[Batch]) -> Iterator[list[Caption]]:
        """The captions of each batch, in order; a bounded number of batches is under way or waits to be taken.

        Raises:
            WorkerLostError: an actor died more often than it may.
        """
        try:
            yield from self._caption_all(batches)
        except RayError as error:
            raise WorkerLostError(
                f"captions: an actor was lost ({type(error).__name__}: {_first_line(error)}); often that is memory: "
                "lower batch_size or num_actors, then run the same command again"
            ) from error

    def _caption_all(self, batches: Iterable[Batch]) -> Iterator[list[Caption]]:
        ordered: deque[Any] = deque()
        at: dict[Any, int] = {}
        limit = _IN_FLIGHT_PER_ACTOR * len(self.actors)
        for images, keys in batches:
            if len(at) == limit:
                done, _ = ray.wait(list(at), num_returns=1)
                for reference in done:
                    del at[reference]
            while len(ordered) >= limit * (1 + _AHEAD):
                yield _taken(ordered.popleft(), at)
            load = [list(at.values()).count(number) for number in range(len(self.actors))]
            number = load.index(min(load))
            reference = self.actors[number].caption.remote(images, keys)
            at[reference] = number
            ordered.append(reference)
        while ordered:
            yield _taken(ordered.popleft(), at)


def _taken(reference: Any, at: dict[Any, int]) -> list[Caption]:
    captions: list[Caption] = ray.get(reference)
    at.pop(reference, None)
    return captions


@contextmanager
def caption_pool(captioner: Captioner, config: CaptionConfig) -> Iterator[CaptionPool]:
    """Start the actors and load the network in each; they end with the `with` block.

    Raises:
        EngineStartError: there is no GPU where one is asked for, or an actor cannot load the network.
    """
    resources = _resources(captioner, config)
    actors = tuple(_start(captioner, resources) for _ in range(resources.num_actors))
    try:
        observer().message(
            f"loading {captioner.model.reference} in {len(actors)} x {captioner.name}, {resources.device}"
        )
        versions = _wait(actors, captioner)
        log("captioners_ready", captioner=captioner.name, actors=len(actors), device=resources.device)
        yield CaptionPool(actors, versions)
    finally:
        for actor in actors:
            ray.kill(actor)


@dataclass(frozen=True, slots=True)
class _Resources:
    """What the actors are given."""

    num_actors: int
    num_cpus: float
    num_gpus: float
    device: str


def _resources(captioner: Captioner, config: CaptionConfig) -> _Resources:
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus, cpus = available.get("GPU", 0.0), max(1.0, available.get("CPU", 1.0))
    if config.device == "cuda" and gpus == 0:
        raise EngineStartError("device: cuda, but the Ray cluster has no GPU; use --device cpu")
    if config.device != "cpu" and gpus > 0:
        num_actors = config.num_actors or max(1, int(gpus / config.num_gpus))
        return _Resources(num_actors, min(1.0, cpus / num_actors), config.num_gpus, "cuda")
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    on_one_node = max(node["Resources"].get("CPU", 1.0) for node in nodes if node["Alive"])
    num_actors = config.num_actors or max(1, int(cpus // captioner.num_cpus))
    return _Resources(num_actors, min(captioner.num_cpus, on_one_node, cpus / num_actors), 0.0, "cpu")


def _start(captioner: Captioner, resources: _Resources) -> Any:
    options: dict[str, Any] = {
        "num_cpus": resources.num_cpus if resources.num_cpus < 1 else int(resources.num_cpus),
        "num_gpus": resources.num_gpus,
        "max_restarts": _MAX_RESTARTS,
        "max_task_retries": _MAX_RESTARTS,
    }
    if isinstance(captioner, Lavis):
        environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
        python = str(require(captioner.environment).python)
        options["runtime_env"] = {"py_executable": python, "env_vars": environment}
        return ray.remote(_lavis_worker()).options(**options).remote(**captioner.arguments(resources.device))
    return ray.remote(CaptionActor).options(**options).remote(captioner, resources.device)


def _lavis_worker() -> type:
    from tasks.captioners import convert, lavis_worker, seeds

    for module in (convert, lavis_worker, seeds):
        cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    return lavis_worker.LavisWorker


def _wait(actors: tuple[Any, ...], captioner: Captioner) -> dict[str, str]:
    try:
        versions: list[dict[str, str]] = ray.get([actor.ready.remote() for actor in actors], timeout=_START_S)
    except GetTimeoutError as error:
        raise EngineStartError(
            f"captions: {captioner.name} was not ready after {_START_S:.0f} s; is the Ray cluster busy with other work?"
        ) from error
    except RayError as error:
        raise EngineStartError(f"captions: {captioner.name} did not start: {_first_line(error)}") from error
    return versions[0]


def _first_line(error: RayError) -> str:
    """What went wrong in an actor: the last line of its traceback, without the traceback."""
    cause = getattr(error, "cause", None)
    lines = [line.strip() for line in str(cause or error).strip().splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
