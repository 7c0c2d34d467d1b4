"""A digest of rows that does not depend on how they are cut into batches, and can be taken at any row.

Each column is two streams that concatenate by nature: the lengths (or validity) of its values, and the bytes of its
values. Each stream has a running SHA-256; no row becomes a Python object.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class RowsDigest:
    """Running digest of record batches of one schema."""

    def __init__(self) -> None:
        self._streams: dict[str, Any] = {}
        self.num_rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self.num_rows += batch.num_rows
        for field, column in zip(batch.schema, batch.columns, strict=True):
            self._feed(f"{field.name}:{field.type}", column)

    def hexdigest(self) -> str:
        """The digest of the rows until now."""
        total = hashlib.sha256(str(self.num_rows).encode())
        for name, stream in sorted(self._streams.items()):
            total.update(name.encode() + b"\0" + stream.digest())
        return total.hexdigest()

    def _feed(self, path: str, array: pa.Array) -> None:
        kind = array.type
        if pa.types.is_string(kind) or pa.types.is_binary(kind):
            self._text(path, array, np.int32)
        elif pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
            self._text(path, array, np.int64)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            self._lengths(path, pc.list_value_length(array))
            self._feed(f"{path}/items", array.drop_null().flatten())
        elif pa.types.is_struct(kind):
            self._validity(path, array)
            for field, child in zip(kind, array.drop_null().flatten(), strict=True):
                self._feed(f"{path}/{field.name}", child)
        elif pa.types.is_boolean(kind):
            self._feed(path, array.cast(pa.uint8()))
        elif pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_fixed_size_binary(kind):
            self._validity(path, array)
            self._stream(f"{path}/values", _fixed(array.drop_null()))
        else:  # maps, unions, views: rare, and worth no code
            self._stream(path, "".join(f"{value!r}\0" for value in array.to_pylist()).encode())

    def _text(self, path: str, array: pa.Array, offset_type: type[np.signedinteger[Any]]) -> None:
        if array.null_count == len(array):  # most columns of most sources
            self._stream(f"{path}/lengths", np.full(len(array), -1, np.int64))
            self._stream(f"{path}/values", b"")
        elif array.null_count == 0:
            edges = _edges(array, offset_type)
            self._stream(f"{path}/lengths", np.diff(edges).astype(np.int64))
            self._stream(f"{path}/values", _joined(array, edges))
        else:
            self._lengths(path, pc.binary_length(array))
            present = array.drop_null()
            self._stream(f"{path}/values", _joined(present, _edges(present, offset_type)))

    def _lengths(self, path: str, lengths: pa.Array) -> None:
        filled = lengths.cast(pa.int64()).fill_null(-1)
        self._stream(f"{path}/lengths", filled.to_numpy(zero_copy_only=False).tobytes())

    def _validity(self, path: str, array: pa.Array) -> None:
        self._stream(f"{path}/valid", array.is_valid().to_numpy(zero_copy_only=False).tobytes())

    def _stream(self, name: str, data: Any) -> None:
        stream = self._streams.get(name)
        if stream is None:
            stream = self._streams[name] = hashlib.sha256()
        stream.update(data)


def _edges(array: pa.Array, offset_type: type[np.signedinteger[Any]]) -> "np.ndarray[Any, np.dtype[Any]]":
    """Where the values of an array of text or binary begin and end, one more than there are values."""
    offsets = np.frombuffer(array.buffers()[1], dtype=offset_type)
    return offsets[array.offset : array.offset + len(array) + 1]


def _joined(array: pa.Array, edges: "np.ndarray[Any, np.dtype[Any]]") -> Any:
    """The bytes of all values of an array of text or binary without nulls, one after the other."""
    data = array.buffers()[2]
    return b"" if data is None else data.slice(int(edges[0]), int(edges[-1] - edges[0]))


def _fixed(array: pa.Array) -> Any:
    """The bytes of all values of an array of fixed width without nulls."""
    data = array.buffers()[1]
    if len(array) == 0 or data is None:
        return b""
    width = array.type.bit_width // 8
    return data.slice(array.offset * width, len(array) * width)
