"""The vocabulary of failures is complete."""

import pytest

from controlmill.reasons import MEANINGS, Reason, img2dataset_status


def test_every_reason_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Reason)
    assert all(meaning and "\n" not in meaning and not meaning.endswith(".") for meaning in MEANINGS.values())


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.TIMEOUT, "failed_to_download"),
        (Reason.OPT_OUT, "failed_to_download"),
        (Reason.CORRUPT_IMAGE, "failed_to_resize"),
        (Reason.TOO_SMALL, "failed_to_resize"),
    ],
)
def test_img2dataset_status(reason: Reason, status: str) -> None:
    assert img2dataset_status(reason) == status
