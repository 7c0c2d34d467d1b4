"""What a run counts: rows once, and what each layer lacks."""

import pytest

from controlmill.reasons import Reason
from controlmill.testing.records import record_of
from flows.report import BuildReport


def test_every_layer_that_lacks_rows_is_in_the_report() -> None:
    report = BuildReport("dataset")
    gone = record_of("image", 10, {"http_404": 2}, "http_404")
    report.add([gone, record_of("canny", 8, {"ValueError: thin": 1})], counts=True)
    report.add([record_of("hed", 8, {"RuntimeError: boom": 8})], counts=False)
    report.add([record_of("caption", 8, {"Error: mute": 2})], counts=False)
    report.add([record_of("caption", 8, {"Error: mute": 1})], counts=False)
    assert (report.num_shards, report.num_rows, report.num_images) == (1, 10, 8)
    assert report.failed == {Reason.HTTP_404: 2}
    assert {layer: lack.num_rows for layer, lack in report.lacks.items()} == {"canny": 1, "hed": 8, "caption": 3}


@pytest.mark.parametrize("order", [1, -1])
def test_of_layers_that_are_added_the_one_that_lacks_most_is_counted(order: int) -> None:
    report = BuildReport("dataset")
    report.add([record_of("canny", 8), record_of("hed", 8, {"RuntimeError: boom": 7})][::order], counts=True)
    assert (report.num_shards, report.num_rows, report.num_images) == (1, 8, 1)
    assert report.failed == {Reason.ANNOTATOR_ERROR: 7}
    assert list(report.lacks) == ["hed"]


def test_what_a_layer_lacks_is_said_in_a_line_and_in_the_table() -> None:
    report = BuildReport("dataset")
    boom = "ValueError: a [bold] image"
    report.add([record_of("hed", 8, {boom: 7})], counts=False)
    report.add([record_of("hed", 4, {boom: 3, "other": 1})], counts=False)
    report.add([record_of("caption", 8, {"x" * 1000: 1})], counts=False)
    caption, hed = report.lines()
    assert hed == "hed: 11 rows without a map (most often ValueError: a [bold] image)"
    assert caption.startswith("caption: 1 row without a caption (xxx")
    assert len(caption) < 300
    assert report.table()[4] == {"what": "hed: without a map (most often ValueError: a [bold] image)", "rows": 11}
