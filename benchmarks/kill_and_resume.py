"""Ten kills in a row, of a Ray worker, of the flow's process and of the whole tree in turn, each with a resume.

Usage: python benchmarks/kill_and_resume.py [--kills 10] [--out benchmarks/results/NAME.md]

Runs the end-to-end test of the same claim with more rounds: at the end the Parquet files are those of a run that nobody
disturbed, byte for byte, and every row is there once.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from measured_run import heading

TEST = "tests/e2e/test_kill.py::test_kills_change_nothing"


def main() -> None:
    """Run the test and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    started_s = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "3600", TEST]
    environment = {**os.environ, "CONTROLMILL_NUM_KILLS": str(arguments.kills)}
    done = subprocess.run(command, check=False, env=environment, cwd=Path(__file__).parent.parent)
    verdict = "byte-identical to the undisturbed run, no row lost, none twice" if done.returncode == 0 else "FAILED"
    lines = [
        *heading("Killed and resumed"),
        f"{arguments.kills} kills at random moments, each followed by the same command: of a Ray worker and then of",
        f"everything, of the flow's process, of the whole tree, in turn: {verdict}.",
        f"{time.monotonic() - started_s:.0f} s in all, start-up of Ray and Prefect included.",
        "",
    ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines))
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
