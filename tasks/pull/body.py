"""Reading the body of an answer, never more of it than allowed."""

import zlib
from dataclasses import dataclass

from aiohttp import StreamReader

ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""Content encodings that can be read; none is asked for, some servers use them all the same."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer.

    Attributes:
        data: at most the bytes asked for, decompressed.
        is_cut: whether there is more.
        is_complete: whether compressed data came to its end; plain data that did not raises in the HTTP client.
    """

    data: bytes
    is_cut: bool = False
    is_complete: bool = True


async def read_body(stream: StreamReader, encoding: str, max_bytes: int) -> Body:
    """Read until the end or until there are more than `max_bytes`, which also counts what compressed data becomes.

    Raises `zlib.error` for compressed data that is none, and what the HTTP client raises.
    """
    if encoding in ("", "identity"):
        return await _read_plain(stream, max_bytes)
    return await _read_compressed(stream, max_bytes, is_deflate=encoding == "deflate")


async def _read_plain(stream: StreamReader, max_bytes: int) -> Body:
    chunks: list[bytes] = []
    num_bytes = 0
    while chunk := await stream.readany():
        chunks.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            return Body(b"".join(chunks)[:max_bytes], is_cut=True)
    return Body(b"".join(chunks))


async def _read_compressed(stream: StreamReader, max_bytes: int, *, is_deflate: bool) -> Body:
    unpacker = None
    chunks: list[bytes] = []
    num_bytes = 0
    while packed := await stream.readany():
        if unpacker is None:
            unpacker = zlib.decompressobj(_window_bits(packed[0], is_deflate=is_deflate))
        chunk = unpacker.decompress(packed, max_bytes - num_bytes + 1)
        chunks.append(chunk)
        num_bytes += len(chunk)
        if num_bytes > max_bytes:
            return Body(b"".join(chunks)[:max_bytes], is_cut=True)
        if unpacker.eof:
            break
    return Body(b"".join(chunks), is_complete=unpacker is None or unpacker.eof)


def _window_bits(first_byte: int, *, is_deflate: bool) -> int:
    """The format for zlib: gzip, or deflate, which is sent both with a zlib header (RFC 9110, 8.4.1.2) and without."""
    if not is_deflate:
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if first_byte & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS
