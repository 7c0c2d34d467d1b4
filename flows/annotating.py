"""Annotators with networks as Ray actors: one decoded image feeds them all.

Where there are GPUs each network has a pool of its own, so that each gets the part of a GPU that it needs. On CPUs one
pool's actors hold all networks: whichever has the most to do is worked on by as many processes as there are CPUs.
"""

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from controlmill.errors import DeviceLostError, EngineStartError
from controlmill.heap import keep_freed_memory
from flows.actor_pool import ActorRecipe, Actors, Calls, end_process
from flows.sharing import Demand, Device
from tasks.annotate_shard import Group
from tasks.annotators.base import Annotator
from tasks.annotators.batches import same_size
from tasks.annotators.maps import make_maps
from tasks.images.types import Pixels
from tasks.rows import Map


class AnnotatorActor:
    """Annotators with their networks loaded."""

    def __init__(self, units: Sequence[Annotator], device: str) -> None:
        if device == "cpu":
            keep_freed_memory()
        for unit in units:
            unit.setup(device)
        self._units = {unit.name: unit for unit in units}

    def ready(self) -> dict[str, str]:
        """Nothing: the commit record of a layer has the versions of the annotator's libraries from elsewhere."""
        return {}

    def process_id(self) -> int:
        """The process that this runs in."""
        return os.getpid()

    def annotate(self, name: str, keys: list[str], *images: Pixels) -> list[Map]:
        """The encoded map of each image, of one size, made by the annotator `name`."""
        try:
            return make_maps(self._units[name], images, keys)
        except DeviceLostError as error:
            end_process(error)


def annotator_recipes(units: Sequence[Annotator], device: Device) -> list[ActorRecipe]:
    """How the actors with these annotators are made; one recipe for each pool.

    Raises:
        EngineStartError: an annotator needs a GPU, and there is none.
    """
    needing = [unit.name for unit in units if unit.resources.needs_gpu]
    if needing and device == "cpu":
        raise EngineStartError(
            f"annotators: {', '.join(needing)} cannot work without a GPU; use a Ray cluster that has one and no "
            "device=cpu, or leave out what needs it"
        )
    pools = [(unit,) for unit in units] if device == "cuda" else [tuple(units)] if units else []
    return [
        ActorRecipe(
            what="annotators",
            name=", ".join(unit.name for unit in pool),
            kind=AnnotatorActor,
            method="annotate",
            arguments={"units": pool, "device": device},
            demand=Demand(
                max(unit.resources.num_cpus for unit in pool), max(unit.resources.num_gpus for unit in pool) or 1.0
            ),
            # the maps of one batch are encoded while the network works on the next
            at_once=2,
        )
        for pool in pools
    ]


@dataclass(frozen=True)
class Networks:
    """The annotators of one run and the actors that hold them; tasks get a copy, with the same actors behind it."""

    units: tuple[Annotator, ...]
    pools: tuple[Actors, ...]
    """One for all units, or one for each."""
    max_bytes: int
    """Pixels that one task may have in Ray's object store, unless a single group of rows has more."""

    def of(self, layers: Collection[str]) -> "Networks":
        """The networks of some layers only."""
        chosen = [index for index, unit in enumerate(self.units) if unit.name in layers]
        pools = self.pools if len(self.pools) == 1 else tuple(self.pools[index] for index in chosen)
        return Networks(tuple(self.units[index] for index in chosen), pools, self.max_bytes)

    def make_maps(self, groups: Iterable[Group]) -> Iterator[list[list[Map]]]:
        """For each group of images, in order, the maps of each unit.

        Raises:
            WorkerLostError: an actor died more often than it may.
            EngineError: a network met something that is no row's failure, such as too little memory for one image.
        """
        calls = [Calls(pool) for pool in self.pools]
        of_unit = calls if len(calls) == len(self.units) else calls * len(self.units)
        pending: deque[_Pending] = deque()
        for images, keys in groups:
            num_bytes = sum(image.nbytes for image in images)
            while pending and (pending[0].is_done() or _num_bytes(pending) + num_bytes > self.max_bytes):
                yield pending.popleft().take()
            references = [ray.put(image) for image in images]
            sizes = {index: image.shape for index, image in enumerate(images)}
            sent = [
                _sent(unit.name, to_pool, same_size(sizes, unit.batch_size), keys, references)
                for unit, to_pool in zip(self.units, of_unit, strict=True)
            ]
            pending.append(_Pending(num_bytes, sent))
        while pending:
            yield pending.popleft().take()


@dataclass(frozen=True, slots=True)
class _Sent:
    """The batches of one unit that were sent to its actors."""

    calls: Calls
    batches: list[list[int]]
    """Which images they are."""
    results: list[Any]
    """What stands for their maps."""

    def take(self) -> list[Map]:
        """The maps in the order of the images; waits for them."""
        made: dict[int, Map] = {}
        for batch, result in zip(self.batches, self.results, strict=True):
            made.update(zip(batch, self.calls.take(result), strict=True))
        return [made[index] for index in sorted(made)]


def _sent(name: str, calls: Calls, batches: list[list[int]], keys: list[str], references: list[Any]) -> _Sent:
    results = [
        calls.send(name, [keys[index] for index in batch], *(references[index] for index in batch)) for batch in batches
    ]
    return _Sent(calls, batches, results)


@dataclass(frozen=True, slots=True)
class _Pending:
    """A group of images whose maps are being made."""

    num_bytes: int
    sent: list[_Sent]

    def is_done(self) -> bool:
        """Whether all maps are made."""
        results = [result for one in self.sent for result in one.results]
        return not ray.wait(results, num_returns=len(results), timeout=0, fetch_local=False)[1]

    def take(self) -> list[list[Map]]:
        """The maps of each unit, in the order of the images; waits for them."""
        return [one.take() for one in self.sent]


def _num_bytes(pending: Iterable[_Pending]) -> int:
    return sum(one.num_bytes for one in pending)
