"""`controlmill encode`: the layers, and that only what is missing is made."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

from controlmill.config.training_data import TrainingDataOptions
from controlmill.testing.command import Finished, parquet_hashes
from controlmill.testing.tiny_sd import write_tiny_sd
from controlmill.testing.training_set import write_training_set
from training.base_files import find_base
from training.reader.reader import ShardReader


def succeeded(finished: Finished) -> str:
    """What it said."""
    assert finished.exit_code == 0, finished.errors
    return finished.output


def test_encoded_once_and_used_by_the_reader(cluster: Callable[..., Finished], tmp_path: Path) -> None:
    dataset = write_training_set(tmp_path, 60, 64, rows_per_shard=25, caption_layer=True)
    base = str(write_tiny_sd(tmp_path / "base"))
    words = ["encode", dataset, "--pretrained_model_name_or_path", base, "--resolution", "64"]
    assert "60 rows in 3 shards" in succeeded(cluster(*words))
    before = parquet_hashes(Path(dataset))
    (Path(dataset) / "latent" / "00001_stats.json").unlink()
    assert "25 rows in 1 shard" in succeeded(cluster(*words, "--batch-size", 8))
    assert parquet_hashes(Path(dataset)) == before
    remembered = json.loads((Path(dataset) / "dataset.json").read_text())["options"]["encode"]
    assert remembered["latent"]["resolution"] == 64
    options = TrainingDataOptions(
        train_data_dir=dataset, condition=("canny",), resolution=64, cached_layers="require", dataloader_num_workers=1
    )
    fingerprint = find_base(base, parts=("vae", "text")).fingerprint()
    with ShardReader(options, batch_size=4, base_fingerprint=fingerprint) as reader:
        batches = list(itertools.islice(reader, 15))
    assert all(batch.pixels_BCHW is None and batch.embeddings is not None for batch in batches)
    assert len({key for batch in batches for key in batch.keys}) == 60
