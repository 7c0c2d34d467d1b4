import asyncio
import contextlib
import gzip
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from controlmill import __version__
from controlmill.config.pull import PullOptions
from controlmill.reasons import Reason
from controlmill.testing.http_server import Handler, HttpServer, Request, answer
from controlmill.testing.network import ListedLookup
from tasks.pull.client import Answer, Client, Wanted, user_agent
from tasks.pull.failures import Failure
from tasks.pull.guard import Guard, GuardedResolver
from tasks.pull.statistics import PullStatistics

# long enough for a busy machine; only a test of a timeout lets one pass
OPTIONS = PullOptions(timeout=20.0, total_timeout=30.0)
WANTED = Wanted(max_bytes=100_000)
BODY = bytes(70_000)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer({"/image": answer(BODY)}) as server:
        yield server


@contextlib.asynccontextmanager
async def client(options: PullOptions = OPTIONS, lookup: ListedLookup | None = None) -> AsyncIterator[Client]:
    resolver = GuardedResolver(lookup or ListedLookup(), Guard(lambda _: True))
    async with Client(options, resolver, PullStatistics()) as client:
        yield client


async def get(url: str, wanted: Wanted = WANTED, options: PullOptions = OPTIONS) -> Answer | Failure:
    async with client(options) as one:
        return await one.get(URL(url), asyncio.get_running_loop().time() + options.total_timeout, wanted)


async def test_a_connection_is_used_for_many_requests(server: HttpServer) -> None:
    async with client() as one:
        for _ in range(20):
            assert await one.get(URL(server.url("/image")), float("inf"), WANTED) == Answer(200, BODY)
    assert len(server.asked("/image")) == 20
    assert server.num_connections == 1


async def test_names_are_looked_up_once_for_many_connections(server: HttpServer) -> None:
    lookup = ListedLookup()
    async with client(lookup=lookup) as one:
        url = URL(server.url("/image", host="images.example"))
        await asyncio.gather(*(one.get(url, float("inf"), WANTED) for _ in range(10)))
    assert lookup.asked == ["images.example"]
    assert server.asked("/image")[0].headers["host"] == f"images.example:{server.port}"


async def test_it_says_who_asks_and_wants_nothing_compressed(server: HttpServer) -> None:
    options = OPTIONS.model_copy(update={"user_agent_contact": "https://example.org/bot", "user_agent_token": "mybot"})
    await get(server.url("/image"), options=options)
    headers = server.asked("/image")[0].headers
    assert headers["user-agent"] == f"controlmill/{__version__} (+https://example.org/bot; mybot)"
    assert headers["accept-encoding"] == "identity"
    assert "cookie" not in headers


def test_the_user_agent_has_no_empty_parts() -> None:
    assert user_agent(PullOptions()) == f"controlmill/{__version__}"
    assert user_agent(PullOptions(user_agent_contact="me@example.org")).endswith(" (+me@example.org)")


async def test_cookies_are_not_kept(server: HttpServer) -> None:
    server.routes["/cookie"] = answer(b"x", headers={"Set-Cookie": "id=1"})
    async with client() as one:
        for _ in range(2):
            await one.get(URL(server.url("/cookie")), float("inf"), WANTED)
    assert "cookie" not in server.asked("/cookie")[1].headers


async def test_credentials_are_sent_and_not_told(server: HttpServer) -> None:
    server.routes["/broken"] = answer(status="500 Oh")
    failure = await get(f"http://user:secret@127.0.0.1:{server.port}/broken")
    assert server.asked("/broken")[0].headers["authorization"].startswith("Basic ")
    assert isinstance(failure, Failure)
    assert "secret" not in failure.message


