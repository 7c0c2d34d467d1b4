"""Storage that can be written and storage that cannot, weights and environments that are there or not."""

from pathlib import Path

import pytest

from flows.doctor import data
from tasks.annotators import registry


def test_storage_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    new = tmp_path / "new"
    (finding,) = data.storage(str(new))
    assert finding.verdict in ("good", "note")
    assert finding.what == f"storage {new}"
    assert not new.exists()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "file").write_text("kept")
    list(data.storage(str(tmp_path / "here")))
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["file"]


def test_storage_that_is_a_file_or_nothing_known_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for uri in (str(tmp_path / "file" / "dataset"), "nosuchprotocol://bucket/dataset"):
        (finding,) = data.storage(uri)
        assert finding.verdict == "problem"
        assert finding.remedy


def test_no_password_is_shown() -> None:
    (finding,) = data.storage("nosuchprotocol://user:secret@host/dataset")
    assert "secret" not in str(finding)


def test_weights_are_named_with_the_command_that_fetches_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path))
    assert [one.verdict for one in data.weights()] == ["note"]
    for file in registry.find("hed").weights:
        (tmp_path / file.filename).write_bytes(b"some weights")
    missing, there = data.weights()
    assert "hed" in there.found.split(": ")[1].split(", ")
    assert missing.remedy
    assert " hed" not in missing.remedy


def test_an_environment_that_is_not_made_says_how_to_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONTROLMILL_ENVIRONMENTS", str(tmp_path))
    (finding,) = data.environments()
    assert finding.verdict == "note"
    assert finding.remedy == "run `controlmill env create blip-lavis`"
