"""The actors of one run, by the lane whose jobs wait for them: those with annotators, and those with a captioner."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Self

from controlmill.config import EngineOptions
from flows.actor_pool import ActorPool, Actors
from flows.annotating import Networks, annotator_recipes
from flows.captioning import caption_recipe
from flows.sharing import announced_device, cluster_of_ray, shares
from tasks.annotators.base import Annotator
from tasks.captioners.base import Captioner

ANNOTATE, CAPTION = "annotate", "caption"

_SHARDS_AT_ONCE = 2
"""One more than the one whose rows are worked on, so that the actors have work while a shard is committed."""
_ACTORS_PER_SHARD = 4


class Crew:
    """The pools that the jobs of one lane need, started when the first such job is known and ended together."""

    def __init__(self, pools: Sequence[ActorPool], hand_out: Callable[[tuple[Actors, ...]], Any]) -> None:
        """`hand_out` makes of the actors what a task is given."""
        self._pools = pools
        self._hand_out = hand_out
        self._handed: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for pool in self._pools:
            self._stack.enter_context(pool)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def num_shards(self) -> int:
        """How many shards at once keep all actors busy."""
        return num_shards(self._pools)

    def start(self) -> None:
        """Begin to start the actors; does not wait for them."""
        for pool in self._pools:
            pool.start()

    def ready(self, timeout_s: float = 0.0) -> Any | None:
        """What a task is given, once all actors have loaded their networks; None where they have not yet.

        Raises:
            EngineStartError: an actor cannot load its network.
        """
        if self._handed is None:
            actors = [pool.actors(timeout_s) for pool in self._pools]
            there = tuple(one for one in actors if one is not None)
            if len(there) == len(actors):
                self._handed = self._hand_out(there)
        return self._handed


def crews(units: Sequence[Annotator], captioner: Captioner | None, engine: EngineOptions) -> dict[str, Crew]:
    """The crews that a run with these networks needs, nothing of them started yet.

    Raises:
        EngineStartError: there is no GPU where one is needed, or there are fewer than the options need.
    """
    if not units and captioner is None:
        return {}
    cluster = cluster_of_ray()
    names = [*(unit.name for unit in units), *([] if captioner is None else [captioner.name])]
    device = announced_device(engine, cluster, ", ".join(names))
    annotating = annotator_recipes(units, device)
    recipes = [*annotating, *([] if captioner is None else [caption_recipe(captioner, device)])]
    given = shares([recipe.demand for recipe in recipes], engine, cluster)
    pools = [ActorPool(recipe, share) for recipe, share in zip(recipes, given, strict=True)]
    made = {}
    if units:
        of_units = pools[: len(annotating)]
        num_tasks = engine.processes_count or num_shards(of_units)
        # the other half is for what has not been let go yet, and for maps
        max_bytes = int(cluster.object_store_bytes / 2 / num_tasks)
        made[ANNOTATE] = Crew(of_units, lambda actors: Networks(tuple(units), actors, max_bytes))
    if captioner is not None:
        made[CAPTION] = Crew(pools[len(annotating) :], lambda actors: actors[0])
    return made


def num_shards(pools: Sequence[ActorPool]) -> int:
    """How many shards at once keep all actors busy."""
    return max(_SHARDS_AT_ONCE, max(pool.num_actors for pool in pools) // _ACTORS_PER_SHARD)
