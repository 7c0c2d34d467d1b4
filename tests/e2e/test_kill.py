"""Killed at random moments and run again, a build ends with the very bytes of one that nobody disturbed."""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import duckdb
import pytest

from controlmill.testing.command import Command, parquet_hashes, wait_gone
from controlmill.testing.discs import disc
from controlmill.testing.http_server import Handler, HttpServer, Request, answer

NUM_ROWS = 600
ROWS_PER_SHARD = 30
VICTIMS = ("worker", "flow", "tree")
# `make bench` kills ten times in a row
NUM_KILLS = int(os.environ.get("CONTROLMILL_NUM_KILLS", "3"))
_DELAY_S = 0.05


class PictureServer(HttpServer):
    """A disc for every /<number>.jpg but each thirteenth; slow enough that a build can be met in the middle."""

    def fallback(self, request: Request) -> Handler:
        number = int(request.path.removesuffix(".jpg").rpartition("/")[2] or 0) if request.path.endswith(".jpg") else -1
        if number < 0 or number % 13 == 12:
            return answer(b"gone", "404 Not Found")
        pixels, _ = disc(0, number % 20, size=192)
        body = cv2.imencode(".jpg", pixels)[1].tobytes()

        async def write(_: Request, writer: asyncio.StreamWriter) -> bool:
            await asyncio.sleep(_DELAY_S)  # the server's own slowness; nobody waits for it to have passed
            return await answer(body)(_, writer)

        return write


@pytest.fixture(scope="module")
def server() -> Iterator[PictureServer]:
    with PictureServer() as server:
        yield server


@pytest.fixture(scope="module")
def undisturbed(server: PictureServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_to_end(build_arguments(server, folder, "dataset"), folder / "log")
    return folder / "dataset"


def build_arguments(server: PictureServer, folder: Path, dataset: str, processes: int = 2) -> list[str]:
    url_list = folder / "urls.txt"
    url_list.write_text("\n".join(server.url(f"/{number}.jpg") for number in range(NUM_ROWS)))
    options = {
        "url_list": url_list,
        "output_folder": folder / dataset,
        "number_sample_per_shard": ROWS_PER_SHARD,
        "image_size": 128,
        "annotators": "canny",
        "processes_count": processes,
        "thread_count": 4,
        "max_connections_per_host": 8,
    }
    pairs = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["build", *pairs, "--allow-private-networks", "annotator_options.canny.low_threshold=[50,120]"]


def check_rows(dataset: Path) -> None:
    """Every planned row is an image or a failure, none is both, none is twice."""
    tables = {name: f"'{dataset}/{name}/*.parquet'" for name in ("source", "image", "failures", "canny")}
    with duckdb.connect() as database:
        both = f"SELECT key FROM {tables['image']} UNION ALL SELECT key FROM {tables['failures']}"
        counts = database.execute(f"SELECT count(*), count(DISTINCT key) FROM ({both})").fetchone()
        maps = database.execute(
            f"SELECT count(*) FROM {tables['image']} i JOIN {tables['canny']} c USING (key)"
        ).fetchone()
        images = database.execute(f"SELECT count(*) FROM {tables['image']}").fetchone()
        planned = database.execute(f"SELECT count(*) FROM {tables['source']}").fetchone()
    assert counts == (NUM_ROWS, NUM_ROWS)
    assert planned == (NUM_ROWS,)
    assert maps == images


def run_to_end(arguments: list[str], log_path: Path) -> None:
    command = Command(arguments, log_path)
    assert command.process.wait() == 0, command.output


@pytest.mark.timeout(3600)
def test_kills_change_nothing(
    server: PictureServer, undisturbed: Path, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(20)
    expected = parquet_hashes(undisturbed)
    assert len(expected) == 4 * NUM_ROWS // ROWS_PER_SHARD

    arguments = build_arguments(server, tmp_path, "disturbed")
    for round_number in range(NUM_KILLS):
        victim = VICTIMS[round_number % len(VICTIMS)]
        command = Command(arguments, tmp_path / f"round-{round_number}.log")
        moment = len(server.requests) + rng.randint(1, NUM_ROWS // (2 * NUM_KILLS))
        assert command.wait_for(lambda moment=moment: len(server.requests) >= moment), command.output
        doomed = command.kill(victim, rng)
        assert doomed, command.output
        if victim == "worker":
            # the run survives this one; end it as a whole a little later, still in the middle
            moment = len(server.requests) + rng.randint(1, NUM_ROWS // (2 * NUM_KILLS))
            command.wait_for(lambda moment=moment: len(server.requests) >= moment)
            doomed += command.kill("tree", rng)
        command.process.wait()
        assert wait_gone(doomed, timeout_s=30) == []
        record_property("kill", victim)
    run_to_end(arguments, tmp_path / "last.log")

    assert parquet_hashes(tmp_path / "disturbed") == expected
    assert not list((tmp_path / "disturbed").rglob("*.tmp"))
    check_rows(tmp_path / "disturbed")


def test_a_run_survives_the_death_of_a_worker(server: PictureServer, tmp_path: Path) -> None:
    command = Command(build_arguments(server, tmp_path, "dataset"), tmp_path / "run.log")
    moment = len(server.requests) + 50
    assert command.wait_for(lambda: len(server.requests) >= moment), command.output
    assert command.kill("worker", random.Random(1)), command.output
    assert command.process.wait() == 0, command.output
    check_rows(tmp_path / "dataset")


def test_one_worker_gives_the_same_bytes_as_two(server: PictureServer, undisturbed: Path, tmp_path: Path) -> None:
    run_to_end(build_arguments(server, tmp_path, "dataset", processes=1), tmp_path / "log")
    assert parquet_hashes(tmp_path / "dataset") == parquet_hashes(undisturbed)


def test_ctrl_c_stops_soon_and_says_how_to_go_on(server: PictureServer, tmp_path: Path) -> None:
    arguments = build_arguments(server, tmp_path, "dataset")
    command = Command(arguments, tmp_path / "run.log")
    moment = len(server.requests) + 150
    assert command.wait_for(lambda: len(server.requests) >= moment), command.output
    family = command.family()
    command.interrupt()
    assert command.process.wait(timeout=60) == 130
    assert "run the same command again" in command.output
    assert "Traceback" not in command.output
    assert wait_gone(family, timeout_s=60) == []
    assert not list((tmp_path / "dataset").rglob("*.tmp"))
    run_to_end(arguments, tmp_path / "again.log")
    check_rows(tmp_path / "dataset")
