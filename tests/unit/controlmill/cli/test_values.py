"""Every spelling of a value that a command line may carry."""

import pytest

from controlmill.cli.values import Shape, is_unset, merge, read, shape_of
from controlmill.config import BuildConfig, RetryConfig
from controlmill.errors import ConfigError


def shape(field: str) -> Shape:
    return shape_of(BuildConfig.model_fields[field].annotation)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("image_size", "512", "512"),
        ("max_image_area", "inf", "inf"),
        ("caption_col", "None", None),
        ("compute_hash", "None", None),
        ("compute_hash", "md5", "md5"),
        ("url_col", "None", "None"),
        ("skip_reencode", "True", True),
        ("skip_reencode", "no", False),
        ("save_additional_columns", "a,b", ["a", "b"]),
        ("save_additional_columns", "a", ["a"]),
        ("save_additional_columns", '["a","b"]', ["a", "b"]),
        ("save_additional_columns", "['a', 'b']", ["a", "b"]),
        ("save_additional_columns", "[a,b]", ["a", "b"]),
        ("save_additional_columns", "('a','b')", ["a", "b"]),
        ("save_additional_columns", "[1,no,null]", ["1", "no", "null"]),
        ("save_additional_columns", "[]", []),
        ("verify_hash", '["md5","md5"]', ["md5", "md5"]),
        ("verify_hash", "None", None),
        ("background_color", "0,128,255", ["0", "128", "255"]),
        ("annotator_options", '{"canny": {"low_threshold": [50, 120]}}', {"canny": {"low_threshold": [50, 120]}}),
        ("annotator_options", "canny.low_threshold=50", {"canny": {"low_threshold": 50}}),
        ("captioner_options", "num_beams=5", {"num_beams": 5}),
    ],
)
def test_read(field: str, text: str, value: object) -> None:
    assert read(field, shape(field), text) == value


@pytest.mark.parametrize(
    ("field", "text", "message"),
    [
        ("skip_reencode", "maybe", "skip_reencode: takes True or False, not 'maybe'"),
        ("save_additional_columns", '["a"', "save_additional_columns: .* is not a list"),
        ("save_additional_columns", "[a]]", "save_additional_columns: .* is not a list"),
        ("annotator_options", "{canny", "annotator_options: .* is not JSON"),
        ("annotator_options", "{{}}", "annotator_options"),
    ],
)
def test_unreadable(field: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(field, shape(field), text)


def test_none_is_the_default_of_a_list() -> None:
    assert is_unset(shape("disallowed_header_directives"), "None")
    assert is_unset(shape("save_additional_columns"), None)
    assert not is_unset(shape("disallowed_header_directives"), "noai")
    assert not is_unset(shape("verify_hash"), "None")


def test_shapes() -> None:
    assert shape("image_size") == Shape("scalar", optional=False, metavar="INTEGER")
    assert shape("processes_count") == Shape("scalar", optional=True, metavar="INTEGER")
    assert shape("extract_exif") == Shape("flag", optional=False, metavar="")
    assert shape("encode_format") == Shape("scalar", False, "[jpg|png|webp]", ("jpg", "png", "webp"))
    reason = shape_of(RetryConfig.model_fields["reason"].annotation)
    assert reason.kind == "sequence"
    assert "timeout" in reason.choices


def test_merge() -> None:
    base = {"a": {"x": 1, "y": 2}, "b": 1}
    assert merge(base, {"a": {"y": 3}, "c": 4}) == {"a": {"x": 1, "y": 3}, "b": 1, "c": 4}
    assert base == {"a": {"x": 1, "y": 2}, "b": 1}
