"""The way of one row through a shard: pull it, then decode, annotate and encode it in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from controlmill.config import ShardOptions
from controlmill.reasons import RowFailure
from tasks.annotators.base import Annotator
from tasks.annotators.maps import make_map
from tasks.batched import Batched
from tasks.byte_gate import ByteGate
from tasks.hashes import checked_digest, expected_hash
from tasks.images.prepare import prepare
from tasks.pull.pull import Pulled, Puller
from tasks.rows import FinishedRow, SourceRow
from tasks.shard_files import Outcome
from tasks.sources.local import LocalReader

_UNDECODED_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Read:
    """The bytes of a row that needs no pulling."""

    data: bytes
    digest: str | None


P = ParamSpec("P")
T = TypeVar("T")


class Line:
    """Turns source rows into finished rows; one for all rows of a shard."""

    def __init__(
        self,
        config: ShardOptions,
        annotators: list[Annotator],
        puller: Puller,
        pool: ThreadPoolExecutor,
        num_threads: int,
    ) -> None:
        self._config = config
        self._annotators = annotators
        self._puller = puller
        self._local = LocalReader(config)
        self._pool = pool
        self._slots = asyncio.Semaphore(config.thread_count)
        self._gate = ByteGate(_UNDECODED_BYTES)
        self._finishing = Batched(self._finish, pool, num_threads)

    async def make(self, row: SourceRow) -> Outcome:
        """The finished row, or the row with its failure; holds its download slot until the image is decoded."""
        async with self._slots, self._gate.hold() as held:
            pulled: Pulled | Read | RowFailure
            if row.location is None:
                pulled = await self._puller.pull(row.url, expected_hash(row))
            else:
                pulled = await self.in_thread(self._read, row)
            if isinstance(pulled, RowFailure):
                return row, pulled
            held.settle(len(pulled.data))
            finished = await self._finishing.run((row, pulled))
            return (row, finished) if isinstance(finished, RowFailure) else finished

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in one of the shard's threads; decoding, Canny and encoding release the interpreter lock."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))

    def _read(self, row: SourceRow) -> Read | RowFailure:
        data = self._local.read(row.location or "")
        if isinstance(data, RowFailure):
            return data
        digest = checked_digest(row, data, self._config.compute_hash)
        return digest if isinstance(digest, RowFailure) else Read(data, digest)

    def _finish(self, pulled: tuple[SourceRow, Pulled | Read]) -> FinishedRow | RowFailure:
        row, body = pulled
        prepared = prepare(body.data, self._config)
        if isinstance(prepared, RowFailure):
            return prepared
        return FinishedRow(
            row=row,
            encoded=prepared.encoded,
            width=prepared.width,
            height=prepared.height,
            original_width=prepared.original_width,
            original_height=prepared.original_height,
            exif=prepared.exif,
            digest=body.digest,
            maps={unit.name: make_map(unit, prepared.pixels, row.key) for unit in self._annotators},
        )
