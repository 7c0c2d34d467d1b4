"""Events of a run as JSON to an address of the user's: in a thread of its own, again where it fails, never in the way.

The address is a secret: whoever knows it can post there. It is in no log, file or page of ours.
"""

import asyncio
import os
import queue
import random
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from controlmill import __version__
from controlmill.config import TrainConfig
from controlmill.errors import ConfigError
from controlmill.logs import warning
from storage.filesystem import redact

if TYPE_CHECKING:
    import aiohttp

ENVIRONMENT = "CONTROLMILL_WEBHOOK_URL"
TOLD = frozenset({"control_following", "control_settled", "already_following", "stalled", "control_confirmed"})
"""Events that are posted."""

_MAX_ATTEMPTS = 5
_TIMEOUT_S = 10.0
_FIRST_WAIT_S, _MAX_WAIT_S = 1.0, 30.0
_CLOSE_S = 30.0
"""How long the end of a run waits for what is still under way."""
_GIVE_UP_S = 1.0
_PASSING = frozenset({408, 425, 429})


def webhook_url(config: TrainConfig) -> str | None:
    """The address of the option, else of the environment, else None.

    Raises:
        ConfigError: that of the environment is no address; it is not shown.
    """
    if config.webhook_url is not None:
        return config.webhook_url.get_secret_value()
    url = os.environ.get(ENVIRONMENT, "").strip()
    if url and not url.startswith(("http://", "https://")):
        raise ConfigError(f"{ENVIRONMENT}: give an address that begins with http:// or https://")
    return url or None


class Webhook:
    """Posts events, inside of a `with` block; without an address it does nothing."""

    def __init__(
        self, url: str | None, output_dir: str, *, first_wait_s: float = _FIRST_WAIT_S, close_s: float = _CLOSE_S
    ) -> None:
        """Get ready.

        Args:
            url: where to post, None for nowhere.
            output_dir: of the run; every message names it.
            first_wait_s: before the second attempt; doubled each time, and drawn from its upper half.
            close_s: how long the end of the block waits at most.
        """
        self._url = url
        self._run = redact(output_dir)
        self._first_wait_s = first_wait_s
        self._close_s = close_s
        self._messages: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._num_waiting = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        # not the process's own: that belongs to whoever seeded it
        self._draw = random.Random()  # noqa: S311 - spreads attempts
        # a daemon: an address that does not answer keeps nobody from ending
        self._thread = threading.Thread(target=self._deliver_all, name="webhook", daemon=True)

    def __enter__(self) -> Self:
        if self._url is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._url is None:
            return
        self._messages.put(None)
        self._thread.join(self._close_s)
        if self._thread.is_alive():
            warning("webhook_failed", events=self._num_waiting, reason="the run ended before they were delivered")
            self._give_up()

    def _give_up(self) -> None:
        """Break off what is under way: no thread works on in a process that exits, or that goes on without us."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it ended by itself meanwhile
                self._loop.call_soon_threadsafe(self._cancel)
        # not for longer: a resolver that hangs cannot be broken off
        self._thread.join(_GIVE_UP_S)

    def _cancel(self) -> None:
        for task in asyncio.all_tasks():
            task.cancel()

    def tell(self, event: str, fields: Mapping[str, Any]) -> None:
        """Post an event in the background, if it is one of `TOLD`."""
        if self._url is None or event not in TOLD:
            return
        self._num_waiting += 1
        at = datetime.now(UTC).isoformat(timespec="seconds")
        text = f"controlmill {self._run}: {event} at update {fields.get('update')}"
        self._messages.put({"event": event, "text": text, "output_dir": self._run, "time": at, **fields})

    def _deliver_all(self) -> None:
        with asyncio.Runner() as runner, suppress(asyncio.CancelledError):
            self._loop = runner.get_loop()
            while (message := self._messages.get()) is not None:
                self._deliver_one(runner, message)

    def _deliver_one(self, runner: asyncio.Runner, message: Mapping[str, Any]) -> None:
        try:
            problem = runner.run(self._deliver(message))
        # a thread that nobody joins must not die of what a proxy, resolver or certificate comes up with
        except Exception as error:  # noqa: BLE001
            problem = type(error).__name__
        self._num_waiting -= 1
        if problem:
            warning("webhook_failed", event_name=message["event"], update=message.get("update"), reason=problem)

    async def _deliver(self, message: Mapping[str, Any]) -> str:
        """Post until it is taken; returns why it was not, "" where it was."""
        import aiohttp

        headers = {"User-Agent": f"controlmill/{__version__}"}
        problem = ""
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), headers=headers, trust_env=True
        ) as session:
            for attempt in range(_MAX_ATTEMPTS):
                if attempt:
                    longest_s = min(_MAX_WAIT_S, self._first_wait_s * 2 ** (attempt - 1))
                    await asyncio.sleep(longest_s * self._draw.uniform(0.5, 1.0))
                problem, may_pass = await self._post(session, message)
                if not may_pass:
                    break
        return problem

    async def _post(self, session: "aiohttp.ClientSession", message: Mapping[str, Any]) -> tuple[str, bool]:
        """One attempt: what went wrong ("" for nothing), and whether another attempt makes sense."""
        import aiohttp

        assert self._url is not None  # noqa: S101 checked by whoever queues
        try:
            async with session.post(self._url, json=message, allow_redirects=False) as answer:
                status = answer.status
        except aiohttp.InvalidURL:
            return "the address is not one", False
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            # its text may hold the address
            return f"no answer ({type(error).__name__})", True
        if status < 300:
            return "", False
        return f"answer {status}", status >= 500 or status in _PASSING
