"""Finding the weights of a captioner, and saying early what is wrong with them."""

import hashlib
import json
from pathlib import Path

import pytest

from controlmill.errors import WeightsMissingError, WeightsUnusableError
from controlmill.testing.small_blip import write_small_blip
from storage.fingerprint import fingerprint
from tasks.captioners.model import find_model, model_files, weights_file


def test_a_folder_is_called_by_its_name(tmp_path: Path) -> None:
    found = find_model(str(write_small_blip(tmp_path / "here" / "small")))
    again = find_model(str(write_small_blip(tmp_path / "there" / "small")))
    assert (found.reference, found.sha256) == (again.reference, again.sha256)
    assert found.path != again.path


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "vocab.txt", "preprocessor_config.json"])
def test_every_file_that_decides_is_in_the_hash(name: str, tmp_path: Path) -> None:
    folder = write_small_blip(tmp_path / "small")
    before = find_model(str(folder)).sha256
    with (folder / name).open("ab") as file:
        file.write(b"\n")
    assert find_model(str(folder)).sha256 != before


def test_a_repository_is_looked_for_in_the_folder_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small_blip(tmp_path / "somebody" / "small-blip")
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = find_model("somebody/small-blip")
    assert found.reference == "somebody/small-blip"
    assert found.path == str(tmp_path / "somebody" / "small-blip")
    with pytest.raises(WeightsMissingError, match="somebody/other"):
        find_model("somebody/other")


def test_each_file_has_its_hash_and_the_hash_of_all_is_what_layers_are_recognised_by(tmp_path: Path) -> None:
    found = find_model(str(write_small_blip(tmp_path / "small")))
    hashes = {
        name: hashlib.sha256((tmp_path / "small" / name).read_bytes()).hexdigest()
        for name in ("model.safetensors", "config.json", "preprocessor_config.json", "vocab.txt")
    }
    assert found.files == {f"small/{name}": sha256 for name, sha256 in hashes.items()}
    assert found.commits == {}
    assert found.sha256 == fingerprint(hashes)


def test_the_commit_of_a_repository_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("CONTROLMILL_WEIGHTS", raising=False)
    repository = tmp_path / "models--somebody--small"
    write_small_blip(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "v2").write_text(commit)
    found = find_model("somebody/small@v2")
    assert found.reference == "somebody/small@v2"
    assert found.files.keys() == found.commits.keys()
    assert "somebody/small/model.safetensors" in found.files
    assert set(found.commits.values()) == {commit}


def test_published_captioners_are_taken_from_one_commit() -> None:
    assert {len(file.revision) for file in model_files("Salesforce/blip-image-captioning-large")} == {40}
    assert {file.revision for file in model_files("Salesforce/blip-image-captioning-large@v2")} == {"v2"}
    assert {file.revision for file in model_files("me/blip")} == {"main"}


def test_safetensors_come_before_pickles(tmp_path: Path) -> None:
    folder = write_small_blip(tmp_path)
    (folder / "pytorch_model.bin").touch()
    assert weights_file(folder).name == "model.safetensors"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissingError, match="no folder /nowhere/at/all"):
        find_model("/nowhere/at/all")
    with pytest.raises(WeightsMissingError, match="has neither model.safetensors nor pytorch_model.bin nor a .pth"):
        find_model(str(tmp_path))
    for name in ("one.pth", "two.pth"):
        (tmp_path / name).touch()
    with pytest.raises(WeightsMissingError, match="has 2 .pth files"):
        find_model(str(tmp_path))


def test_weights_of_transformers_need_their_configuration(tmp_path: Path) -> None:
    folder = write_small_blip(tmp_path)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsMissingError, match=r"config.json, which belongs to model.safetensors"):
        find_model(str(folder))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    folder = write_small_blip(tmp_path)
    (folder / "config.json").write_text(json.dumps({"model_type": "blip-2"}))
    with pytest.raises(WeightsUnusableError, match="'blip-2', not blip"):
        find_model(str(folder))


def test_a_model_without_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = write_small_blip(tmp_path)
    (folder / "vocab.txt").unlink()
    with pytest.raises(WeightsUnusableError, match="neither vocab.txt nor tokenizer.json"):
        find_model(str(folder))
