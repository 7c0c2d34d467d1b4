"""`controlmill env`."""

from pathlib import Path

import pytest

from controlmill.cli.main import main


@pytest.fixture(autouse=True)
def _empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROLMILL_ENVIRONMENTS", str(tmp_path))


def test_list_says_what_there_is_and_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("blip-lavis: captions by salesforce-lavis")
    assert lines[1] == f"  {tmp_path / 'blip-lavis'}"
    assert lines[2] == "  it is not made; run `controlmill env create blip-lavis`"


def test_check_of_one_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "check", "blip-lavis"]) == 5
    assert capsys.readouterr().err.startswith("error: environment blip-lavis (")


@pytest.mark.parametrize("word", ["create", "check"])
def test_an_unknown_name_is_one_line(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", word, "lavis"]) == 5
    assert capsys.readouterr().err == "error: there is no environment 'lavis'; there are blip-lavis\n"
