"""Killed at random moments and run again, a build with networks and captions ends with the very bytes of another."""

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import duckdb
import pytest

from controlmill.testing.command import Command, is_busy, parquet_hashes, wait_gone
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.random_weights import write_weights
from controlmill.testing.small_blip import write_small_blip

if TYPE_CHECKING:
    import psutil

# `make bench` kills more often, with all four annotators, in a build of 2,000 rows
NUM_ROWS: Final = int(os.environ.get("CONTROLMILL_NUM_ROWS", "60"))
NUM_KILLS: Final = int(os.environ.get("CONTROLMILL_NUM_KILLS", "2"))
ANNOTATORS: Final = os.environ.get("CONTROLMILL_ANNOTATORS", "canny,hed").split(",")
ROWS_PER_SHARD: Final = max(10, NUM_ROWS // 40)
VICTIMS: Final = ("actor", "tree", "worker", "flow")
WEIGHTS: Final = {
    "hed": "ControlNetHED.pth",
    "midas": "dpt_hybrid-midas-501f0c75.pt",
    "openpose": "body_pose_model.pth",
}


@pytest.fixture(scope="module")
def server() -> Iterator[PictureServer]:
    with PictureServer(side=80) as server:
        yield server


@pytest.fixture
def arguments(server: PictureServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A build of everything, but for the folder that it writes to."""
    write_weights(tmp_path / "weights", *(WEIGHTS[name] for name in ANNOTATORS if name in WEIGHTS))
    monkeypatch.setenv("CONTROLMILL_WEIGHTS", str(tmp_path / "weights"))
    urls = (f"/{number}.jpg" if number % 13 else "/gone.jpg" for number in range(NUM_ROWS))
    (tmp_path / "urls.txt").write_text("\n".join(map(server.url, urls)))
    options = {
        "url_list": tmp_path / "urls.txt",
        "number_sample_per_shard": ROWS_PER_SHARD,
        "image_size": 64,
        "annotators": ",".join(ANNOTATORS),
        "captioner": "blip",
        "captioner_options": f"model={write_small_blip(tmp_path / 'small-blip')}",
    }
    pairs = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["build", *pairs, "--captioner-options", "batch_size=4", "--allow-private-networks"]


def num_committed(dataset: Path) -> int:
    """Commit records of layers that networks make."""
    made = [*(name for name in ANNOTATORS if name in WEIGHTS), "caption"]
    return sum(len(list((dataset / name).glob("*_stats.json"))) for name in made)


def check_rows(dataset: Path) -> None:
    """Every planned row is an image or a failure; every image is in every layer, once and in order."""
    with duckdb.connect() as database:

        def keys(layer: str) -> list[tuple[str]]:
            found = database.execute(
                f"SELECT key FROM '{dataset}/{layer}/*.parquet' ORDER BY filename, file_row_number"
            )
            return found.fetchall()

        images = keys("image")
        for layer in (*ANNOTATORS, "caption"):
            assert keys(layer) == images, layer
        assert sorted(images + keys("failures")) == keys("source")
    assert len(images) == sum(number % 13 != 0 for number in range(NUM_ROWS))


def disturb(command: Command, dataset: Path, victim: str, rng: random.Random) -> bool:
    """Kill the victim at a random moment; whether the command was still there, and so has to be run again."""
    layers = len(ANNOTATORS)
    moment = num_committed(dataset) + rng.randint(0, max(1, layers * NUM_ROWS // ROWS_PER_SHARD // (NUM_KILLS + 1)))

    def due() -> bool:
        works = victim != "actor" or any(is_busy(process, "Actor.") for process in command.family())
        return works and num_committed(dataset) >= moment

    doomed: list[psutil.Process] = []
    # where the victim is not busy any more, the next one that is
    while not doomed:
        if not command.wait_for(due):
            assert command.process.wait() == 0, command.output
            return False
        doomed = command.kill(victim, rng)
    if victim in ("flow", "tree"):
        command.process.wait()
    assert wait_gone(doomed, timeout_s=30) == []
    return True


@pytest.mark.timeout(7200)
def test_kills_change_nothing(
    arguments: list[str], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    rng = random.Random(20)
    undisturbed = Command([*arguments, "--output-folder", str(tmp_path / "undisturbed")], tmp_path / "undisturbed.log")
    assert undisturbed.process.wait() == 0, undisturbed.output

    dataset = tmp_path / "disturbed"
    killed = []
    command = None
    for number in range(NUM_KILLS):
        victim = VICTIMS[number % len(VICTIMS)]
        if command is None or command.process.poll() is not None:
            command = Command([*arguments, "--output-folder", str(dataset)], tmp_path / f"round-{number}.log")
        if not disturb(command, dataset, victim, rng):
            break
        killed.append(victim)
        record_property("kill", victim)
    assert killed, "the build was over before anything was killed"
    # a run survives the death of an actor or a worker
    if command is not None and killed[-1] in ("actor", "worker"):
        assert command.process.wait() == 0, command.output
    last = Command([*arguments, "--output-folder", str(dataset)], tmp_path / "last.log")
    assert last.process.wait() == 0, last.output

    assert parquet_hashes(dataset) == parquet_hashes(tmp_path / "undisturbed")
    assert len(parquet_hashes(dataset)) == (len(ANNOTATORS) + 4) * -(-NUM_ROWS // ROWS_PER_SHARD)
    assert not list(dataset.rglob("*.tmp"))
    check_rows(dataset)
