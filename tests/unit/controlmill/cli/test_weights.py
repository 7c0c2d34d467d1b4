from pathlib import Path

import pytest

from controlmill.cli.main import main
from controlmill.testing.small_blip import write_small_blip


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
    blip = [line.split()[1] for line in lines if line.split()[2] == "Salesforce/blip-image-captioning-base"]
    assert blip, "what a build with blip needs is there, too"
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


def test_the_files_of_a_captioners_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_small_blip(folder / "somebody" / "blip")
    assert main(["weights", "list", "somebody/blip@v1", "hed"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()[1:]}
    place = f"{folder}/somebody/blip"
    for name in ("config.json", "vocab.txt", "model.safetensors"):
        assert rows[name] == ["somebody/blip", "somebody/blip@v1", f"{place}/{name}"]
    assert " ".join(rows["tokenizer.json"]).endswith("- (not every model has it)")
    assert rows["ControlNetHED.pth"][-1] == "-"
    assert main(["weights", "fetch", "somebody/blip"]) == 0
    assert f"somebody/blip/model.safetensors: {place}/model.safetensors\n" in capsys.readouterr().out
    assert main(["weights", "verify", "somebody/blip"]) == 0
    assert "model.safetensors         no published hash to compare with" in capsys.readouterr().out


def test_a_model_with_pickled_weights_is_complete(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "blip").mkdir()
    for name in ("config.json", "vocab.txt", "pytorch_model.bin"):
        (folder / "blip" / name).write_bytes(b"{}")
    assert main(["weights", "list", "somebody/blip"]) == 0
    assert f"pytorch_model.bin         somebody/blip  somebody/blip  {folder}/blip/pytorch_model.bin" in (
        capsys.readouterr().out
    )
    assert main(["weights", "fetch", "somebody/other"]) == 7
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "config.json, model.safetensors of https://huggingface.co/somebody/other; put each at" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["canny"], "canny: this annotator needs no weights"),
        (["hedd"], "no annotator 'hedd'"),
        (["blip"], "blip: a captioner has the weights that its option model names"),
        (["./here/blip"], "'./here/blip': a captioner's model on the hub is owner/name or owner/name@revision"),
        (["owner/name@"], "'owner/name@': a captioner's model on the hub is"),
    ],
)
def test_a_name_without_weights_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", *words]) == 2
    assert message in capsys.readouterr().err
