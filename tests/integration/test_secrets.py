"""Secrets of a run are nowhere in what it writes, and nothing of it listens where others could reach it."""

import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from controlmill.testing.command import Command
from controlmill.testing.http_server import answer
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.s3 import BUCKET, S3Server
from controlmill.testing.tiny_sd import write_tiny_sd

pytestmark = pytest.mark.timeout(1200)

KEY, TOKEN, PASSWORD, HOOK = (f"s3cr3t{name}0123456789" for name in ("Key", "Token", "Password", "Hook"))
SECRETS = (KEY, TOKEN, PASSWORD, HOOK)
# it counts as followed at the first evaluation whose gain is above nothing
EAGER = {
    "num_probe_rows": 4, "probe_steps": 1, "following_p": 0.99, "following_gain": 1e-9, "following_high_gain": 1e-9,
    "following_evaluations": 1,
    "controllability": False,
}  # fmt: skip
LOOPBACK = ("127.", "::1", "::ffff:127.")


@dataclass(frozen=True)
class Ran:
    """What a build into a bucket and a training on it have left."""

    folder: Path
    """Logs, Prefect's database, Ray's session folders, the run, and a copy of the dataset."""
    dataset: Path
    listened: set[tuple[str, int]]
    """Every address at which a process of theirs was seen to listen."""
    posted: list[dict[str, Any]]
    """What the webhook got."""


@pytest.fixture(scope="module")
def ran() -> Iterator[Ran]:
    folder = Path(tempfile.mkdtemp(prefix="cm-", dir="/tmp"))  # short: Ray keeps sockets in it
    try:
        with PictureServer() as server, S3Server() as s3, pytest.MonkeyPatch.context() as patch:
            environment = {
                **s3.environment, "AWS_SECRET_ACCESS_KEY": KEY, "HF_TOKEN": TOKEN, "RAY_TMPDIR": str(folder / "ray"),
                "XDG_DATA_HOME": str(folder / "data"), "PREFECT_HOME": str(folder / "prefect"), "TMPDIR": str(folder),
                "RAY_raylet_start_wait_time_s": "200",
            }  # fmt: skip
            for name, value in environment.items():
                patch.setenv(name, value)
            (folder / "ray").mkdir()
            yield _run(folder, server, s3)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(folder: Path, server: PictureServer, s3: S3Server) -> Ran:
    uri = f"s3://{BUCKET}/set"
    urls = [server.url(f"/{number}.jpg", f"me:{PASSWORD}@127.0.0.1") for number in range(23)]
    (folder / "urls.txt").write_text("\n".join([*urls, server.url("/gone.jpg", f"me:{PASSWORD}@127.0.0.1")]))
    base = write_tiny_sd(folder / "base", unet_widths=(16, 16, 16, 16))
    build = ["build", "--url-list", str(folder / "urls.txt"), "--output-folder", uri, "--image-size", "64"]
    build += ["--resize-mode", "center_crop", "--allow-private-networks", "--annotators", "canny"]
    server.routes[f"/{HOOK}"] = answer()
    options = folder / "train.yaml"
    options.write_text(yaml.safe_dump({**EAGER, "webhook_url": server.url(f"/{HOOK}")}))
    train = ["train", uri, str(options), "--condition", "canny", "--keep-empty-hints", "--resolution", "64"]
    train += ["--pretrained_model_name_or_path", str(base), "--train_batch_size", "1", "--max_train_steps", "4"]
    train += ["--no-preflight", "--report_to", "tensorboard", "--output_dir", str(folder / "run")]
    listened: set[tuple[str, int]] = set()
    for words in (build, train):
        command = Command(words, folder / f"{words[0]}.log")
        watcher = threading.Thread(target=_watch, args=(command, listened))
        watcher.start()
        try:
            assert command.process.wait(500) == 0, command.output
        finally:
            for process in command.family():
                process.kill()
            watcher.join()
    (folder / "urls.txt").unlink()
    options.unlink()
    bucket = fsspec.filesystem("s3", endpoint_url=s3.endpoint_url, key="any", secret="any", skip_instance_cache=True)  # noqa: S106
    bucket.get(f"{BUCKET}/set", str(folder / "dataset"), recursive=True)
    return Ran(folder, folder / "dataset", listened, [json.loads(one.body) for one in server.asked(f"/{HOOK}")])


def _watch(command: Command, listened: set[tuple[str, int]]) -> None:
    pause = threading.Event()
    while command.process.poll() is None:
        for process in command.family():
            try:
                found = process.net_connections(kind="tcp")
            except psutil.Error:
                continue
            listened.update((at.laddr.ip, at.laddr.port) for at in found if at.status == psutil.CONN_LISTEN)
        pause.wait(0.2)


def test_no_secret_is_in_what_was_written(ran: Ran) -> None:
    files = [path for path in ran.folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.name for path in files}
    assert {
        "prefect.db",
        "build.log",
        "train.log",
        "metrics.jsonl",
        "config.json",
        "raylet.out",
        "dataset.json",
    } <= names
    found = {
        str(path.relative_to(ran.folder))
        for path in files
        if any(secret.encode() in path.read_bytes() for secret in SECRETS)
    }
    # what is needed to pull a row again is kept in one place, which docs/security.md names
    assert found <= {"dataset/source/00000.parquet"}


def test_layers_that_are_handed_on_hold_addresses_without_passwords(ran: Ran) -> None:
    urls = {
        layer: pq.read_table(ran.dataset / layer / "00000.parquet")["url"].to_pylist()
        for layer in ("source", "image", "failures")
    }
    assert (len(urls["image"]), len(urls["failures"])) == (23, 1)
    assert all(PASSWORD in url for url in urls["source"])
    # compressed columns would hide them from a search through bytes
    assert not any(secret in url for layer in ("image", "failures") for url in urls[layer] for secret in SECRETS)
    assert all(url.startswith("http://127.0.0.1:") for url in urls["image"])


def test_nothing_listens_where_others_could_reach_it(ran: Ran) -> None:
    assert len(ran.listened) > 3  # Prefect's server, and Ray's control store, raylet and agents
    assert {address for address in ran.listened if not address[0].startswith(LOOPBACK)} == set()


def test_the_webhook_of_the_options_is_told_of_convergence(ran: Ran) -> None:
    assert [message["event"] for message in ran.posted] == ["control_following"]
    assert ran.posted[0]["output_dir"] == str(ran.folder / "run")
