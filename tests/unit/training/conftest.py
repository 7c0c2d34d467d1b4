from collections.abc import Callable
from pathlib import Path

import pytest

from controlmill.testing.tiny_sd import Kind, write_tiny_sd


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a tiny base, by kind and seed; written once."""
    root = tmp_path_factory.mktemp("bases")

    def folder(kind: Kind = "sd1", seed: int = 0) -> Path:
        return write_tiny_sd(root / f"{kind}-{seed}", kind, seed)

    return folder
