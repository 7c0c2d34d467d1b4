"""What went wrong with one request, in words of a person, and what follows from it."""

import errno
import os
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import aiohttp

from controlmill.reasons import Reason

_OUR_NETWORK = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EMFILE, errno.ENFILE})
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, socket.EAI_NODATA})

_Kinds = type[Exception] | tuple[type[Exception], ...]

_OF_THE_NETWORK = frozenset({Reason.DNS, Reason.CONNECTION, Reason.TLS, Reason.TIMEOUT, Reason.TRUNCATED})
_OF_THE_HOST = _OF_THE_NETWORK | {Reason.HTTP_429, Reason.HTTP_5XX}


@dataclass(frozen=True, slots=True)
class Failure:
    """The failure of one request.

    Attributes:
        reason: its class.
        message: its cause for a person; names hosts, never whole URLs, which may carry credentials.
        http_status: the status of the answer, if there was one.
        retryable: whether the same request may well succeed a moment later.
        retry_after_s: how long the host asked to be left alone.
        is_suspect: whether this machine's own network could be the cause as well.
        host: whose circuit breaker is to count a suspect failure once it is known to be real.
    """

    reason: Reason
    message: str
    http_status: int | None = None
    retryable: bool = False
    retry_after_s: float | None = None
    is_suspect: bool = False
    host: str = ""

    @property
    def blames_host(self) -> bool:
        """Whether the circuit breaker of the host counts it."""
        return self.reason in _OF_THE_HOST

    @property
    def is_of_network(self) -> bool:
        """Whether it happened on the way, before there was an answer or in the middle of it."""
        return self.reason in _OF_THE_NETWORK


class ForbiddenAddressError(Exception):
    """A name resolved to an address that may not be connected to."""


def explain(error: Exception, host: str, timeout_s: float) -> Failure:
    """The failure that an exception of the HTTP client means; `timeout_s` is the limit of connecting and reading."""
    for kinds, explanation in _EXPLANATIONS:
        if isinstance(error, kinds):
            return explanation(error, host, timeout_s)
    return Failure(Reason.CONNECTION, f"{host} answered with something that is not HTTP")


def out_of_time(host: str, total_timeout_s: float, *, is_answering: bool) -> Failure:
    """The failure of a URL that has used up its total time; a host that `is_answering` is merely slow."""
    what = "had not finished its answer" if is_answering else "had not answered"
    return Failure(Reason.TIMEOUT, f"{host} {what} when {total_timeout_s:g} s were over", is_suspect=not is_answering)


def of_status(status: int, host: str, retry_after_s: float | None) -> Failure:
    """The failure that a status other than success and redirect means."""
    message = f"{host} answered {status}"
    if status == 404:
        return Failure(Reason.HTTP_404, message, status)
    if status == 429:
        return Failure(Reason.HTTP_429, message, status, retryable=True, retry_after_s=retry_after_s)
    if status >= 500:
        return Failure(Reason.HTTP_5XX, message, status, retryable=True, retry_after_s=retry_after_s)
    return Failure(Reason.HTTP_4XX, message, status)


def _no_connection(_error: Exception, host: str, timeout_s: float) -> Failure:
    return Failure(Reason.TIMEOUT, f"no connection to {host} within {timeout_s:g} s", retryable=True, is_suspect=True)


def _silence(_error: Exception, host: str, timeout_s: float) -> Failure:
    return Failure(Reason.TIMEOUT, f"{host} sent nothing for {timeout_s:g} s", retryable=True, is_suspect=True)


def _dns(error: Exception, host: str, _timeout_s: float) -> Failure:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    code = cause.errno if isinstance(cause, socket.gaierror) else None
    if code in _NO_SUCH_NAME:
        return Failure(Reason.DNS, f"there is no host named {host}")
    if code == socket.EAI_AGAIN:
        message = f"the name {host} cannot be resolved at the moment"
        return Failure(Reason.DNS, message, retryable=True, is_suspect=True)
    return Failure(Reason.DNS, f"the name {host} cannot be resolved: {getattr(cause, 'strerror', None) or cause}")


def _certificate(error: Exception, host: str, _timeout_s: float) -> Failure:
    cause = getattr(error, "certificate_error", error)
    return Failure(Reason.TLS, f"the certificate of {host} is not valid: {getattr(cause, 'verify_message', cause)}")


def _tls(error: Exception, host: str, _timeout_s: float) -> Failure:
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    reason = getattr(cause, "reason", None) or cause
    return Failure(Reason.TLS, f"no secure connection to {host}: {str(reason).replace('_', ' ').lower()}")


def _broken_off(_error: Exception, host: str, _timeout_s: float) -> Failure:
    return Failure(Reason.TRUNCATED, f"{host} broke off in the middle of its answer", retryable=True)


def _not_a_url(_error: Exception, host: str, _timeout_s: float) -> Failure:
    return Failure(Reason.INVALID_URL, f"not a host that can be asked: {host}")


def _closed(_error: Exception, host: str, _timeout_s: float) -> Failure:
    return Failure(Reason.CONNECTION, f"{host} closed the connection without an answer", retryable=True)


def _os_error(error: Exception, host: str, _timeout_s: float) -> Failure:
    code = getattr(error, "errno", None)
    is_suspect = code in _OUR_NETWORK
    if code == errno.ETIMEDOUT:
        return Failure(Reason.TIMEOUT, f"{host} went silent", retryable=True, is_suspect=True)
    if code == errno.ECONNREFUSED:
        message = f"{host} refused the connection"
    elif code == errno.ECONNRESET or isinstance(error, ConnectionResetError):
        message = f"{host} reset the connection"
    elif code:
        message = f"no connection to {host}: {os.strerror(code).lower()}"
    else:
        message = f"no connection to {host}: {error}"
        is_suspect = _all_unreachable(message)
    return Failure(Reason.CONNECTION, message, retryable=True, is_suspect=is_suspect)


def _all_unreachable(message: str) -> bool:
    """Whether a host with several addresses, each failing in its own way, failed only in ways that may be ours."""
    codes = [int(code) for code in re.findall(r"\[Errno (\d+)\]", message)]
    return bool(codes) and all(code in _OUR_NETWORK for code in codes)


def _forbidden(error: Exception, _host: str, _timeout_s: float) -> Failure:
    return Failure(Reason.FORBIDDEN_ADDRESS, str(error))


TRANSPORT_ERRORS = (aiohttp.ClientError, ForbiddenAddressError, OSError, UnicodeError)
"""What the HTTP client raises for one request; `explain` knows them."""

# the first that fits counts: special ones stand before the general ones that they inherit from
_EXPLANATIONS: tuple[tuple[_Kinds, Callable[[Exception, str, float], Failure]], ...] = (
    (ForbiddenAddressError, _forbidden),
    (aiohttp.ConnectionTimeoutError, _no_connection),
    (aiohttp.SocketTimeoutError, _silence),
    (aiohttp.ClientConnectorDNSError, _dns),
    (aiohttp.ClientConnectorCertificateError, _certificate),
    ((aiohttp.ClientSSLError, ssl.SSLError), _tls),
    (aiohttp.ClientPayloadError, _broken_off),
    ((aiohttp.InvalidURL, UnicodeError), _not_a_url),
    (aiohttp.ServerDisconnectedError, _closed),
    (OSError, _os_error),
)
