"""Commands that start a Ray and a Prefect server of their own: nothing of them is left, whatever becomes of the run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import fsspec
import psutil
import pytest

from controlmill.testing.command import Command, parquet_hashes, run, wait_gone
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.s3 import BUCKET, S3Server
from flows.engines import RunServer

COMMON = ["--image-size", "64", "--resize-mode", "center_crop", "--allow-private-networks", "--annotators", "canny"]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def url_list(server: PictureServer, tmp_path: Path) -> Path:
    path = tmp_path / "urls.txt"
    path.write_text("\n".join(server.url(f"/{number}.jpg") for number in range(60)))
    return path


def test_a_bucket_holds_the_same_bytes_as_a_local_folder(
    server: PictureServer, s3: S3Server, url_list: Path, tmp_path: Path
) -> None:
    words = ["build", "--url-list", url_list, "--number-sample-per-shard", 20, *COMMON]
    local = run(*words, "--output-folder", tmp_path / "dataset")
    assert local.exit_code == 0, local.errors
    uri = f"s3://{BUCKET}/sets/one"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {**s3.environment, "TMPDIR": str(temporary)}
    remote = run(*words, "--output-folder", uri, environment=environment)
    assert remote.exit_code == 0, remote.errors
    bucket = fsspec.filesystem(
        "s3",
        endpoint_url=s3.endpoint_url,
        key="testing",
        secret="testing",  # noqa: S106 moto takes any
    )
    bucket.get(f"{BUCKET}/sets/one", str(tmp_path / "copy"), recursive=True)
    assert parquet_hashes(tmp_path / "copy") == parquet_hashes(tmp_path / "dataset")
    assert not list(temporary.glob("controlmill-*"))

    num_requests = len(server.requests)
    again = run(*words, "--output-folder", uri, environment=environment)
    assert again.exit_code == 0, again.errors
    assert "nothing to do: all 3 shards were done before" in again.output
    assert len(server.requests) == num_requests
    inspected = run("inspect", uri, environment=environment)
    assert inspected.exit_code == 0, inspected.errors
    assert "60 rows planned in 3 shards" in inspected.output
    assert "testing" not in inspected.output


def test_sigterm_stops_in_order_as_ctrl_c_does(server: PictureServer, tmp_path: Path) -> None:
    url_list = tmp_path / "urls.txt"
    url_list.write_text("\n".join(server.url(f"/{number % 60}.jpg?{number}") for number in range(4000)))
    dataset = tmp_path / "dataset"
    words = ["build", "--url-list", str(url_list), "--output-folder", str(dataset), *COMMON]
    command = Command([*words, "--number-sample-per-shard", "50"], tmp_path / "run.log")
    assert command.wait_for(lambda: "shard_written" in command.output), command.output
    family = command.family()
    command.process.terminate()
    assert command.process.wait(timeout=60) == 130, command.output
    assert "run the same command again to go on" in command.output.splitlines()[-1]
    assert "Traceback" not in command.output
    assert wait_gone(family, timeout_s=60) == []
    assert not list(dataset.rglob("*.tmp"))


def test_a_dataset_that_is_being_written_is_refused_to_others(url_list: Path, tmp_path: Path) -> None:
    words = ["build", "--url-list", str(url_list), "--output-folder", str(tmp_path / "dataset"), *COMMON]
    first = Command(words, tmp_path / "first.log")
    assert first.wait_for((tmp_path / "dataset" / "dataset.json").exists), first.output
    second = run(*words)
    assert second.exit_code == 4
    assert f"in use by another controlmill (process {first.process.pid})" in second.errors
    assert second.errors.count("\n") == 1
    assert first.process.wait() == 0, first.output
    assert len(list((tmp_path / "dataset" / "image").glob("*.parquet"))) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount a tmpfs")
def test_no_process_is_left_after_a_full_disk(server: PictureServer, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        url_list = tmp_path / "urls.txt"
        url_list.write_text("\n".join(server.url(f"/{number % 60}.jpg?{number}") for number in range(600)))
        words = ["build", "--url-list", str(url_list), "--output-folder", str(folder / "dataset"), *COMMON]
        command = Command([*words, "--number-sample-per-shard", "50", "--encode-format", "png"], tmp_path / "run.log")
        assert command.wait_for(lambda: "planned" in command.output), command.output
        family = command.family()
        assert command.process.wait() == 4, command.output
        assert "No space left on device" in command.output.splitlines()[-1]
        assert "Traceback" not in command.output
        assert len(family) > 4
        assert wait_gone(family, timeout_s=60) == []
        assert not list(folder.rglob("*.tmp"))
    finally:
        subprocess.run(["umount", str(folder)], check=True)


ALONE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
"""Runs a command where nothing but the loopback interface is."""


def can_be_alone() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*ALONE, "true"], check=False).returncode == 0


@pytest.mark.skipif(not can_be_alone(), reason="needs the right to make a network namespace")
def test_without_a_network_no_row_is_marked_as_failed(tmp_path: Path) -> None:
    url_list = tmp_path / "urls.txt"
    url_list.write_text("\n".join(f"http://host{number}.example/{number}.jpg" for number in range(100)))
    words = ["build", "--url-list", url_list, "--output-folder", tmp_path / "dataset", *COMMON]
    words += ["--timeout", "1", "--outage-patience", "2"]
    finished = subprocess.run(
        [*ALONE, sys.executable, "-m", "controlmill.cli.main", *words], check=False, capture_output=True, text=True
    )
    assert finished.returncode == 6, finished.stderr
    assert "No row was marked as failed" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    left = sorted(path.name for path in (tmp_path / "dataset").rglob("*.parquet"))
    assert left == ["00000.parquet"]  # of the source


def test_servers_that_start_at_once_on_one_new_database_all_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def start(_: int) -> bool:
        server = RunServer()
        try:
            server.wait()
            return True
        finally:
            server.stop()

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(start, range(3))) == [True] * 3
    assert not list(tmp_path.rglob("prefect-server-*.log"))


def test_a_worker_that_hangs_at_its_end_does_not_outlive_the_run(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        """
import atexit, os, time
from controlmill.config import EngineOptions
from flows.engines import ray_cluster

with ray_cluster(EngineOptions(processes_count=1)):
    import ray

    @ray.remote(num_cpus=0)
    class Hanging:
        def hang_at_the_end(self):
            atexit.register(time.sleep, 600)
            return os.getpid()

    actor = Hanging.remote()
    print("pid", ray.get(actor.hang_at_the_end.remote()))
    del actor
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, timeout=300)
    (pid,) = (int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("pid "))
    with suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
