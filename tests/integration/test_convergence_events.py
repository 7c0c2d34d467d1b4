"""What a real Prefect server has of a run that suddenly converged: an event for automations, a page with the plot."""

import json
import time
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from prefect import flow
from prefect.events.worker import EventsWorker
from prefect.settings import PREFECT_API_URL, temporary_settings

from controlmill.config import TrainConfig
from controlmill.testing.probe_curves import evaluations
from controlmill.testing.ray_head import RayHead
from flows.convergence_events import EVENT, publish
from flows.engines import RunServer

FIELDS = {"update": 60, "samples_seen": 960, "epoch": 0.6, "gain": 0.18, "p_value": 7.4e-06, "sensitivity": 0.9}


def ask(server: RunServer, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server.api_url}{path}", json.dumps(body).encode(), method="POST")  # noqa: S310 loopback
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 loopback
        return json.load(answer)


def write_run(folder: Path) -> None:
    lines = [
        {"update": one.update, "loss_right": one.right, "loss_wrong": one.wrong, "residual_sensitivity": 0.9}
        for one in evaluations(range(0, 130, 10), lambda update: 0.4 if update > 50 else 0.0)
    ]
    folder.mkdir()
    (folder / "probe.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "samples").mkdir()
    for update in (0, 50, 120):
        grid = np.full((40, 80, 3), update, np.uint8)
        (folder / "samples" / f"{update:06d}.png").write_bytes(cv2.imencode(".png", grid)[1].tobytes())
    (folder / "samples" / "grid.png").write_bytes(b"somebody else's")


def test_an_event_and_a_page_with_the_plot(engines: tuple[RayHead, RunServer], tmp_path: Path) -> None:
    server = engines[1]
    write_run(tmp_path / "run")
    config = TrainConfig(
        train_data_dir="dataset",
        condition=("canny",),
        pretrained_model_name_or_path="base",
        output_dir=str(tmp_path / "run"),
    )

    @flow
    def training() -> None:
        publish("control_onset", {**FIELDS, "update": 30}, config)
        publish("control_following", FIELDS, config)

    with temporary_settings({PREFECT_API_URL: server.api_url}):
        training()
        EventsWorker.drain_all(timeout=10)
    wanted = {"artifacts": {"key": {"any_": ["sudden-convergence"]}}}
    (page,) = ask(server, "/artifacts/filter", wanted)
    assert page["description"] == "control_following at 60"
    assert str(tmp_path / "run") in page["data"]
    assert "data:image/png;base64," in page["data"]
    assert page["data"].count("data:image/jpeg;base64,") == 2
    assert "update 0: hints" in page["data"]
    assert "update 120: hints" in page["data"]
    deadline = time.monotonic() + 30
    found: list[dict[str, Any]] = []
    while not found and time.monotonic() < deadline:
        found = ask(server, "/events/filter", {"filter": {"event": {"name": [EVENT]}}})["events"]
    assert [event["payload"]["update"] for event in found] == [60]
    assert found[0]["payload"]["output_dir"] == str(tmp_path / "run")
