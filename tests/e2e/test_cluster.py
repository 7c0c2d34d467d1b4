"""Jobs on a Ray cluster of two nodes: submitted, followed, stopped; and what the death of a node costs: nothing."""

import asyncio
import json
import os
import pty
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from controlmill.config import BuildConfig
from controlmill.testing.command import Command, Finished, is_busy, parquet_hashes, run
from controlmill.testing.http_server import Handler, Request
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.ranks import run_options, train_on_ranks
from controlmill.testing.ray_head import RayHead
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set
from flows.engines import RunServer
from storage.dataset import Dataset
from tasks.pull_shard import pull_shard
from tasks.stages import planned_shards

pytestmark = pytest.mark.timeout(1200)

NUM_ROWS = 80
ROWS_PER_SHARD = 20
NUM_UPDATES = 24


@pytest.fixture(scope="module")
def head() -> Iterator[RayHead]:
    with RayHead(1, dashboard=True) as head:
        yield head


@pytest.fixture(scope="module")
def prefect(starting_prefect: RunServer) -> dict[str, str]:
    starting_prefect.wait()
    return starting_prefect.client_environment


@pytest.fixture(scope="module")
def there(head: RayHead) -> Callable[..., Finished]:
    """Runs a command that asks the cluster."""

    def run_there(*words: object, **environment: str) -> Finished:
        return run(*words, environment={**head.environment, "RAY_ADDRESS": head.dashboard_url, **environment})

    return run_there


def submit(head: RayHead, log_path: Path, *words: object, stdin: int | None = None, **environment: str) -> Command:
    where = {**head.environment, "RAY_API_SERVER_ADDRESS": head.dashboard_url}
    return Command(["submit", *map(str, words)], log_path, {**where, **environment}, stdin)


# Addresses and tokens


def test_a_token_is_wanted_and_never_told(head: RayHead, there: Callable[..., Finished]) -> None:
    token = head.environment["RAY_AUTH_TOKEN"]
    refused = {
        "wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN": {"RAY_AUTH_MODE": "", "RAY_AUTH_TOKEN": ""},
        "refuses the token of RAY_AUTH_TOKEN;": {"RAY_AUTH_TOKEN": token + "x"},
    }
    for said, environment in refused.items():
        finished = there("jobs", "list", **environment)
        assert finished.exit_code == 5, finished.errors
        (line,) = finished.errors.splitlines()
        assert said in line
        assert token not in line
    allowed = there("jobs", "list", "--address", head.dashboard_url.removeprefix("http://"))
    assert (allowed.exit_code, allowed.output) == (0, "no jobs\n"), allowed.errors


def test_a_token_can_lie_in_a_file(head: RayHead, there: Callable[..., Finished], tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(head.environment["RAY_AUTH_TOKEN"])
    finished = there("jobs", "logs", "nothing", RAY_AUTH_TOKEN="", RAY_AUTH_TOKEN_PATH=str(path))
    assert finished.exit_code == 2
    assert finished.errors.startswith("error: nothing: there is no such job; `controlmill jobs list")


def test_joining_without_the_token_says_what_it_wants(head: RayHead, there: Callable[..., Finished]) -> None:
    # a Prefect server is not looked for: Ray is joined first
    options = ["--condition", "canny", "--pretrained-model-name-or-path", "owner/base", "--ray-address", head.address]
    nobody = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "RAY_AUTH_TOKEN": "wrong"}
    finished = there("train", "s3://bucket/dataset", *options, **nobody)
    assert finished.exit_code == 5, finished.errors
    said = finished.errors.splitlines()[-1]
    assert said.startswith(f"error: no Ray at {head.address}: ")
    assert said.endswith("set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to what the cluster has")


# A build


