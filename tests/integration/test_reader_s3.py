"""The reader on S3, against moto's server over real HTTP: the same batches as from the local disk."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import torch

from controlmill.config.training_data import TrainingDataOptions
from controlmill.errors import CorruptShardError
from controlmill.testing.s3 import BUCKET, S3Server
from controlmill.testing.training_set import write_training_set
from training.batch import Batch
from training.reader.reader import ShardReader


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket with a copy of the dataset in `tmp_path`."""
    dataset = write_training_set(tmp_path, 150, 64, rows_per_shard=100)
    with S3Server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        fsspec.config.set_conf_env(fsspec.config.conf)
        fsspec.filesystem("s3").put(dataset, f"{BUCKET}/dataset", recursive=True)
        yield f"s3://{BUCKET}/dataset"
        fsspec.config.conf.pop("s3", None)


def take(dataset: str, num_batches: int) -> list[Batch]:
    options = TrainingDataOptions(train_data_dir=dataset, condition=("canny",), resolution=64)
    with ShardReader(options, batch_size=10, num_probe_rows=5) as reader:
        return list(itertools.islice(reader, num_batches))


def test_the_same_batches_and_a_missing_object_is_named(uri: str, tmp_path: Path) -> None:
    for here, there in zip(take(str(tmp_path / "dataset"), 20), take(uri, 20), strict=True):
        assert (here.keys, here.prompts) == (there.keys, there.prompts)
        assert torch.equal(here.pixels_BCHW, there.pixels_BCHW)
        assert torch.equal(here.hints[0], there.hints[0])
    files = fsspec.filesystem("s3")
    name = f"{BUCKET}/dataset/canny/00001.parquet"
    files.pipe_file(name, files.cat_file(name)[:-50])
    with pytest.raises(CorruptShardError, match=r"canny/00001\.parquet: it has \d+ bytes, its commit record says"):
        take(uri, 20)
