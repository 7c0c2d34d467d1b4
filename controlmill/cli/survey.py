"""What `controlmill inspect` finds in a dataset: counted from commit records, without opening a Parquet file."""

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from storage.dataset import Dataset
from storage.filesystem import redact
from storage.layer import Layer
from storage.record import CommitRecord

SOURCE = "source"
IMAGE = "image"
RETRY = "retry"


@dataclass(slots=True)
class LayerSurvey:
    """One layer, over its committed shards."""

    name: str
    num_rows: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    missing_shards: list[int] = field(default_factory=list)
    """Planned shards that are not committed."""
    stale_shards: list[int] = field(default_factory=list)
    """Committed shards that were made from images which have been replaced since."""
    fingerprints: Counter[str] = field(default_factory=Counter)
    """Shards by fingerprint: more than one where options changed and not every shard was made again."""
    unit: dict[str, Any] = field(default_factory=dict)
    """Name, version and configuration of what made the last shard."""
    inputs: list[str] = field(default_factory=list)
    """Layers that it was made from."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Failed rows by reason."""
    messages: Counter[str] = field(default_factory=Counter)
    """Failed rows by what was said of them, of a layer made from images; the most frequent messages of each shard."""
    flags: Counter[str] = field(default_factory=Counter)
    """Rows by flag column that is true."""
    num_retry_rows: int = 0
    """Rows of a source that `controlmill retry` planned."""

    def add(self, record: CommitRecord) -> None:
        """Count a committed shard."""
        self.num_rows += record.rows
        self.num_shards += 1
        self.num_bytes += record.num_bytes
        self.fingerprints[record.fingerprint] += 1
        self.unit = record.unit.model_dump()
        self.inputs = sorted(record.inputs)
        self.reasons.update(record.reasons)
        self.flags.update(record.flags)
        if record.layer != IMAGE:
            self.messages.update({text: num for text, num in record.status_dict.items() if text != "success"})
        if record.unit.name == RETRY:
            self.num_retry_rows += record.rows


@dataclass(slots=True)
class Survey:
    """A dataset."""

    dataset: str
    num_planned_shards: int
    num_planned_rows: int
    num_retry_rows: int
    """Planned rows that try a failed one again."""
    plan_complete: bool
    """Whether the whole source is planned."""
    options: dict[str, Any]
    """What its layers are made with, as `dataset.json` remembers it."""
    layers: list[LayerSurvey]
    hosts: Counter[str]
    """Failed rows by host, as far as the commit records tell: the worst hosts of each shard."""

    @property
    def reasons(self) -> Counter[str]:
        """Rows without an image, by reason."""
        return next((layer.reasons for layer in self.layers if layer.name == IMAGE), Counter())

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        return {**_shallow(self), "layers": [_shallow(layer) for layer in self.layers]}


def _shallow(record: Survey | LayerSurvey) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record)}


def survey(dataset: Dataset) -> Survey:
    """Count what is in `dataset`; reads every commit record once.

    Raises:
        DatasetMissingError: there is no dataset.
    """
    description = dataset.description()
    planned: set[int] = set()
    hashes: dict[int, str] = {}
    hosts: Counter[str] = Counter()
    layers = []
    for name in sorted(dataset.layers(), key=_order):
        found = _layer(dataset.layer(name), planned, hashes, hosts)
        if found.num_shards:
            layers.append(found)
    source = next((layer for layer in layers if layer.name == SOURCE), LayerSurvey(SOURCE))
    history = description.source.history if description.source else []
    return Survey(
        dataset=redact(dataset.uri),
        num_planned_shards=source.num_shards,
        num_planned_rows=source.num_rows,
        num_retry_rows=source.num_retry_rows,
        plan_complete=bool(history) and history[-1].complete,
        options=description.options,
        layers=layers,
        hosts=hosts,
    )


def _order(name: str) -> tuple[int, str]:
    """The source first, then the images, then what is made from them."""
    return (SOURCE, IMAGE, name).index(name), name


def _layer(layer: Layer, planned: set[int], hashes: dict[int, str], hosts: Counter[str]) -> LayerSurvey:
    """Survey one layer; the source fills `planned`, the images fill `hashes` and `hosts`."""
    found = LayerSurvey(layer.name)
    committed = set()
    for record in layer.iter_records():
        committed.add(record.shard)
        found.add(record)
        if layer.name == IMAGE:
            hashes[record.shard] = record.sha256
            hosts.update(record.hosts)
        elif IMAGE in record.inputs and hashes.get(record.shard) != record.inputs[IMAGE].sha256:
            found.stale_shards.append(record.shard)
    if layer.name == SOURCE:
        planned.update(committed)
    found.missing_shards = sorted(planned - committed)
    return found


def ranges(numbers: list[int], most: int = 8) -> str:
    """`[1, 2, 3, 7]` as "1-3, 7"; at most `most` of them, and how many shards more."""
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    shown = [f"{first}" if first == last else f"{first}-{last}" for first, last in runs[:most]]
    num_more = sum(last - first + 1 for first, last in runs[most:])
    return ", ".join(shown) + (f" and {num_more:,} more" if num_more else "")
