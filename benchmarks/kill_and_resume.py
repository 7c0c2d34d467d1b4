"""Killed ten times in a row, each time at a random moment and followed by the same command.

Usage: python benchmarks/kill_and_resume.py [--kills 10] [--rows 2000] [--only NAME] [--out benchmarks/results/NAME.md]

Runs the end-to-end tests of the same claim with more rounds: at the end the Parquet files are those of a run that
nobody disturbed, byte for byte, and every row is there once. `pull` is a build with Canny; `networks` one of 2,000 rows
with Canny, HED, MiDaS, OpenPose and captions, whose networks have random weights and their real size, but for BLIP.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree as ET

from measured_run import heading

TESTS = {
    "pull": "tests/e2e/test_kill.py::test_kills_change_nothing",
    "networks": "tests/e2e/test_kill_networks.py::test_kills_change_nothing",
}
WHAT = {
    "pull": "A build with Canny.",
    "networks": "A build of {rows} rows with Canny, HED, MiDaS, OpenPose and captions.",
}
VICTIMS = {
    "pull": "of a Ray worker and then of everything, of the flow's process, of the whole tree",
    "networks": "of an actor, of the whole tree, of a Ray worker, of the flow's process",
}


def main() -> None:
    """Run the tests and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rows", type=int, default=2000, help="of the build with networks")
    parser.add_argument("--only", choices=tuple(TESTS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    environment = {
        **os.environ,
        "CONTROLMILL_NUM_KILLS": str(arguments.kills),
        "CONTROLMILL_NUM_ROWS": str(arguments.rows),
        "CONTROLMILL_ANNOTATORS": "canny,hed,midas,openpose",
    }
    lines = heading("Killed and resumed")
    failed = False
    for name in [arguments.only] if arguments.only else TESTS:
        started_s = time.monotonic()
        done, num_kills = run(TESTS[name], environment)
        failed = failed or done.returncode != 0
        verdict = "byte-identical to the undisturbed run, no row lost, none twice" if done.returncode == 0 else "FAILED"
        lines += [
            f"{WHAT[name].format(rows=arguments.rows)} {num_kills} kills at random moments, each followed by the",
            f"same command where it had ended: {VICTIMS[name]}, in turn: {verdict}.",
            f"{time.monotonic() - started_s:.0f} s in all, start-up of Ray and Prefect included.",
            "",
        ]
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join(lines))
    sys.exit(failed)


def run(test: str, environment: dict[str, str]) -> tuple[subprocess.CompletedProcess[bytes], int]:
    """Run a test; returns how it ended and how many kills it has told of: a run may be over before the last."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "told.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout", "14400", test]
        command += [f"--junitxml={told}", "-o", "junit_family=xunit1"]
        done = subprocess.run(command, check=False, env=environment, cwd=Path(__file__).parent.parent)
        properties = ET.parse(told).iter("property") if told.exists() else ()  # noqa: S314  our own file
        return done, sum(one.get("name") == "kill" for one in properties)


if __name__ == "__main__":
    main()