@dataclass
class HeldServer(PictureServer):
    """Keeps whoever asks for a picture of the second shard or a later one waiting until it is released."""

    released: threading.Event = field(default_factory=threading.Event)

    def fallback(self, request: Request) -> Handler:
        handler = super().fallback(request)
        number = request.path.strip("/").removesuffix(".jpg")
        if not number.isdigit() or int(number) < ROWS_PER_SHARD:
            return handler

        async def wait(request: Request, writer: asyncio.StreamWriter) -> bool:
            await asyncio.to_thread(self.released.wait)
            return await handler(request, writer)

        return wait

    def __exit__(self, *details: object) -> None:
        self.released.set()
        super().__exit__(*details)

    def is_asked_for(self, shard: int) -> bool:
        """Whether a worker is at this shard."""
        first = shard * ROWS_PER_SHARD
        return any(self.asked(f"/{number}.jpg") for number in range(first, first + ROWS_PER_SHARD))


def build_options(server: PictureServer, folder: Path, dataset: str) -> dict[str, Any]:
    paths = [f"/{number}.jpg" if number % 13 else f"/gone/{number}" for number in range(NUM_ROWS)]
    (folder / "urls.txt").write_text("\n".join(server.url(path) for path in paths))
    return {
        "url_list": str(folder / "urls.txt"),
        "output_folder": str(folder / dataset),
        "number_sample_per_shard": ROWS_PER_SHARD,
        "image_size": 64,
        "resize_mode": "center_crop",
        "annotators": ["canny"],
        "annotator_options": {"canny": {"low_threshold": [50, 120]}},
        "timeout": 600,
        "allow_private_networks": True,
    }


def build_here(options: dict[str, Any]) -> dict[str, str]:
    """What the same options give on this machine, without Ray."""
    config = BuildConfig.model_validate(options)
    dataset = Dataset(config.output_folder)
    for shard in planned_shards(dataset, config):
        pull_shard(dataset, shard, config)
    return parquet_hashes(Path(config.output_folder))


def count(dataset: Path, *layers: str) -> tuple[int, int]:
    """Rows of the layers together, and different keys among them."""
    parts = " UNION ALL ".join(f"SELECT key FROM '{dataset}/{layer}/*.parquet'" for layer in layers)
    with duckdb.connect() as database:
        found: tuple[int, int] | None = database.execute(
            f"SELECT count(*), count(DISTINCT key) FROM ({parts})"
        ).fetchone()
    assert found is not None
    return found[0], found[1]


def test_a_node_that_dies_during_a_submitted_build_costs_nothing(
    head: RayHead, there: Callable[..., Finished], tmp_path: Path
) -> None:
    with HeldServer() as server, head.node("second") as node:
        options = build_options(server, tmp_path, "dataset")
        (tmp_path / "build.yaml").write_text(yaml.safe_dump(options))
        secret = {"BUCKET_PASSWORD": "open-sesame", "XDG_DATA_HOME": str(tmp_path)}
        names = [word for name in secret for word in ("--env", name)]
        words = ["build", tmp_path / "build.yaml", "--submission-id", "nightly", "--with-code", *names]
        command = submit(head, tmp_path / "log", *words, **secret)
        # a CPU each: with one shard done and two under way, one of these is the other node's
        assert command.wait_for(lambda: server.is_asked_for(1) and server.is_asked_for(2)), command.output
        listed = there("jobs", "list")
        assert "nightly  RUNNING" in listed.output, listed.errors
        (url,) = re.findall(r"prefect_server_ready url=(\S+)", command.output)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{url}/api/admin/version", timeout=60)  # noqa: S310 - loopback
        assert [process for process in node.family() if is_busy(process)]
        node.kill()
        server.released.set()
        assert command.process.wait() == 0, command.output
        expected = build_here({**options, "output_folder": str(tmp_path / "here")})
    assert f"output_folder {tmp_path / 'dataset'}" in command.output.splitlines()[0]
    assert "job nightly is submitted to" in command.output
    assert f"{NUM_ROWS} rows in 4 shards" in command.output
    assert parquet_hashes(tmp_path / "dataset") == expected
    assert count(tmp_path / "dataset", "image", "failures") == (NUM_ROWS, NUM_ROWS)
    assert count(tmp_path / "dataset", "canny") == count(tmp_path / "dataset", "image")
    again = there("jobs", "logs", "nightly").output + there("jobs", "list").output
    assert "nightly  SUCCEEDED" in again
    assert "open-sesame" not in command.output + again


