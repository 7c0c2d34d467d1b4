"""The columns of each layer: small ones first, image structs last, described so that Hugging Face shows images."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import pyarrow as pa

from controlmill.errors import ConfigError

IMAGE_COLUMN = "image"
CONDITION_COLUMN = "conditioning_image"
_METADATA_KEY = b"huggingface"
_ARROW_TO_HUGGING_FACE = {"float": "float32", "double": "float64", "halffloat": "float16"}
_SCALARS = {
    "null", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
    "float64", "string", "large_string", "binary", "large_binary", "date32", "date64",
}  # fmt: skip
_RESERVED = (
    "key", "url", "caption", "retry_of", "location", "expected_hash", "status", "reason", "error_message",
    "http_status", "attempts", "host", "width", "height", "original_width", "original_height", "exif", IMAGE_COLUMN,
)  # fmt: skip


class ImageColumns(Protocol):
    """The options that decide about the columns of the image layer."""

    @property
    def extract_exif(self) -> bool:
        """Whether there is an `exif` column."""

    @property
    def compute_hash(self) -> str | None:
        """Name of the hash column, None for none."""


@cache
def image_struct() -> pa.DataType:
    """The type that Hugging Face `datasets` stores images as: encoded bytes and a file name."""
    return pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


def is_image(field: pa.Field) -> bool:
    """Whether a column holds encoded images."""
    return bool(field.type == image_struct())


def is_blob(field: pa.Field) -> bool:
    """Whether a column holds encoded images, or other bytes of their size."""
    return is_image(field) or bool(field.type == pa.binary())


def image_features_metadata(schema: pa.Schema) -> pa.Schema:
    """The schema with the `huggingface` metadata that makes its image structs Image features.

    The form is that of `datasets.Dataset.to_parquet` 5.2; columns of nested types are left out, for `datasets` tells
    them from their Arrow type. Other metadata stays.
    """
    features: dict[str, Any] = {}
    for field in schema:
        if is_image(field):
            features[field.name] = {"_type": "Image"}
            continue
        name = _ARROW_TO_HUGGING_FACE.get(str(field.type), str(field.type))
        if name in _SCALARS:
            features[field.name] = {"dtype": name, "_type": "Value"}
    text = json.dumps({"info": {"features": features}})
    return schema.with_metadata({**(schema.metadata or {}), _METADATA_KEY: text.encode()})


def check_extra_columns(names: Sequence[str], reserved: Sequence[str] = ()) -> None:
    """Refuse additional columns that carry the name of one of ours, or appear twice.

    Raises:
        ConfigError: naming the column.
    """
    for name in names:
        if name in _RESERVED or name in reserved:
            raise ConfigError(f"save_additional_columns: {name!r} is a column that controlmill writes itself")
        if list(names).count(name) > 1:
            raise ConfigError(f"save_additional_columns: {name!r} is given twice")


def source_schema(extra: Sequence[pa.Field] = ()) -> pa.Schema:
    """Columns of the `source` layer: what was planned."""
    names = ("key", "url", "caption", "retry_of", "location", "expected_hash")
    return pa.schema([*(pa.field(name, pa.string()) for name in names), *extra])


def image_schema(config: ImageColumns, extra: Sequence[pa.Field] = ()) -> pa.Schema:
    """Columns of the `image` layer, in img2dataset's names.

    Raises:
        ConfigError: an additional column is named as one of ours.
    """
    hashes = (config.compute_hash,) if config.compute_hash else ()
    check_extra_columns([field.name for field in extra], hashes)
    fields = [pa.field(name, pa.string()) for name in ("key", "url", "caption", "status", "error_message")]
    fields += [pa.field(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
    if config.extract_exif:
        fields.append(pa.field("exif", pa.string()))
    fields += [pa.field(name, pa.string()) for name in hashes]
    return image_features_metadata(pa.schema([*fields, *extra, pa.field(IMAGE_COLUMN, image_struct())]))


def layer_schema(columns: Sequence[pa.Field] = (), metadata: dict[str, str] | None = None) -> pa.Schema:
    """Columns of an annotator's layer; `columns` and `metadata` (polarity, channel order) are the annotator's own."""
    # a row that failed has null in all of them, whatever the annotator declares
    columns = [column.with_nullable(True) for column in columns]
    fields = [
        pa.field("key", pa.string()),
        *(field for field in columns if not is_blob(field)),
        pa.field("reason", pa.string()),
        *(field for field in columns if is_blob(field)),
        pa.field(CONDITION_COLUMN, image_struct()),
    ]
    return image_features_metadata(pa.schema(fields, metadata=metadata))


def failure_schema(extra: Sequence[pa.Field] = ()) -> pa.Schema:
    """Columns of a failures file: the rows of a shard that have no image."""
    text = [pa.field(name, pa.string()) for name in ("key", "url", "caption")]
    causes = [
        pa.field("status", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("http_status", pa.int32()),
        pa.field("attempts", pa.int32()),
        pa.field("host", pa.string()),
    ]
    return pa.schema([*text, *extra, *causes])


def extra_fields(schema: pa.Schema) -> list[pa.Field]:
    """The additional columns in a schema of the `source` layer."""
    own = set(source_schema().names)
    return [field for field in schema if field.name not in own]
