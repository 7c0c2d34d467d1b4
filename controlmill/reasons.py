"""Why a row has no image: one closed list, counted and shown, the vocabulary of `controlmill retry --reason`.

The three values of img2dataset's `status` column are kept beside the reason, so that scripts written for its output
go on working.
"""

from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """The cause of a failed row."""

    # the address
    INVALID_URL = "invalid_url"
    FORBIDDEN_ADDRESS = "forbidden_address"
    # permission
    ROBOTS_TXT = "robots_txt"
    OPT_OUT = "opt_out"
    # the network
    DNS = "dns"
    CONNECTION = "connection"
    TLS = "tls"
    TIMEOUT = "timeout"
    HOST_UNAVAILABLE = "host_unavailable"
    # the answer
    HTTP_4XX = "http_4xx"
    HTTP_404 = "http_404"
    HTTP_429 = "http_429"
    HTTP_5XX = "http_5xx"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    HASH_MISMATCH = "hash_mismatch"
    FILE_MISSING = "file_missing"
    # the picture
    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    CORRUPT_IMAGE = "corrupt_image"
    TOO_MANY_PIXELS = "too_many_pixels"
    TOO_SMALL = "too_small"
    BAD_ASPECT_RATIO = "bad_aspect_ratio"
    # a layer made from the picture
    ANNOTATOR_ERROR = "annotator_error"
    CAPTIONER_ERROR = "captioner_error"


MEANINGS: dict[Reason, str] = {
    Reason.INVALID_URL: "not an http or https URL",
    Reason.FORBIDDEN_ADDRESS: "the host, or a redirect, leads to a private, loopback or other non-public address",
    Reason.ROBOTS_TXT: "robots.txt of the host forbids it",
    Reason.OPT_OUT: "an X-Robots-Tag header opts the image out",
    Reason.DNS: "the name of the host could not be resolved",
    Reason.CONNECTION: "the connection was refused, reset or closed",
    Reason.TLS: "no trusted TLS connection: certificate or handshake",
    Reason.TIMEOUT: "no connection, no bytes, or no end in the given time",
    Reason.HOST_UNAVAILABLE: "not tried: the host had failed too often in a row and is left alone for a while",
    Reason.HTTP_4XX: "another answer 400 to 499",
    Reason.HTTP_404: "answer 404: there is nothing",
    Reason.HTTP_429: "answer 429: too many requests",
    Reason.HTTP_5XX: "answer 500 to 599",
    Reason.TOO_MANY_REDIRECTS: "more redirects than allowed, or a loop",
    Reason.TRUNCATED: "the body ended early",
    Reason.TOO_LARGE: "the body is larger than allowed",
    Reason.HASH_MISMATCH: "the bytes do not have the expected hash",
    Reason.FILE_MISSING: "the local file of the row cannot be read",
    Reason.EMPTY: "the body is empty",
    Reason.NOT_AN_IMAGE: "the bytes are no image of a known format",
    Reason.CORRUPT_IMAGE: "an image that cannot be decoded",
    Reason.TOO_MANY_PIXELS: "more pixels than allowed",
    Reason.TOO_SMALL: "the shorter side is too small",
    Reason.BAD_ASPECT_RATIO: "too long for its width",
    Reason.ANNOTATOR_ERROR: "an annotator failed on the image",
    Reason.CAPTIONER_ERROR: "a captioner failed on the image",
}
"""What each reason means, in one line."""

_PICTURE = frozenset(
    {
        Reason.EMPTY,
        Reason.NOT_AN_IMAGE,
        Reason.CORRUPT_IMAGE,
        Reason.TOO_MANY_PIXELS,
        Reason.TOO_SMALL,
        Reason.BAD_ASPECT_RATIO,
        Reason.ANNOTATOR_ERROR,
        Reason.CAPTIONER_ERROR,
    }
)

OF_LAYERS: dict[Reason, str] = {Reason.ANNOTATOR_ERROR: "annotate", Reason.CAPTIONER_ERROR: "caption"}
"""Reasons of rows that have an image and lack something made from it, and the commands that make it."""

SUCCESS = "success"


def img2dataset_status(reason: Reason) -> str:
    """The value that img2dataset's `status` column would have."""
    return "failed_to_resize" if reason in _PICTURE else "failed_to_download"


@dataclass(frozen=True, slots=True)
class RowFailure:
    """The failure of one row: a value, never an exception."""

    reason: Reason
    message: str
    http_status: int | None = None
    attempts: int = 1
