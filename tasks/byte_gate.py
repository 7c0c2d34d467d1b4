"""Bounds the bytes of images that were pulled and not decoded yet, without knowing their sizes beforehand."""

import asyncio
from collections import deque
from types import TracebackType
from typing import Self

_FIRST_GUESS_BYTES = 256 * 1024
_WEIGHT = 0.1


class ByteGate:
    """Lets work in while its expected size fits under `max_bytes`; expects what the last ones were, on average.

    A single image may always pass, however large it is. The bound is a soft one: images larger than the average are
    let in before that is known.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._expected_bytes = float(_FIRST_GUESS_BYTES)
        self._held_bytes = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def hold(self) -> "Held":
        """A share of the gate: `async with` waits for room, then holds what is expected, corrected by `Held.settle`."""
        return Held(self)

    async def enter(self, held: "Held") -> None:
        """Wait for room and hold the expected size."""
        while self._held_bytes > 0 and self._held_bytes + self._expected_bytes > self._max_bytes:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        held.num_bytes = self._expected_bytes
        self._held_bytes += held.num_bytes

    def leave(self, held: "Held") -> None:
        """Give the share back: the next may have room now."""
        self._held_bytes -= held.num_bytes
        self._wake()

    def settle(self, held: "Held", num_bytes: int) -> None:
        """Replace the expected size of `held` by the true one."""
        self._held_bytes += num_bytes - held.num_bytes
        held.num_bytes = num_bytes
        self._expected_bytes += _WEIGHT * (num_bytes - self._expected_bytes)

    def _wake(self) -> None:
        expected_held = self._held_bytes
        while self._waiting and (expected_held <= 0 or expected_held + self._expected_bytes <= self._max_bytes):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                expected_held += self._expected_bytes


class Held:
    """One image's share of the gate while its `async with` block lasts."""

    __slots__ = ("_gate", "num_bytes")

    def __init__(self, gate: ByteGate) -> None:
        self._gate = gate
        self.num_bytes = 0.0

    async def __aenter__(self) -> Self:
        await self._gate.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.leave(self)

    def settle(self, num_bytes: int) -> None:
        """Tell the true size."""
        self._gate.settle(self, num_bytes)