async def test_a_redirect_is_an_answer(server: HttpServer) -> None:
    server.routes["/moved"] = answer(status="301 Moved", headers={"Location": "/image"})
    assert await get(server.url("/moved")) == Answer(301, location="/image")
    server.routes["/nowhere"] = answer(status="302 Found")
    failure = await get(server.url("/nowhere"))
    assert isinstance(failure, Failure)
    assert (failure.reason, failure.http_status) == (Reason.HTTP_4XX, 302)


async def test_a_length_beyond_the_cap_is_refused_before_the_body(server: HttpServer) -> None:
    async def large(_request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100001\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(60)
        return False

    server.routes["/large"] = large
    failure = await get(server.url("/large"))
    assert isinstance(failure, Failure)
    # who waits for the body, which never comes, finds TIMEOUT
    assert failure.reason is Reason.TOO_LARGE


async def test_a_chunked_body_beyond_the_cap_is_refused(server: HttpServer) -> None:
    async def chunked(_request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")
            await writer.drain()

    server.routes["/chunked"] = chunked
    failure = await get(server.url("/chunked"))
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.TOO_LARGE


async def test_the_start_is_enough_where_it_is_said_so(server: HttpServer) -> None:
    assert await get(server.url("/image"), Wanted(10, start_is_enough=True)) == Answer(200, BODY[:10])


async def test_headers_are_judged_before_the_body(server: HttpServer) -> None:
    refusal = Failure(Reason.OPT_OUT, "no")
    assert await get(server.url("/image"), Wanted(10, check=lambda _: refusal)) is refusal


@pytest.mark.parametrize("body", [b"garbage", gzip.compress(BODY, mtime=0)[:50]])
async def test_broken_compression_is_a_failure(server: HttpServer, body: bytes) -> None:
    server.routes["/gzip"] = answer(body, headers={"Content-Encoding": "gzip"})
    failure = await get(server.url("/gzip"))
    assert isinstance(failure, Failure)
    assert failure.reason in (Reason.CORRUPT_IMAGE, Reason.TRUNCATED)


def dripping(byte: bytes) -> Handler:
    async def drip(_request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            writer.write(byte)
            await writer.drain()
            await asyncio.sleep(0.1)

    return drip


async def test_dripping_ends_with_the_total_time_and_is_the_hosts_fault(server: HttpServer) -> None:
    server.routes["/drip"] = dripping(b"x")
    began = time.monotonic()
    failure = await get(server.url("/drip"), options=OPTIONS.model_copy(update={"total_timeout": 1.0}))
    # the body alone would take 10,000 s; the machine may be busy
    assert 0.9 < time.monotonic() - began < 60
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.TIMEOUT
    assert not failure.is_suspect


async def test_silence_ends_with_the_timeout(server: HttpServer) -> None:
    server.routes["/silence"] = dripping(b"")
    failure = await get(server.url("/silence"), options=OPTIONS.model_copy(update={"timeout": 0.3}))
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.TIMEOUT
    assert failure.is_suspect


async def test_plain_text_where_tls_should_be_is_a_tls_failure() -> None:
    async def speak_plainly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(speak_plainly, "127.0.0.1", 0)
    async with server:
        failure = await get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.TLS


def self_signed(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA256())
    pem = folder / "server.pem"
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


@pytest.mark.parametrize("ignore", [False, True])
async def test_a_certificate_that_nobody_vouches_for_is_refused_unless_ignored(tmp_path: Path, *, ignore: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self_signed(tmp_path))
    async with server:
        options = OPTIONS.model_copy(update={"ignore_ssl_certificate": ignore})
        outcome = await get(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", options=options)
    if ignore:
        assert outcome == Answer(200, b"hi")
    else:
        assert isinstance(outcome, Failure)
        assert outcome.reason is Reason.TLS
        assert "self-signed certificate" in outcome.message


async def test_a_closed_port_refuses() -> None:
    with HttpServer() as server:
        pass
    failure = await get(server.url("/image"))
    assert isinstance(failure, Failure)
    assert failure.reason is Reason.CONNECTION
    assert "refused" in failure.message
