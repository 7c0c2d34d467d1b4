"""What travels with a job: its options, and files that the cluster does not see; nothing relative, no secret."""

from pathlib import Path
from typing import Any

import pytest

from controlmill.config import AnnotateConfig, BuildConfig, CaptionConfig, Options, TrainConfig, load_yaml, validate
from controlmill.errors import ConfigError, SourceMissingError
from flows import job_folder
from flows.job_folder import PACKAGES, described, write_job_folder

BUCKET = "s3://bucket/dataset"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "job"
    made.mkdir()
    return made


def build(**options: Any) -> BuildConfig:
    return validate(BuildConfig, {"output_folder": BUCKET, **options})


def read_back(folder: Path, command: str, model: type[Options]) -> Options:
    return validate(model, load_yaml(str(folder / f"{command}.yaml")))


def test_a_list_of_urls_travels_and_the_rest_of_the_folder_does_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "urls.txt").write_text("http://example.org/1.jpg")
    (tmp_path / ".env").write_text("SECRET=1")
    config = build(url_list="urls.txt", annotators=["canny"], annotator_options={"canny": {"low_threshold": [50, 120]}})
    assert write_job_folder(folder, "build", config, with_code=False) is None
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert names == ["build.yaml", "url_list/urls.txt"]
    assert (folder / "url_list/urls.txt").read_text() == "http://example.org/1.jpg"
    sent = read_back(folder, "build", BuildConfig)
    assert sent == config.model_copy(update={"url_list": "url_list/urls.txt", "ray_address": "auto"})


def test_options_that_were_not_given_stay_so(folder: Path) -> None:
    write_job_folder(folder, "build", build(url_list="s3://bucket/urls.parquet", image_size=64), with_code=False)
    assert set(load_yaml(str(folder / "build.yaml"))) == {"output_folder", "url_list", "image_size", "ray_address"}


def test_a_training_run_comes_back_as_it_was_sent(folder: Path, tmp_path: Path) -> None:
    deepspeed = tmp_path / "zero.json"
    deepspeed.write_text("{}")
    given = {
        "train_data_dir": BUCKET,
        "condition": ["canny", "hed"],
        "pretrained_model_name_or_path": "owner/name",
        "output_dir": "s3://bucket/run",
        "deepspeed": str(deepspeed),
        "resume_from_checkpoint": "latest",
        "report_to": ["none"],
    }
    config = validate(TrainConfig, given)
    assert write_job_folder(folder, "train", config, with_code=False) is None
    sent = read_back(folder, "train", TrainConfig)
    assert sent == config.model_copy(update={"deepspeed": "deepspeed/zero.json", "ray_address": "auto"})
    assert described(config) == "s3://bucket/run"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"output_folder": "data/set", "url_list": "s3://bucket/urls.txt"}, "output_folder"),
        ({"image_folder": "pictures"}, "image_folder"),
        (
            {"url_list": "s3://b/u.txt", "captioner": "blip", "captioner_options": {"model": "./blip"}},
            "captioner_options.model",
        ),
    ],
)
def test_a_relative_path_is_refused_with_the_remedy(folder: Path, options: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}: .*s3://bucket/") as refused:
        write_job_folder(folder, "build", build(**options), with_code=False)
    assert "\n" not in str(refused.value)


def test_a_folder_of_weights_that_is_here_is_refused_and_a_name_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = validate(CaptionConfig, {"output_folder": BUCKET, "captioner": "blip", "model": "owner/blip"})
    assert write_job_folder(folder, "caption", config, with_code=False) is None
    (tmp_path / "owner" / "blip").mkdir(parents=True)
    with pytest.raises(ConfigError, match="^model: owner/blip is a path of this machine"):
        write_job_folder(folder, "caption", config, with_code=False)


def test_a_run_does_not_go_where_nobody_sees_it(folder: Path) -> None:
    given = {"train_data_dir": BUCKET, "condition": "canny", "pretrained_model_name_or_path": "owner/name"}
    with pytest.raises(ConfigError, match="^output_dir: controlnet-model is a path of this machine"):
        write_job_folder(folder, "train", validate(TrainConfig, given), with_code=False)


def test_absolute_paths_are_told(folder: Path) -> None:
    config = build(output_folder="/shared/set", image_folder="/shared/pictures")
    note = write_job_folder(folder, "build", config, with_code=False)
    assert note is not None
    assert note.startswith("has to be the same place on every node of the cluster")
    assert note.endswith(": image_folder /shared/pictures, output_folder /shared/set")


def test_what_is_wrong_is_found_before_anything_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceMissingError, match="there is no file nowhere.txt"):
        write_job_folder(folder, "build", build(url_list="nowhere.txt"), with_code=False)
    wrong = validate(AnnotateConfig, {"output_folder": BUCKET, "annotators": ["cany"]})
    with pytest.raises(ConfigError, match="cany"):
        write_job_folder(folder, "annotate", wrong, with_code=False)
    elsewhere = build(url_list="s3://bucket/urls.txt", ray_address="head:6379")
    with pytest.raises(ConfigError, match="^ray_address: leave it out"):
        write_job_folder(folder, "build", elsewhere, with_code=False)
    monkeypatch.setattr(job_folder, "MAX_BYTES", 3)
    (folder / "urls.txt").write_text("http://example.org/1.jpg")
    with pytest.raises(ConfigError, match="^url_list: .*more than the 0 MiB that travel"):
        write_job_folder(folder, "build", build(url_list=str(folder / "urls.txt")), with_code=False)


def test_the_code_travels_where_it_is_asked_to(folder: Path) -> None:
    write_job_folder(folder, "build", build(url_list="s3://bucket/urls.txt"), with_code=True)
    assert {path.name for path in folder.iterdir()} == {*PACKAGES, "build.yaml"}
    assert (folder / "controlmill/cli/main.py").is_file()
    assert not list(folder.rglob("__pycache__"))


def test_what_a_list_of_jobs_shows_has_no_password() -> None:
    config = build(output_folder="https://user:password@host/set?signature=abc", url_list="s3://bucket/urls.txt")
    assert described(config) == "https://***@host/set?***"


def test_a_secret_is_refused_rather_than_lost(folder: Path) -> None:
    options = {"train_data_dir": BUCKET, "condition": "canny", "pretrained_model_name_or_path": "base"}
    config = validate(TrainConfig, {**options, "webhook_url": "https://hidden.example.org"})
    with pytest.raises(ConfigError, match="webhook_url: .*--env CONTROLMILL_WEBHOOK_URL") as caught:
        write_job_folder(folder, "train", config, with_code=False)
    assert "hidden" not in str(caught.value)
    assert not list(folder.iterdir())
