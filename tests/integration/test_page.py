"""What Prefect's page says of a run whose worker died: the worker's own last words."""

import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from controlmill.testing.command import Finished
from controlmill.testing.ray_head import RayHead
from controlmill.testing.training_set import write_training_set
from flows.engines import RunServer

pytestmark = pytest.mark.timeout(300)

DIES = """
import os, signal, sys

from controlmill.config.base import Options
from tasks.annotators.base import Annotator


class Dies(Annotator):
    name = "dies"
    version = "1"
    options_model = Options
    polarity = "white_on_black"

    def annotate(self, images, keys):
        print("the driver of my device is gone", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def ask(server: RunServer, what: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"{server.api_url}/{what}/filter", json.dumps(body).encode())  # noqa: S310 loopback
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 loopback
        return list(json.load(answer))


def test_what_a_worker_wrote_before_it_died_is_under_the_error(
    engines: tuple[RayHead, RunServer], cluster: Callable[..., Finished], tmp_path: Path
) -> None:
    dataset = write_training_set(tmp_path, num_rows=4)
    (tmp_path / "dies.py").write_text(DIES)
    finished = cluster("annotate", dataset, "--annotators", "./dies.py:Dies", "--max-shard-retry", 0, folder=tmp_path)
    assert finished.exit_code == 5, finished.errors
    assert finished.errors.splitlines()[-1].startswith("error: shard 00000: its worker died 1 times")

    (run,) = ask(engines[1], "flow_runs", {"flow_runs": {"name": {"any_": [f"annotate {dataset}"]}}})
    assert run["state_type"] == "FAILED"
    lines = [line["message"] for line in ask(engines[1], "logs", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})]
    error = next(line for line in lines if "workers wrote last:" in line)
    assert "the driver of my device is gone" in error.partition("workers wrote last:")[2]
    # one that dies at once may not have come to be known
    tasks = ask(engines[1], "task_runs", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert [task["state_type"] for task in tasks] in ([], ["CRASHED"])
