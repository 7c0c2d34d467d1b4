from dataclasses import replace

import pytest
import torch

from controlmill.errors import PreflightError
from training.batch import Batch
from training.preflight import (
    Finding,
    check_alignment,
    check_hints,
    check_pixels,
    check_prompts,
    refuse_if_wrong,
)


@pytest.fixture
def rows() -> Batch:
    """Squares at places of their own, and hints of their outlines."""
    pixels, hints = torch.full((4, 3, 64, 64), -0.5), torch.zeros(4, 3, 64, 64)
    for row in range(4):
        top = 4 + 12 * row
        pixels[row, :, top : top + 12, 20:44] = 0.75
        hints[row, :, top : top + 12, 20] = hints[row, :, top : top + 12, 43] = 1.0
        hints[row, :, top, 20:44] = hints[row, :, top + 11, 20:44] = 1.0
    return Batch(tuple("abcd"), (0,) * 4, (hints,), ("a square", "", "one", "two"), pixels_BCHW=pixels)


def wrong(findings: list[Finding]) -> list[str]:
    return [finding.name for finding in findings if finding.is_wrong]


def test_good_rows_pass(rows: Batch) -> None:
    assert wrong([*check_hints(rows), *check_pixels(rows), *check_prompts(rows), check_alignment(rows)]) == []


def test_hints_in_another_range_are_told(rows: Batch) -> None:
    (finding,) = check_hints(replace(rows, hints=(rows.hints[0] * 2 - 1,)))
    assert finding.is_wrong
    assert finding.said == "-1 to 1 instead of 0 to 1"


def test_hints_that_show_nothing_are_told(rows: Batch) -> None:
    (finding,) = check_hints(replace(rows, hints=(torch.ones_like(rows.hints[0]),)))
    assert finding.is_wrong
    assert "none of 4 shows anything" in finding.said


def test_pixels_in_another_range_are_told(rows: Batch) -> None:
    assert rows.pixels_BCHW is not None
    assert wrong(check_pixels(replace(rows, pixels_BCHW=rows.pixels_BCHW + 0.5))) == ["pixels"]
    assert wrong(check_pixels(replace(rows, pixels_BCHW=rows.pixels_BCHW[..., :32]))) == ["size"]


def test_prompts_that_are_all_empty_are_told(rows: Batch) -> None:
    assert wrong(check_prompts(replace(rows, prompts=("", " ", "", "")))) == ["prompts"]
    assert check_prompts(rows)[0].said == "1 of 4 are empty before any is dropped"


def test_hints_of_other_rows_are_noticed(rows: Batch) -> None:
    assert "no better" not in check_alignment(rows).said
    assert (
        "no better than those of other rows" in check_alignment(replace(rows, hints=(rows.hints[0].roll(1, 0),))).said
    )


def test_everything_that_is_wrong_is_named_at_once() -> None:
    findings = [Finding("a", "x", is_wrong=True), Finding("b", "y"), Finding("c", "z", is_wrong=True)]
    with pytest.raises(PreflightError, match="preflight: a: x; c: z"):
        refuse_if_wrong(findings)
    refuse_if_wrong(findings[1:2])
