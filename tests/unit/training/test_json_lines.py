"""Logs read back line by line."""

from pathlib import Path
from typing import Any

import pytest

from controlmill.errors import RunUnusableError
from training.json_lines import is_number, json_lines


def test_values_with_their_places(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n\n[2]')
    assert list(json_lines(file, "log")) == [(f"{file}:1", {"a": 1}), (f"{file}:3", [2])]


def test_only_an_unfinished_last_line_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('1\n{"a"')
    assert [value for _, value in json_lines(file, "log")] == [1]
    assert f"line_cut_off place={file}:2" in capsys.readouterr().err
    for text in ('{"a"\n2', '1\n{"a"\n'):
        file.write_text(text)
        with pytest.raises(RunUnusableError, match="not JSON"):
            list(json_lines(file, "log"))


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunUnusableError, match=r"none\.jsonl: cannot read the log: No such file"):
        list(json_lines(tmp_path / "none.jsonl", "log"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, True), (0.5, True), (2**53, True), (2**53 + 1, False), (True, False), ("1", False), (None, False)],
)
def test_numbers(value: Any, expected: bool) -> None:  # noqa: FBT001 a column of the table
    assert is_number(value) is expected
