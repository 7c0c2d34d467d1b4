"""Annotators that are not controlmill's: the example package, installed, and a file of the user's."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from controlmill.testing.captioned import write_discs
from controlmill.testing.command import Finished, parquet_hashes, run
from controlmill.testing.ray_head import RayHead
from flows.engines import RunServer
from storage.dataset import Dataset
from storage.verify import verify

Run = Callable[..., Finished]

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "third_party_annotator"
OWN = """
from controlmill.config.base import Options
from tasks.annotators.base import Annotation, Annotator

class DarkOptions(Options):
    below: int = 100

class Dark(Annotator):
    name = "dark"
    version = "1"
    options_model = DarkOptions
    polarity = "white_on_black"
    flags = ("empty",)

    def annotate(self, images, keys):
        maps = [(image.max(axis=2) < self.options.below).astype("uint8") * 255 for image in images]
        return [Annotation(one, {"empty": not one.any()}) for one in maps]
"""


@pytest.fixture
def words(tmp_path: Path) -> list[object]:
    """A build of some pictures, but for its annotators."""
    write_discs(tmp_path / "pictures", 6)
    words = ["build", "--image-folder", tmp_path / "pictures", "--output-folder", tmp_path / "dataset"]
    return [*words, "--number-sample-per-shard", 3, "--image-size", 64]


def test_the_example_package(
    engines: tuple[RayHead, RunServer], words: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([sys.executable, *install, "--target", str(tmp_path / "site"), str(EXAMPLE)], check=True)
    # as every machine of a cluster would have it: Ray's workers find it, and so does the command
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*filter(None, sys.path), str(tmp_path / "site")]))
    with RayHead() as ray:
        environment = {**ray.environment, "PREFECT_API_URL": engines[1].api_url}
        more = ["--annotators", "canny,shuffle", "--annotator-options", "shuffle.blob_px=16"]
        finished = run(*words, *more, "--ray-address", ray.address, environment=environment)
    assert finished.exit_code == 0, finished.errors
    dataset = Dataset.open(str(tmp_path / "dataset"))
    assert list(verify(dataset, deep=True)) == []
    table = pq.read_table(dataset.layer("shuffle").path(1))
    assert table.column_names == ["key", "colors_kept", "flat", "reason", "conditioning_image"]
    assert table["reason"].null_count == table.num_rows == 3
    record = dataset.layer("shuffle").record(1)
    assert record is not None
    assert record.unit.config["blob_px"] == 16
    assert record.flags == {"flat": 0}


def test_a_file_of_the_users(cluster: Run, words: list[object], tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "my_annotator.py").write_text(OWN)
    # its path is that of the folder it is typed in, which is not the one Ray's workers run in
    finished = cluster(*words, "--annotators", "canny,./my_annotator.py:Dark", folder=mine)
    assert finished.exit_code == 0, finished.errors
    dataset = Dataset.open(str(tmp_path / "dataset"))
    before = parquet_hashes(tmp_path / "dataset")
    assert {"dark/00000.parquet", "dark/00001.parquet"} <= before.keys()

    annotate = ["annotate", tmp_path / "dataset", "--annotators"]
    again = cluster(*annotate, "mine/my_annotator.py:Dark", folder=tmp_path)
    assert "nothing to do" in again.output, again.errors

    (mine / "my_annotator.py").write_text(OWN.replace("100", "256"))
    edited = cluster(*annotate, "./my_annotator.py:Dark", "--annotator-options", "Dark.below=0", folder=mine)
    assert edited.exit_code == 0, edited.errors
    assert "6 rows in 2 shards" in edited.output
    after = parquet_hashes(tmp_path / "dataset")
    assert {name for name in after if after[name] != before.get(name)} == {"dark/00000.parquet", "dark/00001.parquet"}
    assert list(verify(dataset, deep=True)) == []
    record = dataset.layer("dark").record(0)
    assert record is not None
    assert record.flags == {"empty": 3}
    assert len(record.unit.config["source_sha256"]) == 64


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("./none.py:Dark", None, "there is no file {folder}/none.py"),
        ("./mine.py:Other", OWN, "{folder}/mine.py has no 'Other'; it has Dark"),
        ("./mine.py:DarkOptions", OWN, "is not a subclass of tasks.annotators.base.Annotator"),
        ("./mine.py:Dark", "import not_there\n", "mine.py fails at line 1: ModuleNotFoundError: No module named"),
    ],
    ids=["no-file", "no-class", "no-annotator", "import-error"],
)
def test_what_is_wrong_with_a_file_is_said_before_any_work(
    cluster: Run, words: list[object], tmp_path: Path, name: str, content: str | None, text: str
) -> None:
    if content:
        (tmp_path / "mine.py").write_text(content)
    finished = cluster(*words, "--annotators", name, folder=tmp_path)
    assert finished.exit_code == 2, (finished.exit_code, finished.errors)
    assert text.format(folder=tmp_path) in finished.errors.splitlines()[-1]
    assert "Traceback" not in finished.errors
    assert not (tmp_path / "dataset" / "image").exists()
