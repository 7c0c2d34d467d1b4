"""Freed memory is kept: a large block that is taken again costs the kernel nothing."""

import subprocess
import sys

_PROGRAM = """
import resource
from controlmill.heap import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        b"x" * (64 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
assert keep_freed_memory()
faults()
print(plain, faults())
"""


def test_a_large_block_that_was_freed_is_taken_again_without_a_fault() -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True)
    plain, kept = map(int, done.stdout.split())
    assert plain > 8 * 1000, "the blocks are too small to be mapped anew"
    assert kept < 1000
