"""Annotators with networks in Ray actors: the maps are those of a plain call, whatever becomes of the actors."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import ray

from controlmill.config import EngineOptions
from controlmill.errors import EngineError, EngineStartError, WorkerLostError
from controlmill.testing.pictures import photo
from controlmill.testing.random_weights import write_weights
from flows.annotating import Networks
from flows.crews import ANNOTATE, Crew, crews
from flows.engines import ray_cluster
from tasks.annotate_shard import Group
from tasks.annotators.base import Annotator
from tasks.annotators.maps import make_maps
from tasks.annotators.registry import create
from tasks.rows import Map

# in a file of the user's, which is no module: actors load it for themselves
OWN = """
import os
import pathlib
from controlmill.config.base import Options
from storage.weights.reference import WeightsFile
from tasks.annotators.base import Annotation, Annotator

class DoomedOptions(Options):
    weights: str | None = None

class Loading(Annotator):
    name = "loading"
    version = "1"
    options_model = DoomedOptions
    weights = (WeightsFile("somebody/something", "doomed.pth", "main"),)

    def setup(self, device="cpu"):
        with pathlib.Path(self.options.weights).with_name("loads").open("a") as file:
            file.write(f"{os.getpid()}\\n")

    def annotate(self, images, keys):
        return [Annotation(image[:, :, 0].copy()) for image in images]

class Troubled(Annotator):
    name = "troubled"
    version = "1"
    options_model = DoomedOptions
    batch_size = 2
    weights = (WeightsFile("somebody/something", "doomed.pth", "main"),)

    def annotate(self, images, keys):
        values = [int(image.max()) for image in images]
        if 1 in values:
            raise MemoryError("CUDA out of memory")
        if 2 in values:
            raise ImportError("no such kernel")
        broken = pathlib.Path(self.options.weights).with_name("broken")
        if broken.exists():
            broken.unlink()
            self.is_lost = True
        if getattr(self, "is_lost", False):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return [Annotation(image[:, :, 0].copy()) for image in images]

class Broken(Troubled):
    # an error of ours, not of a row
    def __call__(self, images, keys):
        raise TypeError("a mistake")

class Doomed(Annotator):
    name = "doomed"
    version = "1"
    options_model = DoomedOptions
    weights = (WeightsFile("somebody/something", "doomed.pth", "main"),)

    def annotate(self, images, keys):
        if min(image.max() for image in images) == 0:
            os._exit(1)
        return [Annotation(image[:, :, 0].copy()) for image in images]
