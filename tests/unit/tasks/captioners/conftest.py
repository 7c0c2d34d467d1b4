from pathlib import Path

import numpy as np
import pytest

from controlmill.testing.discs import disc
from controlmill.testing.small_blip import write_small_blip
from tasks.captioners.base import CaptionModel
from tasks.captioners.model import find_model


@pytest.fixture(scope="session")
def blip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_blip(tmp_path_factory.mktemp("weights") / "small-blip")


@pytest.fixture(scope="session")
def model(blip_folder: Path) -> CaptionModel:
    return find_model(str(blip_folder))


@pytest.fixture(scope="session")
def discs() -> tuple[list[np.ndarray], list[str]]:
    """Twelve pictures of three sizes, and their keys."""
    pictures = [disc(0, index, size=(96, 128, 160)[index % 3])[0] for index in range(12)]
    return pictures, [f"{index:06d}" for index in range(12)]
