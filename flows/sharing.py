"""How the actors of a run share the Ray cluster: decided for all pools together, before any is started.

Actors on GPUs occupy parts of them, so that what is wanted at the same time fits at the same time. Actors on CPUs
occupy none in Ray's books: tasks that pull need whole CPUs, and could wait for ever for one that actors hold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import ray

from controlmill.config import EngineOptions
from controlmill.errors import EngineStartError

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the machines of a Ray cluster have."""

    num_cpus: float
    num_gpus: float
    cpus_of_largest_node: float
    object_store_bytes: float = 0.0


def cluster_of_ray() -> Cluster:
    """The cluster that this process is connected to."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    largest = max((node["Resources"].get("CPU", 1.0) for node in nodes if node["Alive"]), default=1.0)
    return Cluster(
        max(1.0, resources.get("CPU", 1.0)),
        resources.get("GPU", 0.0),
        max(1.0, largest),
        resources.get("object_store_memory", 0.0),
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
    needed = sum(parts) * (engine.num_actors or 1)
    if needed > cluster.num_gpus:
        if engine.num_gpus is not None:
            raise EngineStartError(
                f"num_gpus: {len(parts)} networks with {engine.num_gpus:g} for each copy need {needed:g} GPUs, but the "
                f"Ray cluster has {cluster.num_gpus:g}; lower num_gpus or num_actors"
            )
        # rounded down, because Ray counts parts of a GPU to the fourth digit
        parts = [math.floor(part * cluster.num_gpus / needed * 1000) / 1000 for part in parts]
    num_actors = engine.num_actors or max(1, int(cluster.num_gpus / sum(parts)))
    return [Share("cuda", num_actors, num_gpus=part) for part in parts]
