"""One HTTP request: its time limits, its answer, its failures as values."""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp
from multidict import CIMultiDictProxy
from yarl import URL

from controlmill import __version__
from controlmill.config.pull import PullOptions
from controlmill.reasons import Reason
from tasks.pull.body import ENCODINGS, read_body
from tasks.pull.failures import TRANSPORT_ERRORS, Failure, explain, of_status, out_of_time
from tasks.pull.guard import GuardedResolver
from tasks.pull.headers import retry_after_s
from tasks.pull.statistics import PullStatistics

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_DNS_CACHE_S = 300
# the next request to a host that has more comes at once; a host that has not should not cost memory for long
_KEEP_ALIVE_S = 2.0

Check = Callable[[CIMultiDictProxy[str]], Failure | None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of an answer.

    Attributes:
        max_bytes: of the body.
        start_is_enough: a larger body is cut, not a failure.
        check: judges the headers of a successful answer before its body is read.
    """

    max_bytes: int
    start_is_enough: bool = False
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful answer with its body, or a redirect with its `location`."""

    status: int
    body: bytes = b""
    location: str | None = None


class Client:
    """A session whose connections are kept; makes requests, and nothing is followed or repeated."""

    def __init__(self, options: PullOptions, resolver: GuardedResolver, statistics: PullStatistics) -> None:
        self._options = options
        self._resolver = resolver
        self._statistics = statistics

    async def __aenter__(self) -> Self:
        timeout_s = self._options.timeout
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            ttl_dns_cache=_DNS_CACHE_S,
            limit=0,
            keepalive_timeout=_KEEP_ALIVE_S,
            ssl=not self._options.ignore_ssl_certificate,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": user_agent(self._options), "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=None, connect=timeout_s, sock_read=timeout_s),
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._session.close()
        await self._resolver.close()

    async def get(self, url: URL, deadline_at: float, wanted: Wanted) -> Answer | Failure:
        """Ask for `url` until the loop's time is `deadline_at`; redirects are answers, other statuses failures."""
        host = url.host or ""
        response: aiohttp.ClientResponse | None = None
        self._statistics.num_requests += 1
        try:
            async with asyncio.timeout_at(deadline_at):
                response = await self._session.get(url, allow_redirects=False)
                return await self._receive(response, host, wanted)
        except aiohttp.ClientError as error:
            return explain(error, host, self._options.timeout)
        except TimeoutError:
            return out_of_time(host, self._options.total_timeout, is_answering=response is not None)
        except zlib.error:
            return Failure(Reason.CORRUPT_IMAGE, f"{host} sent compressed data that cannot be unpacked")
        except TRANSPORT_ERRORS as error:
            return explain(error, host, self._options.timeout)
        finally:
            # a connection whose answer was read to its end is kept, another one closed
            if response is not None:
                response.release()

    async def _receive(self, response: aiohttp.ClientResponse, host: str, wanted: Wanted) -> Answer | Failure:
        if response.status in _REDIRECTS and "Location" in response.headers:
            return Answer(response.status, location=response.headers["Location"])
        if failure := _judge(response, host, wanted):
            return failure
        body = await read_body(
            response.content, _encoding(response), wanted.max_bytes, keep_start=wanted.start_is_enough
        )
        self._statistics.num_bytes += len(body.data)
        if body.is_cut and not wanted.start_is_enough:
            return _too_large(response, host, wanted)
        if not body.is_complete and not body.is_cut:
            message = f"{host} sent compressed data without its end"
            return Failure(Reason.TRUNCATED, message, response.status, retryable=True)
        return Answer(response.status, body.data)


def _judge(response: aiohttp.ClientResponse, host: str, wanted: Wanted) -> Failure | None:
    """What the status and the headers already tell."""
    if not 200 <= response.status < 300:
        return of_status(response.status, host, retry_after_s(response.headers.get("Retry-After")))
    encoding = _encoding(response)
    if encoding not in ENCODINGS:
        message = f"{host} sent it compressed as {encoding[:20]!r}, which was not asked for"
        return Failure(Reason.NOT_AN_IMAGE, message, response.status)
    if failure := wanted.check(response.headers) if wanted.check else None:
        return failure
    if (response.content_length or 0) > wanted.max_bytes and not wanted.start_is_enough:
        return _too_large(response, host, wanted)
    return None


def _encoding(response: aiohttp.ClientResponse) -> str:
    return response.headers.get("Content-Encoding", "").strip().lower()


def _too_large(response: aiohttp.ClientResponse, host: str, wanted: Wanted) -> Failure:
    return Failure(Reason.TOO_LARGE, f"{host} sent more than max_bytes, {wanted.max_bytes} bytes", response.status)


def user_agent(options: PullOptions) -> str:
    """The honest User-Agent: `controlmill/1.2.3 (+contact; token)`."""
    contact = f"+{options.user_agent_contact}" if options.user_agent_contact else None
    comment = "; ".join(part for part in (contact, options.user_agent_token) if part)
    return f"controlmill/{__version__} ({comment})" if comment else f"controlmill/{__version__}"
