"""Reading Parquet files of any size in bounded memory."""

from typing import Any

import pyarrow.parquet as pq

_BUFFER_BYTES = 1024 * 1024


def open_parquet(source: Any) -> pq.ParquetFile:
    """A Parquet file whose batches are read as they are asked for.

    pyarrow's default, `pre_buffer`, fetches the wanted columns of the whole file with the first batch and keeps them
    until the last one (measured with pyarrow 26 on 10 million URLs: 630 MB against 14 MB). Column chunks are read
    through a buffer, because foreign files have row groups of a million rows.
    """
    return pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER_BYTES)
