"""`controlmill caption` before anything is started."""

from pathlib import Path

import pytest

from controlmill.cli.main import main
from controlmill.config import CaptionOptions, validate
from controlmill.errors import ConfigError
from storage.dataset import Dataset


def test_the_captioner_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "captioner: Field required" in error
    assert "model" not in error


def test_a_place_without_a_dataset_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["caption", str(tmp_path), "--captioner", "blip", "--model", "/nowhere"]) == 4
    assert "is no controlmill dataset" in capsys.readouterr().err


def test_weights_that_are_missing_are_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset.create(str(tmp_path / "dataset"))
    assert main(["caption", dataset.uri, "--captioner", "blip", "--model", "/nowhere"]) == 7
    assert capsys.readouterr().err == "error: model: there is no folder /nowhere\n"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"captioner": "clip"}, "captioner"),
        ({"min_new_tokens": 9, "max_new_tokens": 8}, "min_new_tokens: 9 is above max_new_tokens, 8"),
        ({"captioner": "lavis", "do_sample": True, "temperature": 0.7}, "temperature: LAVIS draws at 1 only, not 0.7"),
        ({"top_p": 1.5}, "top_p"),
    ],
)
def test_impossible_options(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(CaptionOptions, {"captioner": "blip", "model": "small", **values})
