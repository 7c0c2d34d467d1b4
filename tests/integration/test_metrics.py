"""What Prometheus would collect at the endpoint of a real run is what the run reports."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from controlmill.testing.picture_server import PictureServer
from controlmill.testing.tiny_sd import write_tiny_sd

NUM_UPDATES = 3
# On a Ray that outlives the flow, so that the last values are there to be collected.
SCRIPT = """
import json, re, sys, threading, time, urllib.request
from controlmill.config import BuildConfig, TrainConfig
from flows.engines import ray_cluster, ray_environment
from flows.run import run_build, run_train

command, options, wanted = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:]
config = {"build": BuildConfig, "train": TrainConfig}[command].model_validate(options)
engine = config if command == "build" else config.engine
ray_environment(engine)
scraped = []


def scrape():
    # often, as gauges are taken away soon after the last time that they were set
    url = f"http://127.0.0.1:{config.metrics_port}/metrics"
    while True:
        try:
            scraped.append(urllib.request.urlopen(url, timeout=60).read().decode())
        except OSError:
            pass
        time.sleep(0.5)


with ray_cluster(engine):
    threading.Thread(target=scrape, daemon=True).start()
    ended = {"build": run_build, "train": run_train}[command](config)
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and not all(re.search(one, "".join(scraped)) for one in wanted):
        time.sleep(0.5)
if command == "build":
    failed = {str(reason): num for reason, num in ended.failed.items()}
    told = {"images": ended.num_images, "rows": ended.num_rows, "failed": failed}
else:
    told = {"updates": ended.update}
print(json.dumps({**told, "text": "".join(scraped)}))
"""
_LINE = re.compile(r"^ray_(controlmill_\w+?)\{(.*)\} (\S+)$", re.MULTILINE)


def samples(text: str) -> dict[tuple[str, str], float]:
    """Values by name and our own label."""
    found = {}
    for name, labels, value in _LINE.findall(text):
        pairs = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        own = [pairs[key] for key in ("result", "reason", "layer", "lane", "event", "le") if key in pairs]
        found[name, " ".join(own)] = float(value)
    return found


def ran(command: str, options: dict[str, Any], wanted: list[str], folder: Path) -> dict[str, Any]:
    """What a command told, and all that was collected meanwhile at a port of its own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, command, json.dumps({**options, "metrics_port": port}), *wanted],
        env={**os.environ, "RAY_metrics_report_interval_ms": "1000", "XDG_DATA_HOME": str(folder / "data"),
             "RAY_raylet_start_wait_time_s": "200"},
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def built(folder: Path) -> dict[str, Any]:
    with PictureServer() as server:
        urls = [server.url(f"/{number}.jpg") for number in range(20)] + [server.url("/gone/1"), server.url("/gone/2")]
        (folder / "urls.txt").write_text("\n".join(urls))
        build = {
            "url_list": str(folder / "urls.txt"), "output_folder": str(folder / "dataset"), "image_size": 64,
            "number_sample_per_shard": 8, "resize_mode": "center_crop", "allow_private_networks": True,
            "annotators": ["canny"],
        }  # fmt: skip
        wanted = [r'rows_total{.*"image".* 20', r'rows_total{.*"canny".* 20', r'seconds_count{.*"image".* 3']
        return ran("build", build, wanted, folder)


@pytest.fixture(scope="module")
def trained(built: dict[str, Any], folder: Path) -> dict[str, Any]:
    assert built["images"] == 20
    train = {
        "train_data_dir": str(folder / "dataset"), "condition": "canny", "keep_empty_hints": True, "resolution": 64,
        "pretrained_model_name_or_path": str(write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))),
        "train_batch_size": 1, "max_train_steps": NUM_UPDATES, "num_probe_rows": 4, "report_to": [],
        "output_dir": str(folder / "run"), "preflight": False,
    }  # fmt: skip
    numbers = ("samples_seen", "updates_total", "update_seconds_count")
    return ran("train", train, ["controlmill_control_gain", *(f"{one}.* {NUM_UPDATES}" for one in numbers)], folder)


def test_counters_of_a_build_are_its_report(built: dict[str, Any]) -> None:
    found = samples(built["text"])
    assert (built["images"], built["rows"], built["failed"]) == (20, 22, {"http_404": 2})
    assert found["controlmill_rows_total", "image"] == 20
    assert found["controlmill_rows_total", "failed"] == 2
    assert {key[1]: value for key, value in found.items() if key[0] == "controlmill_failures_total"} == built["failed"]
    assert found["controlmill_layer_rows_total", "image"] == found["controlmill_layer_rows_total", "canny"] == 20
    assert found["controlmill_shard_seconds_count", "image"] == 3
    assert found["controlmill_jobs_waiting", "pull"] == 0


def test_a_training_run_has_a_port_of_its_own(trained: dict[str, Any]) -> None:
    found = samples(trained["text"])
    assert found["controlmill_updates_total", ""] == trained["updates"] == NUM_UPDATES
    assert found["controlmill_samples_seen", ""] == NUM_UPDATES
    assert found["controlmill_update_seconds_count", ""] == NUM_UPDATES
    assert found["controlmill_training_loss", ""] > 0
    assert ("controlmill_control_gain", "") in found
