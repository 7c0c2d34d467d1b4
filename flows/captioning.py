"""Captioners as Ray actors.

A captioner of an isolated environment runs in that environment's interpreter; its class is sent by value, so that
nothing of ours has to be importable there.
"""

import os
from typing import Any

from ray import cloudpickle

from controlmill.errors import DeviceLostError
from controlmill.heap import keep_freed_memory
from flows.actor_pool import ActorRecipe, end_process
from flows.sharing import Demand, Device
from tasks.caption_shard import Caption
from tasks.captioners.base import Captioner, LocalCaptioner
from tasks.captioners.lavis import Lavis
from tasks.environments import require
from tasks.images.decode import decode_stored


class CaptionActor:
    """A captioner of the main environment, behind the same methods that `LavisWorker` has."""

    def __init__(self, captioner: LocalCaptioner, device: str) -> None:
        if device == "cpu":
            keep_freed_memory()
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
        results: dict[int, Caption] = {}
        pixels = {}
        for index, encoded in enumerate(images):
            try:
                pixels[index] = decode_stored(encoded)
            except ValueError as error:
                results[index] = (None, f"{type(error).__name__}: {error}")
        try:
            made = self._captioner(list(pixels.values()), [keys[index] for index in pixels])
        except DeviceLostError as error:
            end_process(error)
        for index, one in zip(pixels, made, strict=True):
            results[index] = (one, None) if isinstance(one, str) else (None, one.message)
        return [results[index] for index in range(len(images))]


def caption_recipe(captioner: Captioner, device: Device) -> ActorRecipe:
    """How an actor with this captioner is made."""
    kind: type = CaptionActor
    arguments: dict[str, Any] = {"captioner": captioner, "device": device}
    runtime_env: dict[str, Any] = {}
    if isinstance(captioner, Lavis):
        kind, arguments = _lavis_worker(), captioner.arguments(device)
        environment = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": "", "PYTHONNOUSERSITE": "1"}
        runtime_env = {"py_executable": str(require(captioner.environment).python), "env_vars": environment}
    return ActorRecipe(
        what="captions",
        name=captioner.name,
        kind=kind,
        method="caption",
        arguments=arguments,
        demand=Demand(captioner.num_cpus, captioner.num_gpus),
        runtime_env=runtime_env,
    )


def _lavis_worker() -> type:
    from tasks.captioners import convert, lavis_worker, seeds

    for module in (convert, lavis_worker, seeds):
        cloudpickle.register_pickle_by_value(module)  # type: ignore[no-untyped-call]
    return lavis_worker.LavisWorker
