# ruff: noqa: INP001 - a script, in no package
"""Write constraints.txt from a report of pip's resolver: `name==version` lines, sorted, and nothing of the machine.

Usage: python .ci/constraints.py REPORT.json constraints.txt (`make lock` does it all)
"""

import json
import sys
from pathlib import Path

HEADER = "# Versions that work together, for Python 3.11 to 3.13. Written by `make lock`; do not edit.\n"


def constraints(report: dict[str, list[dict[str, dict[str, str]]]]) -> list[str]:
    """One line for each distribution that pip would install, but the project itself."""
    found = [(item["metadata"]["name"], item["metadata"]["version"]) for item in report["install"]]
    lines = [f"{name}=={version}" for name, version in found if name != "controlmill"]
    return sorted(lines, key=str.lower)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_text(HEADER + "\n".join(constraints(json.loads(source.read_text()))) + "\n")