"""


@pytest.fixture(scope="module", autouse=True)
def _ray_of_this_process() -> Iterator[None]:
    with ray_cluster(EngineOptions(processes_count=2)):
        yield


@pytest.fixture(scope="module")
def units(tmp_path_factory: pytest.TempPathFactory) -> list[Annotator]:
    """Two annotators around one network, with batches of different sizes."""
    folder = tmp_path_factory.mktemp("weights")
    write_weights(folder, "ControlNetHED.pth")
    options = {"weights": str(folder)}
    return [create("hed", {**options, "batch_size": 3}), create("scribble_hed", {**options, "batch_size": 2})]


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """Images of two sizes, in three groups."""
    images = [photo(48, 48 if number % 4 else 64, seed=number) for number in range(21)]
    keys = [f"{number:04d}" for number in range(21)]
    return [(images[start : start + 8], keys[start : start + 8]) for start in range(0, 21, 8)]


@pytest.fixture(scope="module")
def expected(units: list[Annotator], groups: list[Group]) -> list[list[list[Map]]]:
    for unit in units:
        unit.setup("cpu")
    return [[make_maps(unit, images, keys) for unit in units] for images, keys in groups]


def crew_of(units: list[Annotator], **options: object) -> Crew:
    return crews(units, None, EngineOptions.model_validate(options))[ANNOTATE]


def networks_of(crew: Crew) -> Networks:
    found = crew.ready(timeout_s=120)
    assert isinstance(found, Networks)
    return found


def taken_ahead(networks: Networks, groups: list[Group]) -> tuple[list[list[list[Map]]], list[int]]:
    """The maps, and how many groups were taken and not given back yet, each time that maps came."""
    taken = 0

    def counting() -> Iterator[Group]:
        nonlocal taken
        for group in groups:
            taken += 1
            yield group

    made, ahead = [], []
    for maps in networks.make_maps(counting()):
        ahead.append(taken - len(made))
        made.append(maps)
    return made, ahead


def test_the_maps_are_those_of_a_plain_call(
    units: list[Annotator], groups: list[Group], expected: list[list[list[Map]]]
) -> None:
    with crew_of(units, num_actors=2) as crew:
        networks = networks_of(crew)
        (pool,) = networks.pools
        assert len(pool.handles) == 2
        assert list(networks.make_maps(groups)) == expected
        one_layer = networks.of(["scribble_hed"])
        assert list(one_layer.make_maps(groups)) == [[of_second] for _, of_second in expected]
        one_actor = replace(networks, pools=(replace(pool, handles=pool.handles[:1]),))
        assert list(one_actor.make_maps(groups)) == expected
        no_room_for_two_groups = replace(one_actor, max_bytes=1)
        made, ahead = taken_ahead(no_room_for_two_groups, groups * 5)
        assert made == expected * 5
        # the one whose maps are waited for, and the one that waits for its room
        assert max(ahead) == 2
        assert max(taken_ahead(one_actor, groups * 5)[1]) > 2

        def killing() -> Iterator[Group]:
            for number, group in enumerate(groups):
                yield group
                if number == 1:
                    os.kill(ray.get(pool.handles[0].process_id.remote()), signal.SIGKILL)

        assert list(networks.make_maps(killing())) == expected


def test_an_image_that_always_kills_its_actor_ends_the_run(tmp_path: Path) -> None:
    unit = own("Doomed", tmp_path)
    grey = np.full((8, 8, 3), 7, np.uint8)
    with crew_of([unit], num_actors=1) as crew:
        networks = networks_of(crew)
        ((made,),) = networks.make_maps([([grey], ["a"])])
        assert made[0].encoded
        with pytest.raises(WorkerLostError, match=r"^annotators: an actor was lost .*run the same command again"):
            list(networks.make_maps([([grey, 0 * grey], ["a", "b"])]))


def own(kind: str, folder: Path) -> Annotator:
    """One of the annotators in `OWN`."""
    (folder / "own.py").write_text(OWN)
    (folder / "doomed.pth").write_bytes(b"weights")
    return create(f"{folder}/own.py:{kind}", {"weights": str(folder / "doomed.pth")})


def test_an_actor_whose_gpu_is_lost_is_started_again_and_no_row_fails(tmp_path: Path) -> None:
    greys = [np.full((8, 8, 3), value, np.uint8) for value in range(10, 20)]
    groups = [(greys[start : start + 5], list("abcde")) for start in (0, 5)]
    with crew_of([own("Troubled", tmp_path)], num_actors=1) as crew:
        networks = networks_of(crew)
        (actor,) = networks.pools[0].handles
        expected = list(networks.make_maps(groups))
        assert all(made.encoded for ((*of_group,),) in expected for made in of_group)
        before = ray.get(actor.process_id.remote())
        (tmp_path / "broken").touch()
        assert list(networks.make_maps(groups)) == expected
        assert not (tmp_path / "broken").exists()
        assert ray.get(actor.process_id.remote()) != before


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (
            "Troubled",
            1,
            r"^annotators: troubled: one image of 8x8 alone .*CUDA out of memory; end what else",
        ),
        ("Broken", 9, r"^annotators: TypeError: a mistake; run the same command again once"),
    ],
)
def test_what_an_actor_raises_is_told_and_is_no_lost_actor(kind: str, value: int, message: str, tmp_path: Path) -> None:
    images = [np.full((8, 8, 3), value, np.uint8)] * 2
    with crew_of([own(kind, tmp_path)], num_actors=1) as crew:
        networks = networks_of(crew)
        (actor,) = networks.pools[0].handles
        before = ray.get(actor.process_id.remote())
        with pytest.raises(EngineError, match=message) as caught:
            list(networks.make_maps([(images, ["a", "b"])]))
        assert "lost" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert ray.get(actor.process_id.remote()) == before


def test_weights_are_loaded_once_in_each_actor(tmp_path: Path) -> None:
    grey = np.full((8, 8, 3), 7, np.uint8)
    with crew_of([own("Loading", tmp_path)], num_actors=2) as crew:
        networks = networks_of(crew)
        list(networks.make_maps([([grey] * 4, list("abcd"))] * 6))
        processes = ray.get([actor.process_id.remote() for actor in networks.pools[0].handles])
    assert sorted(map(int, (tmp_path / "loads").read_text().split())) == sorted(processes)


def test_an_error_of_one_image_is_its_failure(tmp_path: Path) -> None:
    images = [np.full((8, 8, 3), value, np.uint8) for value in (9, 2)]
    with crew_of([own("Troubled", tmp_path)], num_actors=1) as crew:
        (((good, bad),),) = networks_of(crew).make_maps([(images, ["a", "b"])])
    assert good.encoded
    assert bad.message == "ImportError: no such kernel"


def test_weights_that_do_not_load_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "ControlNetHED.pth").write_bytes(b"cut off")
    unit = create("hed", {"weights": str(tmp_path / "ControlNetHED.pth")})
    with crew_of([unit]) as crew, pytest.raises(EngineStartError, match="^annotators: hed did not start: ") as caught:
        crew.ready(timeout_s=120)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_is_told_before_anything_starts(units: list[Annotator]) -> None:
    with pytest.raises(EngineStartError, match="use --device cpu"):
        crew_of(units, device="cuda")
