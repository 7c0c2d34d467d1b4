from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from storage.card import write_card
from storage.dataset import Dataset
from storage.record import CommitRecord


def front_matter(dataset: Dataset) -> dict[str, object]:
    text = Path(dataset.root, "README.md").read_text()
    found = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(found, dict)
    return found


def test_layers_become_configurations(dataset: Dataset, write_shard: Callable[..., CommitRecord]) -> None:
    for layer in ("source", "canny", "image", "hed", "failures"):
        write_shard(layer)
    write_card(dataset)
    configs = front_matter(dataset)["configs"]
    assert isinstance(configs, list)
    assert [config["config_name"] for config in configs] == ["image", "canny", "hed", "source", "failures"]
    assert [config.get("default") for config in configs] == [True, None, None, None, None]
    assert configs[1]["data_files"] == "canny/*.parquet"


def test_a_card_of_nothing(dataset: Dataset) -> None:
    write_card(dataset)
    assert front_matter(dataset)["configs"] == []


@pytest.mark.parametrize(("num_rows", "category"), [(999, "n<1K"), (1000, "1K<n<10K")])
def test_size_categories(
    dataset: Dataset, write_shard: Callable[..., CommitRecord], num_rows: int, category: str
) -> None:
    write_shard("image", num_rows=num_rows)
    write_card(dataset)
    assert front_matter(dataset)["size_categories"] == [category]


def test_the_same_dataset_has_the_same_card(dataset: Dataset, write_shard: Callable[..., CommitRecord]) -> None:
    write_shard("image")
    write_card(dataset)
    before = Path(dataset.root, "README.md").read_bytes()
    write_card(dataset)
    assert Path(dataset.root, "README.md").read_bytes() == before
