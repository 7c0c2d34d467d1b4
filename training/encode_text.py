"""The layer `text_embedding`: what the text encoders make of every caption of a shard, each encoded once.

A caption that at least eight rows of a shard have is stored once and shared; a drawn set with 56 prompts takes so 7 MB
instead of 118 KB a row.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pyarrow as pa

from storage.dataset import Dataset
from storage.writer import ShardWriter
from training.base_model import BaseModel
from training.batch import to_blob
from training.reader.cache import EMPTY_BLOBS, OWN_BLOBS, SHARED_BLOBS, TEXT, text_schema

_MIN_SHARED: Final = 8
"""Rows with a caption that make it shared; such captions are fewer than rows, so each has a row to be stored in."""
_ROWS_PER_WRITE: Final = 64
_NUM_KEPT: Final = 512

_Blobs = tuple[bytes, bytes | None]


def write_embeddings(
    dataset: Dataset, shard: int, base: BaseModel, captions: tuple[str, str], batch_size: int
) -> ShardWriter:
    """Write the layer of a shard; the caller commits it, or leaves nothing behind. `captions`: layer and column."""
    layer, column = captions
    keys: list[str] = []
    prompts: list[str] = []
    for rows in dataset.layer(layer).iter_batches(shard, ["key", column], 4096):
        keys += rows.column("key").to_pylist()
        prompts += [(prompt or "").strip() for prompt in rows.column(column).to_pylist()]
    encoder = _Encoder(base, batch_size)
    writer = ShardWriter(dataset, TEXT, shard, encoder.schema)
    try:
        for rows in _rows(keys, prompts, encoder):
            writer.write(pa.RecordBatch.from_pylist(rows, encoder.schema))
    except BaseException:
        writer.abort()
        raise
    return writer


def _rows(keys: Sequence[str], prompts: Sequence[str], encoder: "_Encoder") -> Iterator[list[dict[str, Any]]]:
    counts = Counter(prompt for prompt in prompts if prompt)
    shared = [prompt for prompt, count in counts.items() if count >= _MIN_SHARED]
    numbers = {prompt: number for number, prompt in enumerate(shared)}
    for start in range(0, len(keys), _ROWS_PER_WRITE):
        some = prompts[start : start + _ROWS_PER_WRITE]
        here = shared[start : start + _ROWS_PER_WRITE]
        blobs = encoder.blobs([*here, *(prompt for prompt in some if prompt and prompt not in numbers)])
        rows: list[dict[str, Any]] = []
        for place, (key, prompt) in enumerate(zip(keys[start : start + _ROWS_PER_WRITE], some, strict=True)):
            row: dict[str, Any] = {"key": key, "shared": numbers.get(prompt)}
            if start + place == 0:
                row |= dict(zip(EMPTY_BLOBS, encoder.empty, strict=True))
            if place < len(here):
                row |= dict(zip(SHARED_BLOBS, blobs[here[place]], strict=True))
            if prompt and prompt not in numbers:
                row |= dict(zip(OWN_BLOBS, blobs[prompt], strict=True))
            rows.append(row)
        yield rows


class _Encoder:
    """Encodes prompts in batches, each once while it is remembered."""

    def __init__(self, base: BaseModel, batch_size: int) -> None:
        self._base = base
        self._batch_size = batch_size
        self._kept: OrderedDict[str, _Blobs] = OrderedDict()
        embeddings = base.encode_prompts([""])
        pooled = embeddings.pooled_BD
        _, num_tokens, hidden_size = embeddings.hidden_BLD.shape
        self.schema = text_schema(num_tokens, hidden_size, None if pooled is None else pooled.shape[1])
        self.empty: _Blobs = (to_blob(embeddings.hidden_BLD[0]), None if pooled is None else to_blob(pooled[0]))

    def blobs(self, prompts: Sequence[str]) -> dict[str, _Blobs]:
        """The embeddings of prompts, by prompt."""
        wanted = list(dict.fromkeys(prompts))
        found = {prompt: self._kept[prompt] for prompt in wanted if prompt in self._kept}
        new = [prompt for prompt in wanted if prompt not in found]
        for start in range(0, len(new), self._batch_size):
            some = new[start : start + self._batch_size]
            embeddings = self._base.encode_prompts(some)
            pooled = [None] * len(some) if embeddings.pooled_BD is None else [*map(to_blob, embeddings.pooled_BD)]
            found |= {
                prompt: (to_blob(hidden), one)
                for prompt, hidden, one in zip(some, embeddings.hidden_BLD, pooled, strict=True)
            }
        self._kept.update(found)
        while len(self._kept) > _NUM_KEPT:
            self._kept.popitem(last=False)
        return found
