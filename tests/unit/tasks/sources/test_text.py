import io
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa

from tasks.sources.rows import Columns
from tasks.sources.text import Table

SCHEMA = pa.schema([("key", pa.string()), ("url", pa.string())])
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

file = Slow(b"url\\n" + b"http://a.example/1.jpg\\n" * 500_000)
schema = pa.schema([("key", pa.string()), ("url", pa.string())])
next(Table(",", Columns("url")).iter_rows(file, schema, "a.csv"))
"""


class Watched(io.BytesIO):
    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.readers: set[threading.Thread] = set()

    def read(self, size: int | None = -1) -> bytes:
        self.readers.add(threading.current_thread())
        return super().read(size)


def test_no_thread_of_arrow_reads_a_file_of_python() -> None:
    """Where one did, a process that ended beside it was aborted now and then."""
    table, file = Table(",", Columns("url")), Watched(b"url\n" + b"http://a.example/1.jpg\n" * 500_000)
    table.schema(file, "a.csv")
    assert file.readers == {threading.current_thread()}
    file.seek(0)
    assert sum(batch.num_rows for batch in table.iter_rows(file, SCHEMA, "a.csv")) == 500_000
    assert file.readers == {threading.current_thread()}


def test_a_process_ends_well_while_arrow_reads_ahead(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(ENDS_EARLY)
    finished = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60)
    assert (finished.returncode, finished.stderr) == (0, "")
