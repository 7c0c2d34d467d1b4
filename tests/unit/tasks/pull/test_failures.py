import errno
import socket
import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import aiohttp
import pytest

from controlmill.reasons import Reason
from tasks.pull.failures import ForbiddenAddressError, explain, of_status, out_of_time

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

KEY = cast("ConnectionKey", SimpleNamespace(host="example.org", port=443, is_ssl=True, ssl=True))


def certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "certificate has expired"
    return error


@pytest.mark.parametrize(
    ("error", "reason", "words", "is_suspect"),
    [
        (ForbiddenAddressError("a leads to 10.0.0.1"), Reason.FORBIDDEN_ADDRESS, "10.0.0.1", False),
        (aiohttp.ConnectionTimeoutError(), Reason.TIMEOUT, "no connection to example.org within 10 s", True),
        (aiohttp.SocketTimeoutError(), Reason.TIMEOUT, "example.org sent nothing for 10 s", True),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "?")),
            Reason.DNS,
            "no host named example.org",
            False,
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_AGAIN, "?")),
            Reason.DNS,
            "cannot be resolved at the moment",
            True,
        ),
        (
            aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_FAIL, "broken server")),
            Reason.DNS,
            "broken server",
            False,
        ),
        (
            aiohttp.ClientConnectorCertificateError(KEY, certificate_error()),
            Reason.TLS,
            "certificate has expired",
            False,
        ),
        (
            aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")),
            Reason.TLS,
            "wrong version number",
            False,
        ),
        (aiohttp.ClientPayloadError(), Reason.TRUNCATED, "broke off", False),
        (aiohttp.InvalidURL("x"), Reason.INVALID_URL, "not a host", False),
        (UnicodeError("label too long"), Reason.INVALID_URL, "not a host", False),
        (aiohttp.ServerDisconnectedError(), Reason.CONNECTION, "closed the connection without an answer", False),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), Reason.CONNECTION, "refused", False),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), Reason.CONNECTION, "reset", False),
        (aiohttp.ClientOSError(errno.ETIMEDOUT, "timed out"), Reason.TIMEOUT, "went silent", True),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ENETUNREACH, "x")), Reason.CONNECTION, "unreachable", True),
        (OSError(errno.EHOSTUNREACH, "x"), Reason.CONNECTION, "no route to host", True),
        (OSError(errno.EMFILE, "x"), Reason.CONNECTION, "too many open files", True),
        (OSError("Multiple exceptions: [Errno 101] a, [Errno 113] b"), Reason.CONNECTION, "Errno 101", True),
        (OSError("Multiple exceptions: [Errno 101] a, [Errno 111] b"), Reason.CONNECTION, "Errno 111", False),
        (aiohttp.ClientError(), Reason.CONNECTION, "not HTTP", False),
    ],
)
def test_each_error_has_a_reason_and_words(error: Exception, reason: Reason, words: str, *, is_suspect: bool) -> None:
    failure = explain(error, "example.org", 10.0)
    assert failure.reason is reason
    assert words in failure.message
    assert failure.is_suspect is is_suspect


@pytest.mark.parametrize(
    ("status", "reason", "retryable"),
    [
        (404, Reason.HTTP_404, False),
        (403, Reason.HTTP_4XX, False),
        (408, Reason.HTTP_4XX, False),
        (429, Reason.HTTP_429, True),
        (500, Reason.HTTP_5XX, True),
        (503, Reason.HTTP_5XX, True),
        (304, Reason.HTTP_4XX, False),
    ],
)
def test_only_429_and_5xx_are_worth_another_attempt(status: int, reason: Reason, *, retryable: bool) -> None:
    failure = of_status(status, "example.org", 7.0)
    assert (failure.reason, failure.http_status, failure.retryable) == (reason, status, retryable)
    assert failure.retry_after_s == (7.0 if retryable else None)


def test_a_slow_host_is_no_sign_of_an_outage_and_a_silent_one_is() -> None:
    assert not out_of_time("example.org", 60, is_answering=True).is_suspect
    assert out_of_time("example.org", 60, is_answering=False).is_suspect


def test_a_missing_image_does_not_count_against_the_host() -> None:
    assert not of_status(404, "example.org", None).blames_host
    assert of_status(503, "example.org", None).blames_host
