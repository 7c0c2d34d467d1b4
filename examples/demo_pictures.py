"""The pictures of the demo, and a web server on this machine that has them: with a few bad apples, as the web has."""

import csv
import io
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from controlmill.testing.discs import disc

NUM_DISCS = 180
ROWS_PER_SHARD = 50
PHOTOS_PER_SHARD = 3
SEED, SEED_OF_SMALL = 0, 1
PHOTOS = {
    "astronaut.png": "an astronaut in an orange suit in front of a flag and a model of a space shuttle",
    "chelsea.png": "a tabby cat looking to the side",
    "coffee.png": "a cup of coffee on a wooden table",
    "rocket.jpg": "a rocket on its launch pad at night",
    "motorcycle_left.png": "a motorcycle in a workshop",
    "hubble_deep_field.jpg": "galaxies in deep space",
    "camera.png": "a man with a camera on a tripod, black and white",
    "coins.png": "rows of old coins",
}

Files = Mapping[str, tuple[bytes, str]]
"""File name to (bytes, caption)."""


def encoded(pixels: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """A file of the pixels."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 95} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def pictures() -> Files:
    """The photographs that scikit-image ships, drawn discs, and a few bad apples."""
    files = {}
    folder = Path(skimage.data.__file__).parent
    for name, caption in PHOTOS.items():
        files[f"photos/{name}"] = ((folder / name).read_bytes(), caption)
    coffee = Image.open(folder / "coffee.png").convert("RGB")
    sideways = Image.Exif()
    sideways[0x0112] = 6  # the camera was held upright: viewers turn the picture by 90 degrees
    files["odd/sideways.jpg"] = (encoded(coffee.rotate(90, expand=True), exif=sideways), "the coffee, stored sideways")
    files["odd/cmyk.jpg"] = (encoded(coffee.convert("CMYK")), "the coffee, in the colours of a printer")
    for index in range(NUM_DISCS):
        pixels, prompt = disc(SEED, index)
        files[f"discs/{index:04d}.jpg"] = (encoded(pixels), prompt)
    files["bad/truncated.jpg"] = (encoded(coffee)[:20_000], "half of a file")
    files["bad/page.jpg"] = (b"<!doctype html><title>Sign in</title>", "a web page with the name of a picture")
    return files


def small_discs(num: int, size: int) -> Files:
    """Discs of the size that the small Stable Diffusion makes, with their prompts."""
    drawn = ((f"small/{index:05d}.png", disc(SEED_OF_SMALL, index, size)) for index in range(num))
    return {name: (encoded(pixels, "PNG"), prompt) for name, (pixels, prompt) in drawn}


def shuffled(files: Files) -> list[str]:
    """File names in the order of the list: a few photographs at the head of each shard, where a contact sheet looks."""
    photos = [name for name in files if name.startswith(("photos", "odd"))]
    others = [name for name in files if name not in photos]
    names = []
    while others:
        head, photos = photos[:PHOTOS_PER_SHARD], photos[PHOTOS_PER_SHARD:]
        names += head + others[: ROWS_PER_SHARD - len(head)]
        others = others[ROWS_PER_SHARD - len(head) :]
    return names


def write_list(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """A list of URLs with captions, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["url", "caption"])
        writer.writerows(rows)


@contextmanager
def serve(files: Files) -> Iterator[str]:
    """The files over HTTP on a free port of this machine; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = files.get(self.path.lstrip("/"))
            self.send_response(200 if found else 404)
            body = found[0] if found else b""
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
