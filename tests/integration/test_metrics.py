"""What Prometheus would collect at the endpoint of a real run is what the run reports."""

import json
import os
import re
import socket
import subprocess
import sys
from typing import Any

import pytest

from controlmill.testing.picture_server import PictureServer
from controlmill.testing.tiny_sd import write_tiny_sd

NUM_UPDATES = 3
# Both flows on one Ray that outlives them, so that the last values are there to be collected.
SCRIPT = """
import json, re, sys, threading, time, urllib.request
from controlmill.config import BuildConfig, TrainConfig
from flows.engines import prefect_server, ray_cluster, ray_environment
from flows.run import run_build, run_train

build = BuildConfig.model_validate(json.loads(sys.argv[1]))
train = TrainConfig.model_validate(json.loads(sys.argv[2]))
ray_environment(build)

scraped = []


def scrape():
    # often, as gauges are taken away soon after the last time that they were set
    url = f"http://127.0.0.1:{build.metrics_port}/metrics"
    while True:
        try:
            scraped.append(urllib.request.urlopen(url, timeout=60).read().decode())
        except OSError:
            pass
        time.sleep(0.5)


def collected(*wanted):
    deadline_s = time.monotonic() + 120
    while time.monotonic() < deadline_s and not all(re.search(one, "".join(scraped)) for one in wanted):
        time.sleep(0.5)
    return "".join(scraped)

with ray_cluster(build):
    threading.Thread(target=scrape, daemon=True).start()
    report = run_build(build)
    after_build = collected(r'rows_total{.*"image".* 20', r'rows_total{.*"canny".* 20', r'seconds_count{.*"image".* 3')
    outcome = run_train(train)
    after_training = collected(*sys.argv[3:])
failed = {str(reason): num for reason, num in report.failed.items()}
built = {"images": report.num_images, "rows": report.num_rows, "failed": failed, "text": after_build}
print(json.dumps({**built, "updates": outcome.update, "training": after_training}))
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


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("metrics")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    base = write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    dataset = str(folder / "dataset")
    train = {
        "train_data_dir": dataset, "condition": "canny", "keep_empty_hints": True, "resolution": 64,
        "pretrained_model_name_or_path": str(base), "train_batch_size": 1, "max_train_steps": NUM_UPDATES,
        "num_probe_rows": 4, "report_to": [], "output_dir": str(folder / "run"), "preflight": False,
    }  # fmt: skip
    with PictureServer() as server:
        urls = [server.url(f"/{number}.jpg") for number in range(20)] + [server.url("/gone/1"), server.url("/gone/2")]
        (folder / "urls.txt").write_text("\n".join(urls))
        build = {
            "url_list": str(folder / "urls.txt"), "output_folder": dataset, "number_sample_per_shard": 8,
            "image_size": 64, "resize_mode": "center_crop", "allow_private_networks": True, "annotators": ["canny"],
            "metrics_port": port,
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, json.dumps(build), json.dumps(train), "controlmill_control_gain",
             f"samples_seen.* {NUM_UPDATES}", f"updates_total.* {NUM_UPDATES}",
             f"update_seconds_count.* {NUM_UPDATES}"],
            env={**os.environ, "RAY_metrics_report_interval_ms": "1000", "XDG_DATA_HOME": str(folder / "data"),
                 "RAY_raylet_start_wait_time_s": "200"},
            capture_output=True, text=True, check=False, timeout=800,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_counters_of_a_build_are_its_report(ran: dict[str, Any]) -> None:
    found = samples(ran["text"])
    assert (ran["images"], ran["rows"], ran["failed"]) == (20, 22, {"http_404": 2})
    assert found["controlmill_rows_total", "image"] == 20
    assert found["controlmill_rows_total", "failed"] == 2
    assert {key[1]: value for key, value in found.items() if key[0] == "controlmill_failures_total"} == ran["failed"]
    assert found["controlmill_layer_rows_total", "image"] == found["controlmill_layer_rows_total", "canny"] == 20
    assert found["controlmill_shard_seconds_count", "image"] == 3
    assert found["controlmill_jobs_waiting", "pull"] == 0


def test_a_training_run_is_there_too(ran: dict[str, Any]) -> None:
    found = samples(ran["training"])
    assert found["controlmill_updates_total", ""] == ran["updates"] == NUM_UPDATES
    assert found["controlmill_samples_seen", ""] == NUM_UPDATES
    assert found["controlmill_update_seconds_count", ""] == NUM_UPDATES
    assert found["controlmill_training_loss", ""] > 0
    assert ("controlmill_control_gain", "") in found
