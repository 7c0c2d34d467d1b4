"""Pictures of a page: small, whatever they were."""

import base64

import cv2
import numpy as np

from flows.page_pictures import as_jpeg


def test_a_wide_picture_becomes_a_small_jpeg() -> None:
    pixels = np.full((900, 2400, 3), (0, 0, 200), np.uint8)
    line = as_jpeg("a grid", cv2.imencode(".png", pixels)[1].tobytes())
    head, _, encoded = line.partition("base64,")
    assert head == "![a grid](data:image/jpeg;"
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(encoded.removesuffix(")")), np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    assert shown.shape == (450, 1200, 3)
    assert abs(int(shown[..., 2].mean()) - 200) < 5


def test_no_picture_is_no_line() -> None:
    assert as_jpeg("nothing", b"") == ""
    assert as_jpeg("nothing", b"no picture") == ""
