"""Bounds the bytes of images that were pulled and not decoded yet, without knowing their sizes beforehand."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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

    @asynccontextmanager
    async def hold(self) -> AsyncIterator["Held"]:
        """Wait for room, then hold the expected size, corrected by `Held.settle` once it is known."""
        while self._held_bytes > 0 and self._held_bytes + self._expected_bytes > self._max_bytes:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        held = Held(self, self._expected_bytes)
        self._held_bytes += held.num_bytes
        try:
            yield held
        finally:
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
    """One image's share of the gate."""

    __slots__ = ("_gate", "num_bytes")

    def __init__(self, gate: ByteGate, num_bytes: float) -> None:
        self._gate = gate
        self.num_bytes = num_bytes

    def settle(self, num_bytes: int) -> None:
        """Tell the true size."""
        self._gate.settle(self, num_bytes)
