"""Hashes of downloaded bytes: the one that is stored, and the one that the source expects."""

import hashlib

from controlmill.reasons import Reason, RowFailure
from tasks.rows import SourceRow

_KIND_BY_LENGTH = {32: "md5", 64: "sha256", 128: "sha512"}


def expected_hash(row: SourceRow) -> tuple[str, str] | None:
    """Name and digits of the hash that the source gives for a row; the length of the digits tells which it is."""
    if row.expected_hash is None:
        return None
    digits = row.expected_hash.strip().lower()
    return _KIND_BY_LENGTH.get(len(digits), "sha256"), digits


def checked_digest(row: SourceRow, data: bytes, kind: str | None) -> str | RowFailure | None:
    """The `kind` hash of `data` in hexadecimal (None where none is wanted), or the failure of the expected one."""
    expected = expected_hash(row)
    if expected is not None and (found := digest(expected[0], data)) != expected[1]:
        return RowFailure(Reason.HASH_MISMATCH, f"the {expected[0]} of the file is {found}, not {expected[1]}")
    return digest(kind, data) if kind else None


def digest(kind: str, data: bytes) -> str:
    """The `kind` hash ("md5", "sha256", "sha512") of `data` in hexadecimal."""
    return hashlib.new(kind, data, usedforsecurity=False).hexdigest()
