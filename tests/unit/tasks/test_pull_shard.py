"""One shard from a folder of images: what is pulled is decoded once, however much is made of it."""

from pathlib import Path
from typing import Any

import pytest

from controlmill.config import BuildConfig
from controlmill.testing.captioned import write_discs
from storage.dataset import Dataset
from tasks.images.decode import decode
from tasks.pull_shard import pull_shard
from tasks.stages import planned_shards

NUM_IMAGES = 5


def test_each_image_is_decoded_once_for_all_annotators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []

    def counting(data: bytes, options: Any) -> Any:
        decoded.append(data)
        return decode(data, options)

    monkeypatch.setattr("tasks.images.prepare.decode", counting)
    config = BuildConfig(
        image_folder=str(write_discs(tmp_path / "pictures", NUM_IMAGES)),
        output_folder=str(tmp_path / "dataset"),
        image_size=64,
        annotators=("canny", "lineart_standard"),
    )
    dataset = Dataset.create(config.output_folder)
    assert list(planned_shards(dataset, config)) == [0]
    records = pull_shard(dataset, 0, config)
    assert [record.layer for record in records] == ["image", "canny", "lineart_standard"]
    assert [record.successes for record in records] == [NUM_IMAGES] * 3
    assert len(decoded) == NUM_IMAGES
