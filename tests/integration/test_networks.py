"""Annotators with networks in a build: pulled first, then made in batches from the stored images, each once."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from controlmill.testing.captioned import write_discs
from controlmill.testing.command import Finished, parquet_hashes
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.random_weights import write_weights
from storage.dataset import Dataset
from storage.verify import verify

Run = Callable[..., Finished]

FAILING = """
from controlmill.config.base import Options
from storage.weights.reference import WeightsFile
from tasks.annotators.base import Annotation, Annotator

class NetworkOptions(Options):
    weights: str | None = None

class Light(Annotator):
    name = "light"
    version = "1"
    options_model = Options

    def annotate(self, images, keys):
        if int(keys[0]) % 2:
            raise ValueError("too dim")
        return [Annotation(image[:, :, 0].copy()) for image in images]

class Network(Light):
    name = "network"
    options_model = NetworkOptions
    weights = (WeightsFile("somebody/something", "network.pth", "main"),)

    def annotate(self, images, keys):
        raise RuntimeError("no such kernel")
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    folder.mkdir()
    write_weights(folder, "ControlNetHED.pth")
    return folder


def test_a_build_with_a_network(cluster: Run, server: PictureServer, tmp_path: Path, weights: Path) -> None:
    url_list = tmp_path / "urls.txt"
    url_list.write_text("\n".join([*(server.url(f"/{number}.jpg") for number in range(9)), server.url("/gone.jpg")]))
    words = ["build", "--url-list", url_list, "--number-sample-per-shard", 5, "--image-size", 64]
    words += ["--resize-mode", "center_crop", "--allow-private-networks", "--annotators", "canny,softedge_hed"]
    words += [f"annotator_options.softedge_hed.weights={weights}"]
    finished = cluster(*words, "--output-folder", tmp_path / "dataset")
    assert finished.exit_code == 0, finished.errors
    assert "10 rows in 2 shards" in finished.output
    assert "9 images" in finished.output
    dataset = Dataset.open(str(tmp_path / "dataset"))
    assert list(verify(dataset, deep=True)) == []
    for shard in (0, 1):
        image, canny, hed = (
            pq.read_table(dataset.layer(name).path(shard)) for name in ("image", "canny", "softedge_hed")
        )
        assert image["key"] == canny["key"] == hed["key"]
        assert hed["conditioning_image"].null_count == 0
        record = dataset.layer("softedge_hed").record(shard)
        assert record is not None
        assert record.unit.config["pixels"] == "stored"
        assert next(iter(record.unit.config["weights"].values()))

    # a build without it, and the layer added afterwards, end in the same bytes
    later = tmp_path / "later"
    plain = [word for word in words if "annotator_options" not in str(word)]
    plain[plain.index("canny,softedge_hed")] = "canny"
    assert cluster(*plain, "--output-folder", later).exit_code == 0
    added = cluster("annotate", later, "--annotators", "softedge_hed", words[-1])
    assert added.exit_code == 0, added.errors
    assert parquet_hashes(later) == parquet_hashes(tmp_path / "dataset")

    asked = len(server.requests)
    again = cluster(*words, "--output-folder", tmp_path / "dataset")
    assert "nothing to do" in again.output, again.errors
    assert len(server.requests) == asked


def test_weights_that_are_not_there(cluster: Run, tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_text("http://127.0.0.1:1/a.jpg")
    words = ["build", "--url-list", tmp_path / "urls.txt", "--output-folder", tmp_path / "dataset"]
    words += ["--annotators", "depth_midas", f"annotator_options.depth_midas.weights={tmp_path}/none.pt"]
    finished = cluster(*words)
    assert finished.exit_code == 7
    assert "none.pt" in finished.errors.splitlines()[-1]
    assert "Traceback" not in finished.errors
    assert not (tmp_path / "dataset" / "image").exists()


def test_rows_without_a_map_are_told_of_every_layer(cluster: Run, tmp_path: Path) -> None:
    write_discs(tmp_path / "pictures", 6)
    (tmp_path / "own.py").write_text(FAILING)
    (tmp_path / "network.pth").write_bytes(b"weights")
    names = [f"{tmp_path}/own.py:{kind}" for kind in ("Light", "Network")]
    (tmp_path / "own.yaml").write_text(
        yaml.safe_dump({"annotator_options": {names[1]: {"weights": str(tmp_path / "network.pth")}}})
    )
    layers = ["--annotators", ",".join(names)]
    source = ["--image-folder", tmp_path / "pictures", "--image-size", 64, "--number-sample-per-shard", 4]
    words = ["build", tmp_path / "own.yaml", *source, "--output-folder", tmp_path / "dataset", *layers]
    built = cluster(*words, "--log-format", "json")
    assert built.exit_code == 0, built.errors
    lines = ["light: 3 rows without a map (ValueError: too dim)"]
    lines += ["network: 6 rows without a map (RuntimeError: no such kernel)"]
    assert built.output.splitlines()[0].endswith(" 0 failed")
    assert built.output.splitlines()[1:3] == lines
    events = [json.loads(line) for line in built.errors.splitlines() if line.startswith("{")]
    written = {event["shard"]: event["lacking"] for event in events if event["event"] == "shard_written"}
    assert written == {"00000": "light:2,network:4", "00001": "light:1,network:2"}
    incomplete = {event["layer"]: event["rows"] for event in events if event["event"] == "layer_incomplete"}
    assert incomplete == {"light": 3, "network": 6}

    shutil.rmtree(tmp_path / "dataset/light")
    shutil.rmtree(tmp_path / "dataset/network")
    added = cluster("annotate", tmp_path / "dataset", tmp_path / "own.yaml", *layers)
    assert added.exit_code == 0, added.errors
    assert " 6 failed" in added.output.splitlines()[0]
    assert [line for line in added.output.splitlines() if "rows without" in line] == lines
