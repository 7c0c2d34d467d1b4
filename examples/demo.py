"""`make demo`: serve generated and real pictures on this machine, build a dataset from their URLs, and look at it.

A real HTTP server (with a few bad apples), the real `controlmill build` with its Prefect flow on Ray, then
`controlmill inspect`. Usage: python examples/demo.py [FOLDER]
"""

import csv
import io
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
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
SEED = 0
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


def jpeg(pixels: np.ndarray | Image.Image, **options: object) -> bytes:
    """A JPEG file of the pixels."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def pictures() -> dict[str, tuple[bytes, str]]:
    """File name to (bytes, caption): the photographs that scikit-image ships, drawn discs, and a few bad apples."""
    files = {}
    folder = Path(skimage.data.__file__).parent
    for name, caption in PHOTOS.items():
        files[f"photos/{name}"] = ((folder / name).read_bytes(), caption)
    coffee = Image.open(folder / "coffee.png").convert("RGB")
    sideways = Image.Exif()
    sideways[0x0112] = 6  # the camera was held upright: viewers turn the picture by 90 degrees
    files["odd/sideways.jpg"] = (jpeg(coffee.rotate(90, expand=True), exif=sideways), "the coffee, stored sideways")
    files["odd/cmyk.jpg"] = (jpeg(coffee.convert("CMYK")), "the coffee, in the colours of a printer")
    for index in range(NUM_DISCS):
        pixels, prompt = disc(SEED, index)
        files[f"discs/{index:04d}.jpg"] = (jpeg(pixels), prompt)
    files["bad/truncated.jpg"] = (jpeg(coffee)[:20_000], "half of a file")
    files["bad/page.jpg"] = (b"<!doctype html><title>Sign in</title>", "a web page with the name of a picture")
    return files


def shuffled(files: dict[str, tuple[bytes, str]]) -> list[str]:
    """File names in the order of the list: a few photographs at the head of each shard, where a contact sheet looks."""
    photos = [name for name in files if name.startswith(("photos", "odd"))]
    others = [name for name in files if name not in photos]
    names = []
    while others:
        head, photos = photos[:PHOTOS_PER_SHARD], photos[PHOTOS_PER_SHARD:]
        names += head + others[: ROWS_PER_SHARD - len(head)]
        others = others[ROWS_PER_SHARD - len(head) :]
    return names


@contextmanager
def serve(files: dict[str, tuple[bytes, str]]) -> Iterator[str]:
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


def controlmill(*arguments: str) -> None:
    """Run the command line as a user would, and show what was run."""
    print(f"\n$ controlmill {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "controlmill.cli.main", *arguments], check=True)


def main() -> None:
    """Build the demo dataset in a fresh folder."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    dataset = str(folder / "dataset")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started_s = time.monotonic()
    files = pictures()
    with serve(files) as url:
        url_list = folder / "urls.csv"
        with url_list.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["url", "caption"])
            writer.writerows([f"{url}/{name}", files[name][1]] for name in shuffled(files))
            writer.writerow([f"{url}/bad/gone.jpg", "a picture that is not there any more"])
        print(f"{len(files) + 1} pictures at {url}")
        source = ["--url-list", str(url_list), "--caption-col", "caption"]
        controlmill(
            *("build", *source, "--output-folder", dataset),
            *("--number-sample-per-shard", str(ROWS_PER_SHARD), "--annotators", "canny", "--allow-private-networks"),
        )
    contact_sheet = str(folder / "contact-sheet.png")
    controlmill("inspect", dataset, "--contact-sheet", contact_sheet)
    print(f"\nDone in {time.monotonic() - started_s:.0f} s. Look at {contact_sheet}; open the dataset with")
    print(f'  datasets.load_dataset("{dataset}", "canny")')


if __name__ == "__main__":
    main()
