import json
from dataclasses import dataclass

import pyarrow as pa
import pytest

from controlmill.errors import ConfigError
from storage.schema import (
    check_extra_columns,
    extra_fields,
    failure_schema,
    image_features_metadata,
    image_schema,
    image_struct,
    layer_schema,
    source_schema,
)


@dataclass(frozen=True)
class Options:
    extract_exif: bool = True
    compute_hash: str | None = "sha256"


EXTRA = [pa.field("similarity", pa.float32()), pa.field("tags", pa.list_(pa.string()))]


def features(schema: pa.Schema) -> dict[str, object]:
    found = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert isinstance(found, dict)
    return found


def test_image_columns_small_ones_first() -> None:
    assert image_schema(Options(), EXTRA).names == [
        "key", "url", "caption", "status", "error_message", "width", "height", "original_width", "original_height",
        "exif", "sha256", "similarity", "tags", "image",
    ]  # fmt: skip
    bare = image_schema(Options(extract_exif=False, compute_hash=None))
    assert bare.names[-2:] == ["original_height", "image"]
    assert bare.field("width").type == pa.int32()


def test_image_features_are_those_of_hugging_face() -> None:
    found = features(image_schema(Options(), EXTRA))
    assert found["image"] == {"_type": "Image"}
    assert found["width"] == {"dtype": "int32", "_type": "Value"}
    assert found["similarity"] == {"dtype": "float32", "_type": "Value"}
    assert "tags" not in found


def test_a_column_that_may_not_be_null_is_null_in_rows_that_failed() -> None:
    schema = layer_schema([pa.field("low", pa.int32(), nullable=False)])
    assert schema.field("low").nullable


def test_annotator_columns() -> None:
    schema = layer_schema([pa.field("low", pa.int32())], {"polarity": "white_on_black"})
    assert schema.names == ["key", "low", "reason", "conditioning_image"]
    assert schema.field("conditioning_image").type == image_struct()
    assert schema.metadata[b"polarity"] == b"white_on_black"
    assert features(schema)["conditioning_image"] == {"_type": "Image"}


def test_failure_and_source_columns() -> None:
    assert failure_schema(EXTRA).names == [
        "key", "url", "caption", "similarity", "tags", "status", "reason", "error_message", "http_status", "attempts",
        "host",
    ]  # fmt: skip
    schema = source_schema(EXTRA)
    assert schema.names == ["key", "url", "caption", "retry_of", "location", "expected_hash", "similarity", "tags"]
    assert extra_fields(schema) == EXTRA


def test_metadata_is_replaced_and_other_metadata_stays() -> None:
    schema = pa.schema([pa.field("a", pa.string())], metadata={"x": "y", "huggingface": "old"})
    again = image_features_metadata(schema)
    assert again.metadata[b"x"] == b"y"
    assert features(again) == {"a": {"dtype": "string", "_type": "Value"}}


def test_names_of_ours_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="save_additional_columns: 'width' is a column that controlmill writes itself"
    ):
        check_extra_columns(["width"])
    with pytest.raises(ConfigError, match="'sha256'"):
        image_schema(Options(), [pa.field("sha256", pa.string())])
    with pytest.raises(ConfigError, match="'a' is given twice"):
        check_extra_columns(["a", "b", "a"])
    assert image_schema(Options(compute_hash="md5"), [pa.field("sha256", pa.string())]).names[-2:] == [
        "sha256",
        "image",
    ]


def test_bytes_that_are_no_images_are_values() -> None:
    found = features(layer_schema([pa.field("depth", pa.binary())]))
    assert found["depth"] == {"dtype": "binary", "_type": "Value"}
    assert found["conditioning_image"] == {"_type": "Image"}
