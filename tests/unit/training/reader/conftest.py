from collections.abc import Callable
from typing import Any

import pytest

from controlmill.config.training_data import TrainingDataOptions
from controlmill.testing.training_set import write_training_set
from training.reader.reader import ShardReader

NUM_ROWS = 150
"""In shards of 100 and 50: three chunks, of 64, 36 and 50 rows."""

OpenReader = Callable[..., ShardReader]


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> str:
    """64x64, captions in the images."""
    return write_training_set(tmp_path_factory.mktemp("squares"), NUM_ROWS, 64, rows_per_shard=100)


@pytest.fixture(scope="session")
def oblongs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three sizes, and a layer of captions."""
    sizes = [(96, 64), (64, 64), (64, 128)]
    folder = tmp_path_factory.mktemp("oblongs")
    return write_training_set(folder, 90, 64, rows_per_shard=70, sizes=sizes, caption_layer=True)


@pytest.fixture
def open_reader() -> OpenReader:
    """Opens a reader; options of the data and of the reader's place may be given together."""

    def opened(dataset: str, **given: Any) -> ShardReader:
        place = {name: given.pop(name) for name in list(given) if name not in TrainingDataOptions.model_fields}
        values = {"condition": "canny", "resolution": 64, "dataloader_num_workers": 1, **given}
        options = TrainingDataOptions(train_data_dir=dataset, **values)
        return ShardReader(options, **{"batch_size": 4, **place})

    return opened
