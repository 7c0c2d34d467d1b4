"""Reading the body of an answer, never more of it than allowed."""

import zlib
from dataclasses import dataclass, field

from aiohttp import StreamReader

ENCODINGS = frozenset({"", "identity", "gzip", "x-gzip", "deflate"})
"""Content encodings that can be read; none is asked for, some servers use them all the same."""


@dataclass(frozen=True, slots=True)
class Body:
    """The bytes of an answer.

    Attributes:
        data: the bytes, decompressed; of a larger body its start, or nothing.
        is_cut: whether there was more than asked for.
        is_complete: whether compressed data came to its end; plain data that did not raises in the HTTP client.
    """

    data: bytes
    is_cut: bool = False
    is_complete: bool = True


async def read_body(stream: StreamReader, encoding: str, max_bytes: int, *, keep_start: bool = False) -> Body:
    """Read until the end or until there are more than `max_bytes`, which also counts what compressed data becomes.

    The start of a larger body is thrown away unless `keep_start`.

    Raises `zlib.error` for compressed data that is none, and what the HTTP client raises.
    """
    if encoding in ("", "identity"):
        body = await _read_plain(stream, max_bytes)
    else:
        body = await _read_compressed(stream, max_bytes, is_deflate=encoding == "deflate")
    start = b"".join(body.chunks)[:max_bytes] if keep_start or not body.is_cut else b""
    return Body(start, body.is_cut, body.is_complete)


@dataclass(slots=True)
class _Chunks:
    chunks: list[bytes] = field(default_factory=list)
    num_bytes: int = 0
    is_cut: bool = False
    is_complete: bool = True

    def add(self, chunk: bytes, max_bytes: int) -> bool:
        """Whether more is wanted."""
        self.chunks.append(chunk)
        self.num_bytes += len(chunk)
        self.is_cut = self.num_bytes > max_bytes
        return not self.is_cut


async def _read_plain(stream: StreamReader, max_bytes: int) -> _Chunks:
    body = _Chunks()
    while (chunk := await stream.readany()) and body.add(chunk, max_bytes):
        pass
    return body


async def _read_compressed(stream: StreamReader, max_bytes: int, *, is_deflate: bool) -> _Chunks:
    body = _Chunks()
    unpacker = None
    while packed := await stream.readany():
        if unpacker is None:
            unpacker = zlib.decompressobj(_window_bits(packed[0], is_deflate=is_deflate))
        chunk = unpacker.decompress(packed, max_bytes - body.num_bytes + 1)
        if not body.add(chunk, max_bytes) or unpacker.eof:
            break
    body.is_complete = unpacker is None or unpacker.eof
    return body


def _window_bits(first_byte: int, *, is_deflate: bool) -> int:
    """The format for zlib: gzip, or deflate, which is sent both with a zlib header (RFC 9110, 8.4.1.2) and without."""
    if not is_deflate:
        return 16 + zlib.MAX_WBITS
    return zlib.MAX_WBITS if first_byte & 0x0F == zlib.DEFLATED else -zlib.MAX_WBITS
