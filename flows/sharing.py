"""How the actors of a run share the Ray cluster: decided for all pools together, before any is started.

Actors on GPUs occupy parts of them, so that what is wanted at the same time fits at the same time. Actors on CPUs
occupy none in Ray's books: tasks that pull need whole CPUs, and could wait for ever for one that actors hold.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray

from controlmill.config import EngineOptions
from controlmill.errors import EngineStartError
from controlmill.progress import observer

Device = Literal["cpu", "cuda"]

_UNITS = 10_000
"""Parts of a GPU are counted as Ray counts them: to the fourth digit."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the machines of a Ray cluster have."""

    num_cpus: float
    num_gpus: float
    cpus_of_largest_node: float
    object_store_bytes: float = 0.0
    gpus_of_nodes: tuple[int, ...] = ()
    """GPUs of each machine that has some; where none is told, all are in one."""


def cluster_of_ray() -> Cluster:
    """The cluster that this process is connected to."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    largest = max((node.get("CPU", 1.0) for node in alive), default=1.0)
    return Cluster(
        max(1.0, resources.get("CPU", 1.0)),
        resources.get("GPU", 0.0),
        max(1.0, largest),
        resources.get("object_store_memory", 0.0),
        tuple(int(node["GPU"]) for node in alive if node.get("GPU", 0.0) >= 1),
    )


@dataclass(frozen=True, slots=True)
class Demand:
    """What one actor of a pool would like to have."""

    num_cpus: float
    """Threads that it computes with where there is no GPU."""
    num_gpus: float
    """Part of a GPU, or GPUs, that it takes where there are some."""


@dataclass(frozen=True, slots=True)
class Share:
    """What a pool is given."""

    device: Device
    num_actors: int
    num_threads: int = 1
    """Of each actor. It does not depend on how many there are: sums are rounded in another order by other threads."""
    num_gpus: float = 0.0
    """Of each actor."""


def device_of(engine: EngineOptions, cluster: Cluster) -> Device:
    """Where the networks of a run are.

    Raises:
        EngineStartError: GPUs are asked for, and there is none.
    """
    if engine.device == "cuda" and cluster.num_gpus == 0:
        raise EngineStartError("device: cuda, but the Ray cluster has no GPU; use --device cpu")
    return "cpu" if engine.device == "cpu" or cluster.num_gpus == 0 else "cuda"


def announced_device(engine: EngineOptions, cluster: Cluster, what: str) -> Device:
    """`device_of`; where CPUs are taken for want of GPUs, a line says so of `what` before the work starts.

    Raises:
        EngineStartError: GPUs are asked for, and there is none.
    """
    device = device_of(engine, cluster)
    if device == "cpu" and engine.device == "auto":
        observer().message(f"no GPU in the Ray cluster: {what} on CPUs, which takes much longer")
    return device


def shares(demands: Sequence[Demand], engine: EngineOptions, cluster: Cluster) -> list[Share]:
    """What each pool is given.

    Raises:
        EngineStartError: there is no GPU where one is asked for, or there are fewer than the options need.
    """
    if device_of(engine, cluster) == "cuda":
        return _of_gpus([engine.num_gpus or demand.num_gpus for demand in demands], engine, cluster)
    return [_of_cpus(demand, engine, cluster) for demand in demands]


def _of_cpus(demand: Demand, engine: EngineOptions, cluster: Cluster) -> Share:
    num_threads = max(1, int(min(demand.num_cpus, cluster.cpus_of_largest_node)))
    return Share("cpu", engine.num_actors or max(1, int(cluster.num_cpus // num_threads)), num_threads)


def _of_gpus(parts: list[float], engine: EngineOptions, cluster: Cluster) -> list[Share]:
    if not parts:
        return []
    _refuse_broken(parts)
    wanted = [_units(part) for part in parts]
    num_actors = engine.num_actors or 1
    if not _fit(_copies(wanted, num_actors), cluster):
        if engine.num_gpus is not None:
            raise EngineStartError(_too_few(engine.num_gpus, len(parts), num_actors, cluster))
        scale = _largest(
            _UNITS, lambda scale: _fit(_copies([_scaled(part, scale) for part in wanted], num_actors), cluster)
        )
        wanted = [_scaled(part, scale) for part in wanted]
    most = int(cluster.num_gpus * _UNITS // sum(wanted))
    num_actors = engine.num_actors or max(1, _largest(most, lambda copies: _fit(_copies(wanted, copies), cluster)))
    return [Share("cuda", num_actors, num_gpus=part / _UNITS) for part in wanted]


def _units(part: float) -> int:
    return max(1, round(part * _UNITS))


def _refuse_broken(parts: Sequence[float]) -> None:
    broken = next((part for part in parts if part > 1 and part % 1), None)
    if broken is not None:
        raise EngineStartError(
            f"num_gpus: a network asks for {broken:g} GPUs; above 1 it must be a whole number, as in num_gpus=2"
        )


def _copies(parts: Sequence[int], num_actors: int) -> list[int]:
    """The parts of all actors, pool by pool, as they are started."""
    return [part for part in parts for _ in range(num_actors)]


def _fit(parts: Sequence[int], cluster: Cluster) -> bool:
    """Whether parts of GPUs fit at the same time, each on the first GPU with room, as Ray places them.

    In the order in which they are asked for, and in the other: the captioner's actors, which come last, start first
    where only captions are missing of the first shards.
    """
    for asked in (parts, parts[::-1]):
        nodes = [[_UNITS] * num_gpus for num_gpus in cluster.gpus_of_nodes or (int(cluster.num_gpus),)]
        if not all(_place(part, nodes) for part in asked):
            return False
    return True


def _place(part: int, nodes: list[list[int]]) -> bool:
    """Take a part from what is free of the GPUs of each node: of a single GPU, or whole ones of a single node."""
    num_gpus, of_each = (part // _UNITS, _UNITS) if part >= _UNITS else (1, part)
    for free in nodes:
        room = [index for index, left in enumerate(free) if left >= of_each][:num_gpus]
        if len(room) == num_gpus:
            for index in room:
                free[index] -= of_each
            return True
    return False


def _scaled(part: int, scale: int) -> int:
    """A part of a part; above one GPU a whole number of them."""
    smaller = max(1, part * scale // _UNITS)
    return smaller // _UNITS * _UNITS if smaller > _UNITS else smaller


def _largest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number of 1 to `most` that fits; 0 where none does."""
    return bisect_left(range(1, most + 1), True, key=lambda number: not fits(number))


def _too_few(num_gpus: float, num_networks: int, num_actors: int, cluster: Cluster) -> str:
    num_copies = num_networks * num_actors
    needed = num_copies * num_gpus if num_gpus >= 1 else math.ceil(num_copies / (_UNITS // _units(num_gpus)))
    copies = "" if num_actors == 1 else f" of {num_actors}"
    largest = "" if len(cluster.gpus_of_nodes) < 2 else f", at most {max(cluster.gpus_of_nodes)} in one machine"
    return (
        f"num_gpus: {num_networks} networks with {num_gpus:g} for each copy{copies} need {needed:g} GPUs, but the "
        f"Ray cluster has {cluster.num_gpus:g}{largest}; lower num_gpus or num_actors"
    )
