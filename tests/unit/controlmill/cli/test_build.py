"""`controlmill build` on a machine without weights: what is missing is one error, before anything is started."""

from pathlib import Path

import pytest

from controlmill.cli.main import main
from controlmill.testing.random_weights import write_weights
from controlmill.testing.small_blip import write_small_blip


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where weights are looked for: there is none yet, and no network."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "urls.txt").write_text("http://127.0.0.1:1/a.jpg")
    return folder


def build(tmp_path: Path, *words: object) -> int:
    given = ["--url-list", tmp_path / "urls.txt", "--output-folder", tmp_path / "dataset", *words]
    return main(["build", *map(str, given)])


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("layers", ["canny,hed,midas,openpose", "hed"])
def test_all_weights_that_are_missing_are_one_error(
    layers: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(tmp_path, "--annotators", layers, "--captioner", "blip") == 7
    error = the_error(capsys)
    assert "ControlNetHED.pth" in error
    assert "config.json, model.safetensors of https://huggingface.co/Salesforce/blip-image-captioning-base" in error
    assert ("body_pose_model.pth" in error and "dpt_hybrid-midas" in error) == ("midas" in layers)
    assert not (tmp_path / "dataset").exists()


def test_what_options_name_and_is_missing_is_in_the_same_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"annotator_options.hed.weights={tmp_path}/none.pth", f"annotator_options.midas.weights={tmp_path}/no.pt"]
    words += ["--captioner", "blip", "--captioner-options", f"model={tmp_path}/blip"]
    assert build(tmp_path, "--annotators", "hed,midas,mlsd", *words) == 7
    error = the_error(capsys)
    for missing in ("none.pth", "no.pt", "mlsd_large_512_fp32.pth", f"there is no folder {tmp_path}/blip"):
        assert missing in error


def test_a_captioner_that_is_there_is_not_complained_about(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_small_blip(weights / "Salesforce" / "blip-image-captioning-base")
    assert build(tmp_path, "--annotators", "hed", "--captioner", "blip") == 7
    error = the_error(capsys)
    assert "ControlNetHED.pth" in error
    assert "Salesforce" not in error
    write_weights(weights, "ControlNetHED.pth")
    (weights / "Salesforce" / "blip-image-captioning-base" / "model.safetensors").unlink()
    assert build(tmp_path, "--annotators", "hed", "--captioner", "blip") == 7
    assert "ControlNetHED.pth" not in the_error(capsys)
