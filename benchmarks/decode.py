"""What one picture costs, stage by stage, beside the same work done with OpenCV alone as img2dataset 1.47 does it.

    python benchmarks/decode.py [--num-rounds 15] [--photos FOLDER]

CPU time of one thread in milliseconds, median of interleaved rounds: A B A B, so that a busy machine slows both. Every
source becomes keep_ratio_largest 512, area, JPEG quality 95. The synthetic photographs carry about 1.6 bits a pixel;
`--photos` takes JPEG files of your own instead.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import cv2
import numpy as np

from controlmill.config.image import ImageOptions
from controlmill.testing.pictures import Pixels, jpeg, photo
from tasks.annotators.canny import Canny, CannyOptions
from tasks.images.area import shrink
from tasks.images.decode import Decoded, decode
from tasks.images.encode import encode, encode_map
from tasks.images.plan import Plan, plan_resize
from tasks.images.prepare import prepare, set_up
from tasks.images.resize import resize

_OPTIONS = ImageOptions(resize_mode="keep_ratio_largest", size_multiple=1)
_SIZES = ((640, 480), (1023, 767), (1600, 1200), (4000, 3000))
_TIMED_MS = 20.0


def main() -> None:
    """Measure each source and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rounds", type=int, default=15)
    parser.add_argument("--photos", type=Path, help="folder of .jpg files to measure instead of synthetic ones")
    arguments = parser.parse_args()
    set_up()
    if arguments.photos:
        sources = [path.read_bytes() for path in sorted(arguments.photos.glob("*.jpg"))]
    else:
        sources = [jpeg(photo(width, height)) for width, height in _SIZES]
    print("CPU ms per image | decode: OpenCV, ours | resize | encode | total | ours / OpenCV | Canny, its PNG")
    for data in sources:
        print(_costs(data, arguments.num_rounds))
    print("\nDifference of what is stored (before encoding) to OpenCV's full decoding and INTER_AREA")
    for data in sources:
        print(_differences(data))


def _costs(data: bytes, num_rounds: int) -> str:
    decoded, plan = _decoded(data)
    size = (plan.width, plan.height)
    full = _opencv_decode(data)
    small = resize(decoded.pixels, plan, (0, 0, 0))
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    canny = Canny(CannyOptions())
    edges = cv2.Canny(small, 100, 200)
    spent = _interleaved(
        {
            "decode cv2": lambda: _opencv_decode(data),
            "decode": lambda: decode(data, _OPTIONS),
            "resize cv2": lambda: cv2.resize(full, size, interpolation=cv2.INTER_AREA),
            "resize": lambda: resize(decoded.pixels, plan, (0, 0, 0)),
            "encode cv2": lambda: _opencv_encode(bgr),
            "encode": lambda: encode(small, _OPTIONS),
            "total cv2": lambda: _opencv_encode(cv2.resize(_opencv_decode(data), size, interpolation=cv2.INTER_AREA)),
            "total": lambda: prepare(data, _OPTIONS),
            "canny": lambda: canny([small], ["0"]),
            "map": lambda: encode_map(np.asarray(edges, dtype=np.uint8)),
        },
        num_rounds,
    )
    pairs = " | ".join(
        f"{spent[f'{stage} cv2']:6.2f} {spent[stage]:6.2f}" for stage in ("decode", "resize", "encode", "total")
    )
    name = f"{decoded.original_width}x{decoded.original_height}, {len(data) // 1000} kB"
    ratio = spent["total"] / spent["total cv2"]
    return f"{name:>21} | {pairs} | {ratio:.2f} | {spent['canny']:.2f} {spent['map']:.2f}"


def _differences(data: bytes) -> str:
    decoded, plan = _decoded(data)
    full = cv2.cvtColor(_opencv_decode(data), cv2.COLOR_BGR2RGB)
    size = (plan.width, plan.height)
    area = cv2.resize(full, size, interpolation=cv2.INTER_AREA)
    filtered = cv2.resize(decoded.pixels, size, interpolation=cv2.INTER_AREA)
    name = f"{decoded.original_width}x{decoded.original_height}"
    scale = decoded.original_width / decoded.pixels.shape[1]
    whole = _difference(resize(decoded.pixels, plan, (0, 0, 0)), area)
    filter_alone = _difference(shrink(decoded.pixels, *size), filtered)
    return f"{name:>21} | decoded at 1/{scale:.0f} | whole way: {whole} | the area filter alone: {filter_alone}"


def _difference(ours: Pixels, theirs: np.ndarray) -> str:
    difference = ours.astype(np.float64) - theirs
    squared = float((difference**2).mean())
    decibels = 10 * np.log10(255**2 / squared) if squared else float("inf")
    return f"{decibels:.1f} dB, mean {np.abs(difference).mean():.2f}, max {np.abs(difference).max():.0f} of 255"


def _decoded(data: bytes) -> tuple[Decoded, Plan]:
    decoded = decode(data, _OPTIONS)
    assert isinstance(decoded, Decoded)
    plan = plan_resize(decoded.original_width, decoded.original_height, _OPTIONS)
    assert isinstance(plan, Plan)
    return decoded, plan


def _opencv_decode(data: bytes) -> np.ndarray:
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def _opencv_encode(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, 95))[1].tobytes()


def _interleaved(functions: dict[str, Callable[[], object]], num_rounds: int) -> dict[str, float]:
    """Median CPU milliseconds of one call, each function in turn once per round."""
    repeats = {name: max(1, round(_TIMED_MS / _timed_ms(function, 1))) for name, function in functions.items()}
    spent: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(num_rounds):
        for name, function in functions.items():
            spent[name].append(_timed_ms(function, repeats[name]))
    return {name: median(values) for name, values in spent.items()}


def _timed_ms(function: Callable[[], object], repeats: int) -> float:
    started = time.thread_time()
    for _ in range(repeats):
        function()
    return max(1e-3, (time.thread_time() - started) / repeats * 1000)


if __name__ == "__main__":
    main()
