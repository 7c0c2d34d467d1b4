"""Text embeddings read from the layer `text_embedding`: a row's own, those shared by many rows, and the empty prompt.

Shapes: B rows, L tokens, D embedding.
"""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from controlmill.errors import CorruptShardError
from storage.dataset import Dataset
from storage.record import ShardStatus
from storage.row_ranges import RowRanges
from training.batch import PromptEmbeddings
from training.reader.cache import EMPTY_BLOBS, SHARED_BLOBS, TEXT
from training.reader.rows import StoredRow

_NUM_KEPT = 1024
"""Shared embeddings in memory: 121 MB for Stable Diffusion 1.5."""

_Blobs = tuple[bytes, bytes | None]


class StoredPrompts:
    """Looks up the embeddings of prompts; used by several threads at once."""

    def __init__(self, dataset: Dataset, shards: Mapping[int, ShardStatus]) -> None:
        first = min(shards)
        metadata = dataset.layer(TEXT).schema(first).metadata
        self._num_tokens, self._hidden_size, self._pooled_size = (
            int(metadata[name]) for name in (b"num_tokens", b"hidden_size", b"pooled_size")
        )
        self._shared = RowRanges(dataset, TEXT, SHARED_BLOBS, shards)
        self._kept: OrderedDict[tuple[int, int], _Blobs] = OrderedDict()
        self._lock = threading.Lock()
        self._empty = _blobs(RowRanges(dataset, TEXT, EMPTY_BLOBS, shards).read(first, 0, 1), f"{TEXT}/{first:05d}")

    def embeddings(self, rows: Sequence[StoredRow], prompts: Sequence[str]) -> PromptEmbeddings:
        """The embeddings of `prompts`, each that of its row or empty.

        Raises:
            CorruptShardError: one is missing, or has another shape than the layer says.
        """
        found = [self._blobs_of(row, prompt) for row, prompt in zip(rows, prompts, strict=True)]
        hidden_BLD = _tensor([hidden for hidden, _ in found], (self._num_tokens, self._hidden_size))
        if not self._pooled_size:
            return PromptEmbeddings(hidden_BLD)
        return PromptEmbeddings(hidden_BLD, _tensor([pooled for _, pooled in found], (self._pooled_size,)))

    def _blobs_of(self, row: StoredRow, prompt: str) -> _Blobs:
        if not prompt:
            return self._empty
        stored = row.prompt
        if stored is not None and stored.hidden is not None:
            return stored.hidden, stored.pooled
        if stored is None or stored.shared is None:
            raise CorruptShardError(f"{TEXT}/{row.shard:05d}: row {row.key} has no embedding")
        return self._shared_blobs(row.shard, stored.shared)

    def _shared_blobs(self, shard: int, number: int) -> _Blobs:
        with self._lock:
            blobs = self._kept.get((shard, number))
            if blobs is None:
                table = self._shared.read(shard, number, number + 1)
                blobs = self._kept[shard, number] = _blobs(table, f"{TEXT}/{shard:05d}")
                if len(self._kept) > _NUM_KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end((shard, number))
        return blobs


def _blobs(table: pa.Table, place: str) -> _Blobs:
    hidden, pooled = (column.to_pylist()[0] for column in table.columns)
    if hidden is None:
        raise CorruptShardError(f"{place}: a shared embedding is missing")
    return hidden, pooled


def _tensor(blobs: Sequence[bytes | None], shape: tuple[int, ...]) -> Tensor:
    """Stored float16 values as float32 (B, *shape)."""
    try:
        arrays = [np.frombuffer(blob or b"", np.float16).reshape(shape) for blob in blobs]
    except ValueError as error:
        raise CorruptShardError(f"{TEXT}: an embedding is not of shape {shape}") from error
    return torch.from_numpy(np.stack(arrays)).float()
