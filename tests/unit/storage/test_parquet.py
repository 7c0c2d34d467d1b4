import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.parquet import open_parquet

NUM_GROUPS = 32
GROUP_BYTES = 1_000_000


@pytest.mark.parametrize("as_file", [False, True])
def test_what_is_read_is_not_kept(tmp_path: Path, *, as_file: bool) -> None:
    path = tmp_path / "a.parquet"
    rows = pa.table({"blob": pa.array([bytes(GROUP_BYTES // 10)] * 10, pa.binary())})
    with pq.ParquetWriter(path, rows.schema, compression="none", use_dictionary=False) as writer:
        for _ in range(NUM_GROUPS):
            writer.write_table(rows)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    with path.open("rb") as file:
        held = []
        for batch in open_parquet(file if as_file else path).iter_batches(batch_size=10):
            held.append(pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0])
            assert batch.num_rows == 10
    tracemalloc.stop()
    assert len(held) == NUM_GROUPS
    assert max(held) < 8 * GROUP_BYTES
