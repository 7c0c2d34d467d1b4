"""One hash that says whether two pieces of work are the same."""

import hashlib
import json
from enum import Enum
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel


def fingerprint(*parts: Any) -> str:
    """SHA-256 (hex) of the canonical JSON of `parts`: plain values, containers, pydantic models, sets, enums.

    The order of keys and of sets does not count, the order of sequences does; tuples equal lists.

    Raises:
        TypeError: a part is of a kind that has no canonical form.
    """
    text = json.dumps([_canonical(part) for part in parts], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _canonical(value.model_dump())
    if isinstance(value, dict):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_canonical(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return _canonical_scalar(value)


def _canonical_scalar(value: Any) -> Any:
    if isinstance(value, Enum):
        return _canonical(value.value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"cannot take a fingerprint of a {type(value).__name__}: {value!r}")
