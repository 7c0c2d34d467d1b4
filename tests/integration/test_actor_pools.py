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
from controlmill.errors import EngineStartError, WorkerLostError
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
from controlmill.config.base import Options
from storage.weights.reference import WeightsFile
from tasks.annotators.base import Annotation, Annotator

class DoomedOptions(Options):
    weights: str | None = None

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
        no_room_for_two_groups = replace(networks, max_bytes=1)
        assert list(no_room_for_two_groups.make_maps(groups)) == expected

        def killing() -> Iterator[Group]:
            for number, group in enumerate(groups):
                yield group
                if number == 1:
                    os.kill(ray.get(pool.handles[0].process_id.remote()), signal.SIGKILL)

        assert list(networks.make_maps(killing())) == expected


def test_an_image_that_always_kills_its_actor_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "doomed.pth").write_bytes(b"weights")
    unit = create(f"{tmp_path}/own.py:Doomed", {"weights": str(tmp_path / "doomed.pth")})
    grey = np.full((8, 8, 3), 7, np.uint8)
    with crew_of([unit], num_actors=1) as crew:
        networks = networks_of(crew)
        ((made,),) = networks.make_maps([([grey], ["a"])])
        assert made[0].encoded
        with pytest.raises(WorkerLostError, match=r"^annotators: an actor was lost .*run the same command again"):
            list(networks.make_maps([([grey, 0 * grey], ["a", "b"])]))


def test_weights_that_do_not_load_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "ControlNetHED.pth").write_bytes(b"cut off")
    unit = create("hed", {"weights": str(tmp_path / "ControlNetHED.pth")})
    with crew_of([unit]) as crew, pytest.raises(EngineStartError, match="^annotators: hed did not start: ") as caught:
        crew.ready(timeout_s=120)
    assert "\n" not in str(caught.value)


def test_a_gpu_that_is_not_there_is_told_before_anything_starts(units: list[Annotator]) -> None:
    with pytest.raises(EngineStartError, match="use --device cpu"):
        crew_of(units, device="cuda")
