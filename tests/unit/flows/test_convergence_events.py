"""What is told of a run: never in its way, and with the plot wherever its folder is."""

import json
from pathlib import Path

import cv2
import fsspec
import numpy as np
import pytest

from controlmill.config import TrainConfig
from controlmill.testing.probe_curves import evaluations
from flows.convergence_events import _page, publish

FIELDS = {"update": 60, "gain": 0.18, "p_value": 7.4e-06}


def config(output_dir: str) -> TrainConfig:
    return TrainConfig(
        train_data_dir="dataset", condition=("canny",), pretrained_model_name_or_path="base", output_dir=output_dir
    )


def test_what_prefect_refuses_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outside of a flow there is not even a log of Prefect's."""
    publish("control_following", FIELDS, config(str(tmp_path)))
    said = capsys.readouterr().err
    assert "not_on_prefect" in said
    assert "event_name=control_following update=60" in said


def test_the_page_of_a_remote_run_has_its_plot_and_samples() -> None:
    files = fsspec.filesystem("memory")
    lines = [
        {"update": one.update, "loss_right": one.right, "loss_wrong": one.wrong}
        for one in evaluations(range(0, 130, 10), lambda update: 0.4 if update > 50 else 0.0)
    ]
    files.pipe("/page/run/probe.jsonl", "\n".join(map(json.dumps, lines)).encode())
    grid = cv2.imencode(".png", np.zeros((40, 80, 3), np.uint8))[1].tobytes()
    files.pipe("/page/run/samples/000050.png", grid)
    files.pipe("/page/run/samples/grid.png", grid)
    page = _page("control_following", FIELDS, config("memory://page/run"))
    assert page.count("data:image/png;base64,") == 1
    assert page.count("data:image/jpeg;base64,") == 1
    assert "update 50: hints" in page
