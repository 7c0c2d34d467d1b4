"""`controlmill caption` with BLIP by transformers: the layer, resuming, and what becomes of killed actors."""

import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from controlmill.config import CaptionConfig, EngineOptions
from controlmill.errors import EngineError, EngineStartError, WorkerLostError
from controlmill.testing.captioned import encoded_disc, rows_of, write_discs
from controlmill.testing.command import Command, Finished, parquet_hashes, wait_gone
from controlmill.testing.small_blip import write_small_blip
from flows.actor_pool import _AHEAD, _IN_FLIGHT_PER_ACTOR, Actors
from flows.crews import CAPTION, crews
from flows.engines import ray_cluster
from tasks.captioners.base import Captioner, CaptionModel, LocalCaptioner
from tasks.captioners.registry import create
from tasks.images.types import Pixels

Run = Callable[..., Finished]

NUM_IMAGES = 50
ROWS_PER_SHARD = 20


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_blip(tmp_path_factory.mktemp("weights") / "small-blip")


@pytest.fixture(scope="module")
def images_only(cluster: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    write_discs(folder / "pictures", NUM_IMAGES)
    options = ["--image-size", 128, "--number-sample-per-shard", ROWS_PER_SHARD]
    succeeded(cluster("build", "--image-folder", folder / "pictures", "--output-folder", folder / "dataset", *options))
    return folder / "dataset"


@pytest.fixture(scope="module")
def captioned(cluster: Run, images_only: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioned")
    shutil.copytree(images_only, folder / "dataset")
    succeeded(cluster(*caption_words(folder / "dataset", weights)))
    return folder / "dataset"


def caption_words(dataset: Path, weights: Path, *more: str) -> list[str]:
    return ["caption", str(dataset), "--captioner", "blip", "--model", str(weights), "--batch-size", "4", *more]


def succeeded(finished: Finished) -> str:
    """What it said."""
    assert finished.exit_code == 0, finished.errors
    return finished.output


def test_every_image_has_its_caption_and_its_alt_text(captioned: Path) -> None:
    images, captions = rows_of(captioned, "image"), rows_of(captioned, "caption")
    assert list(captions[0]) == ["key", "caption", "alt_text", "model", "reason"]
    assert [row["key"] for row in captions] == [row["key"] for row in images]
    assert [row["alt_text"] for row in captions] == [row["caption"] for row in images]
    assert sum(row["alt_text"] is None for row in captions) == NUM_IMAGES // 5
    assert all(row["caption"] and row["reason"] is None for row in captions)
    assert len({row["caption"] for row in captions}) > NUM_IMAGES // 2
    assert {row["model"].partition("@sha256:")[0] for row in captions} == {"small-blip"}


def test_the_record_says_how_and_from_what(captioned: Path) -> None:
    record = json.loads((captioned / "caption/00001_stats.json").read_text())
    image = json.loads((captioned / "image/00001_stats.json").read_text())
    assert record["inputs"]["image"] == {"fingerprint": image["fingerprint"], "sha256": image["sha256"]}
    assert record["unit"]["name"] == "blip"
    assert record["unit"]["config"]["num_beams"] == 3
    assert len(record["unit"]["config"]["weights"]["sha256"]) == 64
    assert {"torch", "transformers"} <= record["versions"].keys()


def test_again_only_what_is_missing_or_different_is_made(
    cluster: Run, captioned: Path, weights: Path, tmp_path: Path
) -> None:
    dataset = Path(shutil.copytree(captioned, tmp_path / "dataset"))
    before = parquet_hashes(dataset)
    assert "nothing to do" in succeeded(cluster(*caption_words(dataset, weights, "--batch-size", "7")))
    (dataset / "caption/00001_stats.json").unlink()
    output = succeeded(cluster(*caption_words(dataset, weights)))
    assert f"{ROWS_PER_SHARD} rows in 1 shard" in output
    assert parquet_hashes(dataset) == before
    succeeded(cluster(*caption_words(dataset, weights, "--prompt", "")))
    changed = {name for name, digest in parquet_hashes(dataset).items() if digest != before[name]}
    assert changed == {f"caption/{shard:05d}.parquet" for shard in range(3)}


def actors(command: Command) -> list[psutil.Process]:
    """The actors that are captioning at this moment."""
    found = []
    for process in command.family():
        try:
            if process.cmdline()[:1] == ["ray::CaptionActor.caption"]:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("victim", ["actor", "tree"])
def test_a_kill_loses_nothing_and_repeats_nothing(
    victim: str, cluster: Run, captioned: Path, images_only: Path, weights: Path, tmp_path: Path
) -> None:
    dataset = Path(shutil.copytree(images_only, tmp_path / "dataset"))
    command = Command(caption_words(dataset, weights), tmp_path / "killed.log")
    busy: list[psutil.Process] = []
    assert command.wait_for(lambda: bool(busy.extend(actors(command)) or busy)), command.output
    if victim == "actor":
        busy[0].send_signal(signal.SIGKILL)
        assert command.process.wait() == 0, command.output
    else:
        doomed = command.kill("tree", random.Random(1))
        command.process.wait()
        assert wait_gone(doomed, timeout_s=30) == []
        succeeded(cluster(*caption_words(dataset, weights)))
    assert parquet_hashes(dataset) == parquet_hashes(captioned)
    assert not list(dataset.rglob("*.tmp"))


@pytest.fixture(scope="module")
def ray_of_this_process() -> Iterator[None]:
    with ray_cluster(EngineOptions()):
        yield


def config(model: str, **options: object) -> CaptionConfig:
    values = {"output_folder": "unused", "captioner": "blip", "model": model, "batch_size": 3, **options}
    return CaptionConfig.model_validate(values)


@contextmanager
def actors_of(captioner: Captioner, options: CaptionConfig) -> Iterator[Actors]:
    with crews([], captioner, options)[CAPTION] as crew:
        yield crew.ready(timeout_s=120)


@pytest.mark.usefixtures("ray_of_this_process")
def test_two_actors_share_the_batches_and_keep_their_order(weights: Path) -> None:
    options = config(str(weights), num_actors=2)
    taken = 0
    ahead = []

    def batches() -> Iterator[tuple[list[bytes], list[str]]]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield [encoded_disc(number)], [f"{number:04d}"]

    with actors_of(create(options), options) as pool:
        assert len(pool.handles) == 2
        captions = []
        for number, batch in enumerate(pool.map(batches())):
            ahead.append(taken - number)
            captions += batch
        alone = replace(pool, handles=pool.handles[:1])
        assert list(alone.map(batches())) == [[one] for one in captions]
    # those under way or done, and the one that waits to be sent
    assert max(ahead) == 2 * _IN_FLIGHT_PER_ACTOR * (1 + _AHEAD) + 1 < 40


@pytest.mark.usefixtures("ray_of_this_process")
def test_a_picture_that_cannot_be_decoded_is_one_failure(weights: Path) -> None:
    options = config(str(weights))
    with actors_of(create(options), options) as pool:
        ((bad, good),) = pool.map([([b"not a picture", encoded_disc(1)], ["a", "b"])])
    assert bad[0] is None
    assert "not a stored image" in str(bad[1])
    assert good[0]
    assert good[1] is None


@pytest.mark.usefixtures("ray_of_this_process")
def test_a_gpu_that_is_not_there_is_told_at_the_start(weights: Path) -> None:
    options = config(str(weights), device="cuda")
    with pytest.raises(EngineStartError, match="use --device cpu"), actors_of(create(options), options):
        pass


@pytest.mark.usefixtures("ray_of_this_process")
def test_weights_that_do_not_load_are_told_in_one_line(weights: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(weights, tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"cut off")
    options = config(str(broken))
    with pytest.raises(EngineStartError, match="^captions: blip did not start: .*") as caught:
        actors_of(create(options), options).__enter__()
    assert "\n" not in str(caught.value)


class Troubled(LocalCaptioner):
    """Its GPU, of which `model` is a flag, is lost to the process that met it; it has never room for a square of 64."""

    name: ClassVar[str] = "troubled"
    version: ClassVar[str] = "1"

    def setup(self, device: str = "cpu") -> None:
        del device
        self.is_lost = False

    def caption(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str]:
        flag = Path(self.options.model)
        if flag.exists():
            flag.unlink()
            self.is_lost = True
        if self.is_lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if any(len(image) == 64 for image in images):
            raise type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory")
        return list(keys)


@pytest.mark.usefixtures("ray_of_this_process")
def test_trouble_of_the_gpu_is_no_failure_of_a_row(tmp_path: Path) -> None:
    options = config(str(tmp_path / "flag"), num_actors=1)
    troubled = Troubled(options, CaptionModel("nothing", "/nowhere", "0" * 64))
    batches = [([encoded_disc(number)], [f"{number:04d}"]) for number in range(6)]
    with actors_of(troubled, options) as pool:
        (tmp_path / "flag").touch()
        assert list(pool.map(batches)) == [[(keys[0], None)] for _, keys in batches]
        assert not (tmp_path / "flag").exists()
        with pytest.raises(EngineError, match=r"^captions: troubled: one image of 64x64 alone .*; end what"):
            list(pool.map([([encoded_disc(1, size=64)], ["a"])]))


@pytest.mark.usefixtures("ray_of_this_process")
def test_an_actor_that_always_dies_ends_the_run() -> None:
    class Doomed(LocalCaptioner):
        name: ClassVar[str] = "doomed"
        version: ClassVar[str] = "1"

        def setup(self, device: str = "cpu") -> None:
            del device

        def caption(self, images: Sequence[Pixels], keys: Sequence[str]) -> list[str]:
            del images, keys
            os._exit(1)

    options = config("nothing")
    doomed = Doomed(options, CaptionModel("nothing", "/nowhere", "0" * 64))
    with (
        actors_of(doomed, options) as pool,
        pytest.raises(WorkerLostError, match="run the same command again"),
    ):
        list(pool.map([([encoded_disc(1)], ["a"])]))
