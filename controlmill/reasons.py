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


_PICTURE = frozenset(
    {
        Reason.EMPTY,
        Reason.NOT_AN_IMAGE,
        Reason.CORRUPT_IMAGE,
        Reason.TOO_MANY_PIXELS,
        Reason.TOO_SMALL,
        Reason.BAD_ASPECT_RATIO,
        Reason.ANNOTATOR_ERROR,
    }
)

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
