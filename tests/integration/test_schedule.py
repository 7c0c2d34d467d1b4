"""Deployments on a real Prefect server: a worker carries one out, and a run whose process was killed is told apart."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from controlmill.testing.command import parquet_hashes
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.ray_head import RayHead
from flows.engines import RunServer

ROOT = Path(__file__).resolve().parents[2]
POOL = "here"
Ask = Callable[..., Any]


@pytest.fixture
def environment(engines: tuple[RayHead, RunServer], tmp_path: Path) -> dict[str, str]:
    """What a process that joins both has in its environment, with a data folder of this test's own."""
    ray, prefect = engines
    home = {"XDG_DATA_HOME": str(tmp_path / "data"), "PREFECT_HOME": str(tmp_path / "prefect")}
    return {**os.environ, **ray.environment, **home, "PREFECT_API_URL": prefect.api_url, "DO_NOT_TRACK": "1"}


@pytest.fixture
def ask(engines: tuple[RayHead, RunServer]) -> Ask:
    return partial(asked, engines[1])


def asked(server: RunServer, what: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(f"{server.api_url}/{what}", json.dumps(body).encode())  # noqa: S310
    request.add_header("Content-Type", "application/json")
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - loopback
                return json.load(answer)
        except urllib.error.HTTPError as error:
            # its database is busy with what it schedules; Prefect's own client asks again, too
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(0.5)


@pytest.fixture
def scheduling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunServer]:
    """A Prefect server that looks every second what is to be scheduled."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED", "true")
    monkeypatch.setenv("PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS", "1")
    server = RunServer()
    try:
        server.wait()
        yield server
    finally:
        server.stop()


def tool(*words: str, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *words],
        env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_deployment(folder: Path, options: dict[str, Any]) -> None:
    (folder / "options.yaml").write_text(yaml.safe_dump(options))
    step = {"flows.deployment.options_of": {"id": "options", "path": "options.yaml", "model": "BuildConfig"}}
    deployment = {
        "name": "tiny",
        "entrypoint": "flows.build_dataset.build_dataset",
        "build": [step],
        "parameters": {"config": "{{ options.config }}"},
        "work_pool": {"name": POOL},
        "schedules": [{"cron": "30 2 1 1 *", "timezone": "Europe/Berlin"}],
        "concurrency_limit": {"limit": 1, "collision_strategy": "CANCEL_NEW"},
    }
    (folder / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [deployment]}))


async def start_run(api_url: str, name: str) -> str:
    with temporary_settings({PREFECT_API_URL: api_url}):
        async with get_client() as client:
            deployment = await client.read_deployment_by_name(name)
            return str((await client.create_flow_run_from_deployment(deployment.id)).id)


async def create_pool(api_url: str, name: str = POOL) -> None:
    with temporary_settings({PREFECT_API_URL: api_url}):
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def test_a_worker_carries_out_a_deployment(
    engines: tuple[RayHead, RunServer],
    environment: dict[str, str],
    server: PictureServer,
    ask: Ask,
    tmp_path: Path,
) -> None:
    ray, prefect = engines
    (tmp_path / "urls.txt").write_text("\n".join(server.url(f"/{number}.jpg") for number in range(6)))
    options = {"url_list": "urls.txt", "output_folder": "dataset", "annotators": ["canny"], "image_size": 64}
    network = {"allow_private_networks": True, "ray_address": ray.address, "incremental_mode": "extend"}
    write_deployment(tmp_path, {**options, **network})
    asyncio.run(create_pool(prefect.api_url))
    tool("--no-prompt", "deploy", "--all", environment=environment, folder=tmp_path)

    run = asyncio.run(start_run(prefect.api_url, "build-dataset/tiny"))
    tool("worker", "start", "--pool", POOL, "--type", "process", "--run-once", environment=environment, folder=tmp_path)

    (found,) = ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    lines = [line["message"] for line in ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}})]
    assert found["state_type"] == "COMPLETED", "\n".join(lines)
    assert found["name"] == "build dataset"
    assert any("shard_written" in line for line in lines)
    assert len(parquet_hashes(tmp_path / "dataset")) == 4
    of_run = {"flow_runs": {"id": {"any_": [run]}}}
    pages = {page["key"]: page for page in ask("artifacts/filter", of_run)}
    assert set(pages) == {"progress", "dataset-rows", "contact-sheet"}
    assert float(pages["progress"]["data"]) == 100
    assert pages["contact-sheet"]["data"].startswith("![images and their maps](data:image/jpeg;base64,")


def test_a_run_whose_process_was_killed_is_crashed_at_the_next_start(
    engines: tuple[RayHead, RunServer], environment: dict[str, str], server: PictureServer, ask: Ask, tmp_path: Path
) -> None:
    ray, _ = engines

    def start(name: str, path: str) -> subprocess.Popen[bytes]:
        (tmp_path / f"{name}.txt").write_text(server.url(path))
        source = ["--url-list", f"{name}.txt", "--output-folder", name, "--ray-address", ray.address]
        words = ["build", *source, "--allow-private-networks", "--timeout", "200"]
        return subprocess.Popen([sys.executable, "-m", "controlmill.cli.main", *words], env=environment, cwd=tmp_path)

    def state_of(name: str) -> str:
        found = ask("flow_runs/filter", {"flow_runs": {"name": {"any_": [f"build {name}"]}}})
        return found[0]["state_type"] if found else ""

    def tasks_of(name: str) -> list[str]:
        of_run = {"flow_runs": {"name": {"any_": [f"build {name}"]}}}
        return [task["state_type"] for task in ask("task_runs/filter", of_run)]

    victim = start("victim", "/silent/1.jpg")
    try:
        while tasks_of("victim") != ["RUNNING"]:
            assert victim.poll() is None
            time.sleep(0.2)
    finally:
        for process in (psutil.Process(victim.pid), *psutil.Process(victim.pid).children(recursive=True)):
            process.kill()
        victim.wait()
    assert state_of("victim") == "RUNNING"

    flow = ask("flows/", {"name": "foreign"})["id"]
    foreign, forgotten = (ask("flow_runs/", {"flow_id": flow, "state": {"type": "RUNNING"}}) for _ in range(2))
    owners = tmp_path / "data" / "controlmill" / "runs"
    month_ago_s = time.time() - 31 * 24 * 3600
    for owned in (forgotten["id"], uuid.uuid4()):
        (owners / str(owned)).write_text("a-pod-that-is-gone 17\n")
        os.utime(owners / str(owned), (month_ago_s, month_ago_s))
    assert start("next", "/2.jpg").wait(300) == 0
    assert state_of("victim") == "CRASHED"
    assert tasks_of("victim") == ["CRASHED"]
    assert state_of("next") == "COMPLETED"
    others = ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [foreign["id"], forgotten["id"]]}}})
    states = {one["id"]: one["state_type"] for one in others}
    assert states == {foreign["id"]: "RUNNING", forgotten["id"]: "CRASHED"}
    assert list(owners.iterdir()) == []


def test_the_shipped_deployments_are_scheduled_and_never_run_twice_at_once(
    scheduling: RunServer, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "prefect.yaml", tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": scheduling.api_url, "DO_NOT_TRACK": "1"}
    asyncio.run(create_pool(scheduling.api_url, "controlmill"))
    tool("--no-prompt", "deploy", "--all", environment={**os.environ, **home}, folder=tmp_path)

    deployed = {one["name"]: one for one in asked(scheduling, "deployments/filter", {})}
    assert set(deployed) == {"nightly", "weekly", "manual"}
    ids = {one["id"]: name for name, one in deployed.items()}
    while set(due := first_due(scheduling, ids)) != {"nightly", "weekly"}:
        time.sleep(0.5)
    assert (due["nightly"].hour, due["nightly"].minute) == (2, 30)
    assert (due["weekly"].isoweekday(), due["weekly"].hour) == (6, 6)

    for name, one, other in (("nightly", "PENDING", "CANCELLED"), ("manual", "PENDING", "SCHEDULED")):
        runs = [asked(scheduling, f"deployments/{deployed[name]['id']}/create_flow_run", {})["id"] for _ in range(2)]
        states = [
            asked(scheduling, f"flow_runs/{run}/set_state", {"state": {"type": "PENDING"}})["state"]["type"]
            for run in runs
        ]
        assert states == [one, other], name


def first_due(server: RunServer, deployments: dict[str, str]) -> dict[str, datetime]:
    """When each deployment begins next, in the time zone of prefect.yaml."""
    found: dict[str, datetime] = {}
    for run in asked(server, "flow_runs/filter", {"sort": "EXPECTED_START_TIME_ASC"}):
        if run["state_type"] == "SCHEDULED" and run["auto_scheduled"]:
            begins = datetime.fromisoformat(run["expected_start_time"]).astimezone(ZoneInfo("Europe/Berlin"))
            found.setdefault(deployments[run["deployment_id"]], begins)
    return found
