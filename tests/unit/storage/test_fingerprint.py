from enum import StrEnum

import pytest
from pydantic import BaseModel

from storage.fingerprint import fingerprint


class Colour(StrEnum):
    RED = "red"


class Options(BaseModel):
    size: int = 3
    ratio: float = float("inf")


def test_literal_value() -> None:
    # sha256 of [{"a":1,"b":[null,"é"]}] in UTF-8
    expected = "0b3846388c8291c055980536365492370359a5c0888b865fa758c8ccf95e994d"
    assert fingerprint({"b": (None, "é"), "a": 1}) == expected


def test_what_counts_and_what_does_not() -> None:
    assert fingerprint({1, 2}, Colour.RED) == fingerprint(frozenset([2, 1]), "red")
    assert fingerprint(Options()) == fingerprint({"ratio": float("inf"), "size": 3})
    different = [fingerprint(), fingerprint([]), fingerprint([1, 2]), fingerprint([2, 1]), fingerprint(1, 2)]
    assert len(set(different)) == 5
    assert fingerprint(1) != fingerprint("1")
    assert fingerprint(b"ab") != fingerprint("ab")


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot take a fingerprint of a object"):
        fingerprint([object()])
