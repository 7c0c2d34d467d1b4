"""A web server with a drawn picture for every number, of which some hosts' are not well until somebody heals it."""

import asyncio
import re
from dataclasses import dataclass, field

import cv2

from controlmill.testing.discs import disc
from controlmill.testing.http_server import Handler, HttpServer, Request, answer

_PICTURE = re.compile(r"^/(?:(?P<trouble>busy|silent)/)?(?P<number>\d+)\.jpg$")


@dataclass
class PictureServer(HttpServer):
    """`/7.jpg` is picture 7; `/busy/7.jpg` is 503 and `/silent/7.jpg` gets no answer before `is_healed`; else 404."""

    side: int = 96
    is_healed: bool = False
    _pictures: dict[int, bytes] = field(default_factory=dict)

    def picture(self, number: int) -> bytes:
        """The JPEG file of a number."""
        if number not in self._pictures:
            pixels, _ = disc(0, number, self.side)
            self._pictures[number] = cv2.imencode(".jpg", pixels)[1].tobytes()
        return self._pictures[number]

    def fallback(self, request: Request) -> Handler:
        """The picture, or its trouble."""
        match = _PICTURE.match(request.path)
        if match is None:
            return answer(b"gone", "404 Not Found")
        trouble = None if self.is_healed else match["trouble"]
        if trouble == "busy":
            return answer(b"later", "503 Service Unavailable")
        return _keep_silent if trouble == "silent" else answer(self.picture(int(match["number"])))


async def _keep_silent(_request: Request, _writer: asyncio.StreamWriter) -> bool:
    await asyncio.get_running_loop().create_future()
    return False