def test_the_exit_code_is_the_jobs(head: RayHead, tmp_path: Path) -> None:
    words = ["build", "--url-list", "/nowhere/urls.txt", "--output-folder", tmp_path / "dataset"]
    command = submit(head, tmp_path / "log", *words)
    assert command.process.wait() == 3, command.output
    assert "error: " in command.output
    assert command.output.splitlines()[-1].endswith("failed with exit code 3")


# A training run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    write_training_set(folder, num_rows=24, size=64)
    return folder


def train_options(folder: Path, name: str) -> dict[str, Any]:
    own = {"train_batch_size": 1, "zero_stage": 1, "checkpointing_steps": 4, "max_train_steps": NUM_UPDATES}
    return run_options(folder, name, **own)


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["update"] for record in records] == list(range(1, NUM_UPDATES + 1))
    return [record["loss"] for record in records]


def test_a_node_that_dies_during_training_costs_an_interval_and_changes_no_loss(
    head: RayHead, folder: Path, tmp_path: Path, prefect: dict[str, str]
) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({**train_options(folder, "disturbed"), "num_workers": 2}))
    run_folder = folder / "disturbed"
    words = ["train", tmp_path / "train.yaml", *(word for name in prefect for word in ("--env", name))]
    with head.node("third") as node:
        command = submit(head, tmp_path / "log", *words, **prefect)
        assert command.wait_for((run_folder / "checkpoint-4" / "commit.json").exists), command.output
        assert [process for process in node.family() if "RayTrainWorker" in " ".join(process.cmdline())]
        node.kill()
    with head.node("fourth"):
        assert command.process.wait() == 0, command.output
    assert "resumed" in command.output
    (outcome,) = train_on_ranks(2, [train_options(folder, "undisturbed")], tmp_path / "ranks")
    assert outcome["update"] == NUM_UPDATES
    assert losses(run_folder) == losses(folder / "undisturbed")


def test_ctrl_c_asks_whether_to_stop_the_job(
    head: RayHead, there: Callable[..., Finished], folder: Path, tmp_path: Path, prefect: dict[str, str]
) -> None:
    # more workers than the cluster has CPUs: it waits for nodes
    options = {**train_options(folder, "waiting"), "num_workers": 3}
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(options))
    words = ["train", tmp_path / "train.yaml", "--submission-id", "waiting"]
    words += [word for name in prefect for word in ("--env", name)]
    terminal, stdin = pty.openpty()
    question = "stop the job?"
    try:
        command = submit(head, tmp_path / "log", *words, stdin=stdin, **prefect)
        assert command.wait_for(lambda: "joining Ray" in command.output), command.output
        command.interrupt()
        assert command.wait_for(lambda: question in command.output), command.output
        os.write(terminal, b"\n")
        assert command.wait_for(lambda: "job waiting goes on\n" in command.output), command.output
        leave_it(head, tmp_path / "left", stdin)
        command.interrupt()
        assert command.wait_for(lambda: command.output.count(question) == 2), command.output
        os.write(terminal, b"y\n")
        assert command.process.wait() == 130, command.output
    finally:
        os.close(terminal)
        os.close(stdin)
    # the job itself had the time to end in order
    assert "error: stopped before the first checkpoint" in command.output
    assert command.output.splitlines()[-1] == "error: job waiting was stopped; submit it again to go on"
    listed = [line.split()[:2] for line in there("jobs", "list").output.splitlines()]
    assert ["waiting", "STOPPED"] in listed
    stopped = there("jobs", "stop", "waiting")
    assert (stopped.exit_code, stopped.output) == (0, "job waiting: STOPPED\n"), stopped.errors


def leave_it(head: RayHead, log_path: Path, stdin: int) -> None:
    """Follow the waiting job, and press Ctrl-C twice."""
    where = {**head.environment, "RAY_API_SERVER_ADDRESS": head.dashboard_url}
    command = Command(["jobs", "logs", "--follow", "waiting"], log_path, where, stdin)
    assert command.wait_for(lambda: "joining Ray" in command.output), command.output
    command.interrupt()
    assert command.wait_for(lambda: "stop the job?" in command.output), command.output
    command.interrupt()
    assert command.process.wait() == 130, command.output
    assert "error: job waiting goes on; follow it with `controlmill jobs logs --follow waiting" in command.output
