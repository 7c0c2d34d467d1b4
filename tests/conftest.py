"""For all tests; servers that several folders use are started once for each process of pytest."""

import signal
from collections.abc import Iterator

import pytest

from controlmill.testing.picture_server import PictureServer
from flows.engines import RunServer

# A shell that runs them in the background has Ctrl-C ignored, and so would every command that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def starting_prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunServer]:
    """A Prefect server with a data folder of its own; it is still starting: call `wait()`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        server = RunServer()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[PictureServer]:
    with PictureServer() as server:
        yield server
