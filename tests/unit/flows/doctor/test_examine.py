"""A check that is still in native code when all has been said."""

import subprocess
import sys

STUCK = """
import io, sys, threading, time
import pyarrow, pyarrow.parquet
from flows.doctor import examine

inside = threading.Event()
gate = threading.Lock()
gate.acquire()


class Slow(io.BytesIO):
    def read(self, *size):
        inside.set()
        gate.acquire()
        return super().read(*size)


def stuck():
    # native code that calls Python, and has the interpreter no longer when it comes back from it
    pyarrow.parquet.read_table(pyarrow.PythonFile(Slow(b"no parquet"), mode="r"))
    yield


class LastOfAll:
    def __del__(self, go_on=gate.release, sleep=time.sleep):
        go_on()
        sleep(60)


# deleted in the middle of the interpreter's end, which waits there for the thread to come back, and to abort it
sys.last_of_all = LastOfAll()
check = examine._Running(stuck)
inside.wait()
(late,) = check.findings(0.0, 8.0)
print(late.verdict, late.found)
"""


def run(last: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", STUCK + last], capture_output=True, text=True, check=False)


def test_the_exit_code_is_ours_while_a_check_is_in_native_code() -> None:
    finished = run("examine.end(1)")
    assert (finished.returncode, finished.stdout, finished.stderr) == (1, "problem no answer within 8 s\n", "")


def test_the_interpreter_would_abort() -> None:
    # what `end` is for: where this holds no longer, it can go
    assert run("sys.exit(1)").returncode < 0
