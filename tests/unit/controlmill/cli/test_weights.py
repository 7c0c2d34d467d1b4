from pathlib import Path

import pytest

from controlmill.cli.main import main


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without weights and without a network."""
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_list_says_what_is_needed_for_what_and_where_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ControlNetHED.pth").write_bytes(b"weights")
    assert main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (hed,) = [line.split() for line in lines if line.startswith("ControlNetHED.pth")]
    assert hed == ["ControlNetHED.pth", "lllyasviel/Annotators", "hed,", "scribble", f"{folder}/ControlNetHED.pth"]
    (mlsd,) = [line.split() for line in lines if line.startswith("mlsd")]
    assert mlsd[-1] == "-"
    assert main(["weights", "list", "openpose_full"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_verify_tells_published_files_from_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ControlNetHED.pth").write_bytes(b"weights")
    assert main(["weights", "verify", "hed", "mlsd"]) == 7
    out, err = capsys.readouterr()
    assert "not the published file" in out
    assert "not on this machine" in out
    assert err == f"error: weights: not the published files: {folder}/ControlNetHED.pth\n"
    assert main(["weights", "verify", "mlsd"]) == 0


def test_fetch_offline_is_one_line_that_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "fetch", "hed"]) == 7
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"put it at {folder}/ControlNetHED.pth, or run `controlmill weights fetch`" in err


def test_fetch_names_what_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ControlNetHED.pth").write_bytes(b"weights")
    assert main(["weights", "fetch", "hed"]) == 0
    assert capsys.readouterr().out == f"lllyasviel/Annotators/ControlNetHED.pth: {folder}/ControlNetHED.pth\n"


@pytest.mark.parametrize(
    ("words", "message"), [(["canny"], "canny: this annotator needs no weights"), (["hedd"], "no annotator 'hedd'")]
)
def test_a_name_without_weights_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", *words]) == 2
    assert message in capsys.readouterr().err
