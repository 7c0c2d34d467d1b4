"""The dataset card: what `datasets.load_dataset(DATASET, layer)` reads, and a page for people."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import yaml

from storage.dataset import Dataset
from storage.layer import FAILURES

CARD_NAME = "README.md"
_DEFAULT_LAYER = "image"
_SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"), (10_000_000_000, "1B<n<10B"),
    (100_000_000_000, "10B<n<100B"), (1_000_000_000_000, "100B<n<1T"),
)  # fmt: skip


@dataclass
class _Totals:
    """One layer, over all of its committed shards."""

    shards: int = 0
    rows: int = 0
    num_bytes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)


def write_card(dataset: Dataset) -> None:
    """Write `README.md` from the commit records, in the form of Hugging Face's dataset cards; no clock, no machine.

    Only the holder of the dataset's lock calls this; layers with many new records get an index of them on the way.

    Each layer becomes a configuration, the images the default one, so that `datasets.load_dataset` works on the folder
    with no other arguments (https://huggingface.co/docs/hub/datasets-manual-configuration).
    """
    totals = {name: _totals(dataset, name) for name in dataset.layers()}
    totals = {name: layer for name, layer in totals.items() if layer.shards}
    ordered = sorted(totals, key=lambda name: (name == "source", name != _DEFAULT_LAYER, name))
    text = f"---\n{yaml.safe_dump(_metadata(dataset, ordered, totals), sort_keys=False)}---\n\n{_body(ordered, totals)}"
    dataset.files.write(f"{dataset.root}/{CARD_NAME}", text.encode())


def _totals(dataset: Dataset, name: str) -> _Totals:
    found = _Totals()
    for record in dataset.layer(name).iter_records(remember=True):
        found.shards += 1
        found.rows += record.rows
        found.num_bytes += record.num_bytes
        found.reasons.update(record.reasons)
    return found


def _metadata(dataset: Dataset, ordered: list[str], totals: dict[str, _Totals]) -> dict[str, Any]:
    names = [*ordered, FAILURES] if any(True for _file in dataset.failures.files()) else ordered
    configs: list[dict[str, Any]] = []
    for name in names:
        config: dict[str, Any] = {"config_name": name, "data_files": f"{name}/*.parquet"}
        configs.append(config | {"default": True} if name == _DEFAULT_LAYER else config)
    rows = totals[_DEFAULT_LAYER].rows if _DEFAULT_LAYER in totals else 0
    size = next((label for limit, label in _SIZES if rows < limit), "n>1T")
    return {"configs": configs, "size_categories": [size], "tags": ["controlnet", "image"]}


def _body(ordered: list[str], totals: dict[str, _Totals]) -> str:
    lines = [
        "# Dataset",
        "",
        "Made by controlmill. Every layer is a folder of Parquet shards; row i of a shard has the same `key` in each",
        "layer that was made from its images.",
        "",
        "| layer | shards | rows | MB |",
        "|---|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {totals[name].shards:,} | {totals[name].rows:,} | {totals[name].num_bytes / 1e6:,.1f} |"
        for name in ordered
    ]
    for name in ordered:
        if totals[name].reasons:
            title = "Rows without an image" if name == _DEFAULT_LAYER else f"Rows without {name}"
            lines += ["", f"## {title}", "", "| reason | rows |", "|---|---:|"]
            worst_first = sorted(totals[name].reasons.items(), key=lambda item: (-item[1], item[0]))
            lines += [f"| {reason} | {count:,} |" for reason, count in worst_first]
    return "\n".join([*lines, ""])
