"""An HTTP server that misbehaves in every way that the web does: one path per way, on loopback.

In a test: `with HostileServer({"/photo.jpg": data}) as server: server.url("/slow-drip")`. For a benchmark in a process
of its own: `python -m controlmill.testing.hostile_server FOLDER` serves the files of a folder beside the rest, and
writes its address as the first line.
"""

import asyncio
import gzip
import socket
import struct
import sys
import zlib
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path

from controlmill.testing.http_server import Handler, HttpServer, Request, answer

ROBOTS_TXT = b"User-agent: *\nDisallow: /disallowed/\n"
_BLOCK = bytes(256 * 1024)
_JPEG_START = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"


class HostileServer(HttpServer):
    """The bad apples, one per path, and the good files that it is given by path.

    `/429?after=1&id=x` and `/503?…` answer so, with Retry-After, until that many seconds have passed since the first
    request for that target, and then give an image; `/flaky?failures=2&id=x` closes that many connections first.
    """

    def __init__(self, files: Mapping[str, bytes] | None = None, port: int = 0) -> None:
        super().__init__(port=port)
        self._first_s: dict[str, float] = {}
        self.routes = {path: _file(path, data) for path, data in (files or {}).items()} | self._apples()

    def _apples(self) -> dict[str, Handler]:
        jpeg = {"Content-Type": "image/jpeg"}
        picture = tiny_png()
        return {
            "/robots.txt": answer(ROBOTS_TXT, headers={"Content-Type": "text/plain"}),
            "/tiny.png": _file("/tiny.png", picture),
            "/disallowed/image.png": _file("/image.png", picture),
            "/slow-drip": _slow_drip,
            "/never-answers": _never_answers,
            "/endless-body": _endless_body,
            "/wrong-content-length": _wrong_content_length,
            "/redirect-loop": answer(status="302 Found", headers={"Location": "/redirect-loop"}),
            "/redirect": answer(status="301 Moved Permanently", headers={"Location": "/tiny.png"}),
            "/redirect-to-private": answer(status="302 Found", headers={"Location": "http://10.0.0.1/secret.png"}),
            "/redirect-to-metadata": answer(status="302 Found", headers={"Location": "http://169.254.169.254/latest"}),
            "/redirect-to-file": answer(status="302 Found", headers={"Location": "file:///etc/passwd"}),
            "/gzip-bomb": _gzip_bomb,
            "/gzipped.png": answer(gzip.compress(picture), headers={"Content-Encoding": "gzip"}),
            "/brotli": answer(b"\x0b\x02\x80", headers=jpeg | {"Content-Encoding": "br"}),
            "/huge-dimensions.png": _file("/huge-dimensions.png", huge_png()),
            "/truncated.jpg": answer(_JPEG_START + bytes(range(256)), headers=jpeg),
            "/html-as.jpg": answer(b"<!doctype html><title>Sorry</title><p>No image here.", headers=jpeg),
            "/empty.jpg": answer(headers=jpeg),
            "/noai": answer(picture, headers=jpeg | {"X-Robots-Tag": "noai, noimageai"}),
            "/noai-for-another": answer(picture, headers=jpeg | {"X-Robots-Tag": "otherbot: noai"}),
            "/429": partial(self._busy, "429 Too Many Requests"),
            "/503": partial(self._busy, "503 Service Unavailable"),
            "/flaky": self._flaky,
            "/404": answer(b"no such image", "404 Not Found"),
            "/410": answer(b"gone", "410 Gone"),
            "/500": answer(b"broken", "500 Internal Server Error"),
            "/reset": _reset,
            "/not-http": _not_http,
            "/longer-than-said": answer(picture + b"and more", headers={"Content-Length": str(len(picture))}),
        }

    async def _busy(self, status: str, request: Request, writer: asyncio.StreamWriter) -> bool:
        after_s = float(request.query("after", "1"))
        first_s = self._first_s.setdefault(request.target, request.time_s)
        if request.time_s - first_s >= after_s:
            return await answer(tiny_png())(request, writer)
        return await answer(b"later", status, {"Retry-After": f"{after_s:g}"})(request, writer)

    async def _flaky(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        if len(self.asked(request.target)) > int(request.query("failures", "1")):
            return await answer(tiny_png())(request, writer)
        return await _wrong_content_length(request, writer)


def tiny_png() -> bytes:
    """A valid PNG of one grey pixel."""
    return _png(1, 1, zlib.compress(b"\x00\x80"))


def huge_png() -> bytes:
    """A PNG whose header claims 50,000 x 50,000 pixels, in less than 100 bytes."""
    return _png(50_000, 50_000, zlib.compress(bytes(64)))


@cache
def gzip_bomb(num_bytes: int = 96 * 1024 * 1024) -> bytes:
    """Gzip data of about a thousandth of the `num_bytes` zeros that it becomes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    # a full flush forgets what came before, so the same compressed block can be repeated
    block = packer.compress(_BLOCK) + packer.flush(zlib.Z_FULL_FLUSH)
    num_blocks = num_bytes // len(_BLOCK)
    checksum = 0
    for _ in range(num_blocks):
        checksum = zlib.crc32(_BLOCK, checksum)
    trailer = struct.pack("<II", checksum, num_blocks * len(_BLOCK))
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + block * num_blocks + packer.flush() + trailer


def _png(width: int, height: int, pixels: bytes) -> bytes:
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", pixels), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"".join([b"\x89PNG\r\n\x1a\n", *chunks])


def _file(path: str, data: bytes) -> Handler:
    kind = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif"}.get(Path(path).suffix, "image/jpeg")
    return answer(data, headers={"Content-Type": kind})


async def _slow_drip(_request: Request, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(100_000):
        writer.write(b"\xff")
        await writer.drain()
        await asyncio.sleep(0.2)
    return False


async def _never_answers(_request: Request, _writer: asyncio.StreamWriter) -> bool:
    await asyncio.Event().wait()
    return False


async def _endless_body(_request: Request, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n\r\n")
    while True:
        writer.write(_BLOCK)
        await writer.drain()


async def _gzip_bomb(request: Request, writer: asyncio.StreamWriter) -> bool:
    bomb = answer(gzip_bomb(), headers={"Content-Type": "image/jpeg", "Content-Encoding": "gzip"})
    return await bomb(request, writer)


async def _wrong_content_length(_request: Request, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: 5000\r\n\r\n" + _JPEG_START)
    await writer.drain()
    return False


async def _reset(_request: Request, writer: asyncio.StreamWriter) -> bool:
    # SO_LINGER with no time to linger: closing sends RST in place of FIN
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


async def _not_http(_request: Request, writer: asyncio.StreamWriter) -> bool:
    writer.write(b"220 mail.invalid ESMTP\r\n\r\n")
    await writer.drain()
    return False


def main() -> None:
    """Serve the files of the folder given as the only argument until standard input ends."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    files = {f"/{path.name}": path.read_bytes() for path in sorted(folder.iterdir())} if folder else {}
    with HostileServer(files) as server:
        sys.stdout.write(server.url("") + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
