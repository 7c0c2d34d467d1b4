"""A small HTTP/1.1 server for tests and benchmarks, on 127.0.0.1 and a free port, in a thread of its own.

It writes the bytes of an answer itself, so that answers which no HTTP library would send can be sent. It keeps
connections alive, counts what it was asked, and knows nothing of what it serves: subclasses and tests add routes.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import parse_qs, urlsplit

_MAX_HEAD_BYTES = 64 * 1024
_TURNS_TO_ACCEPT = 10


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived; header names are in lower case, `time_s` is `time.monotonic()`."""

    target: str
    headers: Mapping[str, str]
    time_s: float
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query."""
        return urlsplit(self.target).path

    def query(self, name: str, default: str) -> str:
        """One value of the query string."""
        return parse_qs(urlsplit(self.target).query).get(name, [default])[0]


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[bool]]
"""Writes the answer; returns whether the connection can be kept for the next request."""


def answer(body: bytes = b"", status: str = "200 OK", headers: Mapping[str, str] | None = None) -> Handler:
    """A handler that always gives this answer, with a Content-Length unless `headers` says otherwise."""
    fields = {"Content-Length": str(len(body))} | dict(headers or {})
    message = "\r\n".join(
        [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    ).encode()
    message += body

    async def write(_request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(message)
        await writer.drain()
        return True

    return write


@dataclass
class HttpServer:
    """Serves `routes` (by path) while its `with` block lasts; whatever is not there gets 404."""

    routes: dict[str, Handler] = field(default_factory=dict)
    port: int = 0
    requests: list[Request] = field(default_factory=list)
    num_connections: int = 0

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """The address of `path` on this server, optionally under another name that resolves to it."""
        return f"http://{host}:{self.port}{path}"

    def asked(self, target: str) -> list[Request]:
        """The requests for this path, in the order they came; only that query's if `target` has one."""
        return [request for request in self.requests if target in (request.target, request.path)]

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), name="http-server", daemon=True)
        self._thread.start()
        started.wait()
        if not self.port:
            raise RuntimeError("the test server could not bind to 127.0.0.1")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._run(started))
        finally:
            started.set()

    async def _run(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self._conversations: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_MAX_HEAD_BYTES, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        # connections that the kernel had accepted in this moment become conversations first, in a few turns of the loop
        for _ in range(_TURNS_TO_ACCEPT):
            await asyncio.sleep(0)
        for conversation in self._conversations:
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        conversation = asyncio.ensure_future(self._converse(reader, writer))
        self._conversations.add(conversation)

        # not at the end of the conversation itself: one that is cancelled before its first step has none
        def end(_: asyncio.Task[None]) -> None:
            self._conversations.discard(conversation)
            writer.close()
            if self._stop.is_set():  # not even for a client that does not read
                writer.transport.abort()

        conversation.add_done_callback(end)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # a client that goes away in the middle is part of every test here, and no error of the server
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while await self._answer(await reader.readuntil(b"\r\n\r\n"), reader, writer):
                pass

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        request = Request(first.split(" ")[1], headers, time.monotonic(), body)
        self.requests.append(request)
        handler = self.routes.get(request.path)
        if handler is None:
            handler = self.fallback(request)
        return await handler(request, writer)

    def fallback(self, _request: Request) -> Handler:
        """What answers a path that has no route."""
        return answer(b"no such path", "404 Not Found")
