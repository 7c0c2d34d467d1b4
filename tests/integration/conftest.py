"""Ray and Prefect as a cluster has them, both apart from controlmill, started once for all tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlmill.testing.command import Finished, run
from controlmill.testing.ray_head import RayHead
from flows.engines import RunServer


@pytest.fixture(scope="session")
def engines(starting_prefect: RunServer) -> Iterator[tuple[RayHead, RunServer]]:
    with RayHead() as ray:
        starting_prefect.wait()
        yield ray, starting_prefect


@pytest.fixture(scope="session")
def cluster(engines: tuple[RayHead, RunServer]) -> Callable[..., Finished]:
    """Runs a command that joins them; words as `controlmill.testing.command.run` takes them."""
    ray, prefect = engines
    environment = {**ray.environment, "PREFECT_API_URL": prefect.api_url}

    def run_there(*words: object, folder: Path | None = None) -> Finished:
        where = () if "--ray-address" in words else ("--ray-address", ray.address)
        return run(*words, *where, environment=environment, folder=folder)

    return run_there
