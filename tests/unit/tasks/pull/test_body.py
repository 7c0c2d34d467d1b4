import asyncio
import gzip
import zlib
from typing import TYPE_CHECKING, Any, cast

import pytest

from tasks.pull.body import Body, read_body

if TYPE_CHECKING:
    from aiohttp import StreamReader

DATA = bytes(range(256)) * 40


class _Chunks:
    """As much of a stream as `read_body` uses."""

    def __init__(self, data: bytes, chunk_bytes: int) -> None:
        self._chunks = [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]

    async def readany(self) -> bytes:
        await asyncio.sleep(0)
        return self._chunks.pop(0) if self._chunks else b""


async def read(data: bytes, encoding: str, max_bytes: int, chunk_bytes: int = 1000, **more: Any) -> Body:
    return await read_body(cast("StreamReader", _Chunks(data, chunk_bytes)), encoding, max_bytes, **more)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("chunk_bytes", [1, 7, 1000, 10**6])
@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("", DATA),
        ("identity", DATA),
        ("gzip", gzip.compress(DATA, mtime=0)),
        ("x-gzip", gzip.compress(DATA, mtime=0)),
        ("deflate", zlib.compress(DATA)),
        ("deflate", raw_deflate(DATA)),
    ],
)
async def test_every_encoding_gives_the_bytes_however_they_arrive(encoding: str, data: bytes, chunk_bytes: int) -> None:
    assert await read(data, encoding, len(DATA), chunk_bytes) == Body(DATA)


@pytest.mark.parametrize(
    ("encoding", "data"), [("", DATA), ("gzip", gzip.compress(DATA, mtime=0)), ("deflate", zlib.compress(DATA))]
)
async def test_one_byte_too_many_is_noticed(encoding: str, data: bytes) -> None:
    body = await read(data, encoding, len(DATA) - 1)
    assert body.is_cut
    assert body.data == b""


async def test_the_start_can_be_kept() -> None:
    assert (await read(DATA, "", 100, keep_start=True)).data == DATA[:100]
    assert (await read(gzip.compress(DATA, mtime=0), "gzip", 100, keep_start=True)).data == DATA[:100]


async def test_compressed_data_without_its_end_is_not_complete() -> None:
    body = await read(gzip.compress(DATA, mtime=0)[:-20], "gzip", len(DATA))
    assert not body.is_complete


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_empty_body_is_empty_in_every_encoding(encoding: str) -> None:
    assert await read(b"", encoding, 10) == Body(b"")


async def test_what_is_not_compressed_at_all_raises() -> None:
    with pytest.raises(zlib.error):
        await read(b"not gzip at all", "gzip", 10)


async def test_a_bomb_is_not_unpacked_beyond_the_cap() -> None:
    bomb = zlib.compress(bytes(64 * 1024 * 1024))
    before = asyncio.get_running_loop().time()
    body = await read(bomb, "deflate", 1000, chunk_bytes=10**6)
    assert body.is_cut
    assert asyncio.get_running_loop().time() - before < 1.0
