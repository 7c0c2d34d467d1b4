"""Ray and Prefect as a cluster has them, both apart from controlmill, started once for all tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from controlmill.testing.command import Finished, run
from controlmill.testing.picture_server import PictureServer
from controlmill.testing.ray_head import RayHead
from flows.engines import RunServer


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RayHead, RunServer]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        prefect = RunServer()
    try:
        with RayHead() as ray:
            prefect.wait()
            yield ray, prefect
    finally:
        prefect.stop()


@pytest.fixture(scope="session")
def cluster(engines: tuple[RayHead, RunServer]) -> Callable[..., Finished]:
    """Runs a command that joins them; words as `controlmill.testing.command.run` takes them."""
    ray, prefect = engines
    environment = {**ray.environment, "PREFECT_API_URL": prefect.api_url}

    def run_there(*words: object, folder: Path | None = None) -> Finished:
        where = () if "--ray-address" in words else ("--ray-address", ray.address)
        return run(*words, *where, environment=environment, folder=folder)

    return run_there


@pytest.fixture(scope="session")
def server() -> Iterator[PictureServer]:
    with PictureServer() as server:
        yield server
