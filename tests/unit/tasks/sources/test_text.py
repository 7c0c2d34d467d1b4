import subprocess
import sys
from pathlib import Path

import pytest

ENDS_EARLY = """
import io, time
import pyarrow as pa
from tasks.sources.rows import Columns
from tasks.sources.text import Table

class Slow(io.BytesIO):
    num_reads = 0
    def read(self, size=-1):
        self.num_reads += 1
        time.sleep(0.5 if self.num_reads > 2 else 0)
        return super().read(size)

table = Table(",", Columns("url"))
file = Slow(b"url\\n" + b"http://a.example/1.jpg\\n" * 500_000)
"""
HEADER = "table.schema(file, 'a.csv')"
ROWS = "next(table.iter_rows(file, pa.schema([('key', pa.string()), ('url', pa.string())]), 'a.csv'))"


@pytest.mark.parametrize("reads", [HEADER, ROWS])
def test_the_process_ends_well_while_arrow_reads_ahead(tmp_path: Path, reads: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDS_EARLY + reads)
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")
