"""Deployments on a real Prefect server: a worker carries one out, and a run whose process was killed is told apart."""

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    def asked(what: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{engines[1].api_url}/{what}", json.dumps(body).encode())  # noqa: S310
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - loopback
            return json.load(answer)

    return asked


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


async def create_pool(api_url: str) -> None:
    with temporary_settings({PREFECT_API_URL: api_url}):
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


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
