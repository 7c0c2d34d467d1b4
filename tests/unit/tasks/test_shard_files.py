"""What the commit record of an annotator's layer tells."""

import hashlib
import importlib.metadata
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import pytest

from controlmill.config.base import Options
from controlmill.testing.pictures import photo
from storage.dataset import Dataset
from storage.record import LayerInput
from storage.weights.reference import WeightsFile
from tasks.annotators.base import Annotation, Annotator
from tasks.annotators.maps import make_maps
from tasks.annotators.registry import create
from tasks.images.types import Pixels
from tasks.shard_files import LayerFile

IMAGE = LayerInput(fingerprint="a" * 64, sha256="b" * 64)
CONTENT = b"weights"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Picky(Annotator):
    """Takes what is wide, and says of the rest how high it is."""

    name = "picky"
    version: ClassVar[str] = "1"
    options_model: ClassVar[type[Options]] = Options
    weights: ClassVar[tuple[WeightsFile, ...]] = (
        WeightsFile("owner/name", "picky.pth", COMMIT, hashlib.sha256(CONTENT).hexdigest()),
        WeightsFile("owner/name", "other.pth"),
    )
    libraries: ClassVar[tuple[str, ...]] = ("scipy",)

    def annotate(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[Annotation]:
        del keys
        for image in images:
            if image.shape[0] > image.shape[1]:
                raise ValueError(f"too narrow:\n{image.shape[0]} high")
        return [Annotation(image[:, :, 0]) for image in images]


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "picky.pth").write_bytes(CONTENT)
    (tmp_path / "other.pth").write_bytes(CONTENT)
    return Dataset.create(str(tmp_path / "data"))


def test_what_failed_is_kept_in_words_and_said_with_its_key(
    dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    unit, keys = Picky(Options()), [str(row) for row in range(4)]
    images = [photo(64, 32), photo(32, 64), photo(32, 64, seed=1), photo(32, 48)]
    with ExitStack() as stack:
        file = LayerFile(stack, dataset, 0, unit, "stored")
        file.write(keys, make_maps(unit, images, keys))
        record = file.commit(IMAGE)
    assert record.reasons == {"annotator_error": 3}
    assert record.status_dict == {
        "success": 1,
        "ValueError: too narrow: 64 high": 2,
        "ValueError: too narrow: 48 high": 1,
    }
    errors = capsys.readouterr().err.splitlines()
    assert [line.split()[:4] for line in errors] == [
        ["annotation_failed", "layer=picky", f"key={key}", "reason=annotator_error"] for key in ("1", "2", "3")
    ]
    assert 'message="ValueError: too narrow: 48 high"' in errors[2]


def test_libraries_and_the_origin_of_weights_are_recorded(dataset: Dataset) -> None:
    unit = Picky(Options())
    with ExitStack() as stack:
        record = LayerFile(stack, dataset, 0, unit, "stored").commit(IMAGE)
    assert record.versions["scipy"] == importlib.metadata.version("scipy")
    assert {"controlmill", "opencv-python-headless", "pyarrow"} <= record.versions.keys()
    assert "torch" not in record.versions
    assert record.unit.config["weights"].keys() == {"owner/name/picky.pth", "owner/name/other.pth"}
    # which commit the other one is of, nobody knows
    assert record.unit.config["weights_commits"] == {"owner/name/picky.pth": COMMIT}


@pytest.mark.parametrize(
    ("name", "options", "libraries"),
    [
        ("canny", {}, set()),
        ("scribble", {"source": "canny"}, set()),
        ("scribble", {}, {"torch", "controlnet_aux"}),
        ("openpose_full", {}, {"torch", "controlnet_aux"}),
        ("midas", {}, {"torch", "controlnet_aux", "timm"}),
        ("segmentation", {}, {"torch", "transformers"}),
    ],
)
def test_what_decides_about_a_networks_output_is_named(name: str, options: dict[str, str], libraries: set[str]) -> None:
    versions = create(name, dict(options)).versions()
    assert versions == {library: importlib.metadata.version(library) for library in libraries}
