"""Weights of all annotators, random, made once for a run of the tests and found through the real resolver."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from controlmill.testing.random_weights import FILENAMES, write_segmentation, write_weights
from tasks.annotators.base import Annotator
from tasks.annotators.network import foreign_imports
from tasks.annotators.registry import create

Make = Callable[..., Annotator]


@contextlib.contextmanager
def looked_for_in(folder: Path) -> Iterator[None]:
    """Weights are looked for there and nowhere else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTROLMILL_WEIGHTS", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield


@pytest.fixture(scope="session")
def weights_folder() -> Iterator[Path]:
    """Where weights are looked for; `make` writes what an annotator needs."""
    # pytest keeps the folders of three runs: these would be gigabytes
    with TemporaryDirectory(prefix="controlmill-weights-") as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _only_these_weights(weights_folder: Path) -> Iterator[None]:
    with looked_for_in(weights_folder):
        yield


@pytest.fixture(scope="session")
def make(weights_folder: Path) -> Make:
    """Construct an annotator whose weights are there, not set up."""

    def construct(name: str, /, **options: Any) -> Annotator:
        made = create(name, options, seed=7)
        for file in made.needed_weights():
            if file.filename in FILENAMES:
                write_weights(weights_folder, file.filename)
            elif not (weights_folder / file.repository).exists():
                write_segmentation(weights_folder / file.repository)
        return made

    return construct


@pytest.fixture(scope="session")
def ready(make: Make, weights_folder: Path) -> Make:
    """An annotator that is set up; the same one for the same options."""
    known: dict[str, Annotator] = {}

    def set_up(name: str, /, **options: Any) -> Annotator:
        key = f"{name} {options}"
        if key not in known:
            known[key] = make(name, **options)
            # others of a wider scope may ask before the test does
            with looked_for_in(weights_folder):
                known[key].setup("cpu")
        return known[key]

    return set_up


@pytest.fixture(scope="session")
def theirs(weights_folder: Path) -> Callable[[str], Any]:
    """A detector of controlnet_aux with the same weights, which an annotator of ours has asked for before."""
    known: dict[str, Any] = {}

    def load(kind: str) -> Any:
        with foreign_imports():
            import controlnet_aux

            if kind not in known:
                found = getattr(controlnet_aux, kind)
                load_it = getattr(found, "from_pretrained", lambda _folder: found())
                known[kind] = load_it(str(weights_folder))
        return known[kind]

    return load
