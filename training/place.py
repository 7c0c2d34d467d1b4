"""Where a worker stands among the others, and what ranks say to each other beside gradients."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from controlmill.errors import ControlmillError

T = TypeVar("T")
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}


def _tell_nobody(_: Mapping[str, Any]) -> None:
    return


@dataclass(frozen=True, slots=True)
class Place:
    """One worker of a group whose torch.distributed is initialised."""

    rank: int
    world_size: int
    device: torch.device
    launch: str = ""
    """The launch that started it, the same over restarts after a failure."""
    tell: Callable[[Mapping[str, Any]], None] = _tell_nobody
    """Sends what a person watches to the process that was started by them; called on rank 0."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what is written once."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def of_first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, or raises of our own errors, on every rank: none waits for one that has given up."""
        if self.world_size == 1:
            return make()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = make()
            except ControlmillError as error:
                told[1] = error
        dist.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        made: T = told[0]
        return made

    def autocast(self, mixed_precision: str) -> AbstractContextManager[object]:
        """The precision that networks are run in."""
        if mixed_precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[mixed_precision])


def frozen_dtype(mixed_precision: str) -> torch.dtype:
    """The type of the frozen networks' weights, as diffusers casts them."""
    return _DTYPES[mixed_precision]
