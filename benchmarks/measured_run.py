"""Run a command and say what it cost: wall time, CPU time and memory of all of its processes together.

CPU time comes from a cgroup (v1 cpuacct, or v2), which also counts daemons and processes that were killed; this needs
root. Memory is sampled: the sum of proportional set sizes, so that shared pages count once, and the largest process.
"""

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

_SAMPLE_S = 0.25


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run cost."""

    wall_s: float
    cpu_s: float
    peak_sum_bytes: int
    peak_process_bytes: int


class CpuGroup:
    """A cgroup of this benchmark's own."""

    def __init__(self) -> None:
        version_1 = Path("/sys/fs/cgroup/cpuacct")
        root = version_1 if version_1.is_dir() else Path("/sys/fs/cgroup")
        self._folder = root / f"controlmill-{os.getpid()}"
        self._is_v1 = root == version_1

    def __enter__(self) -> Self:
        self._folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        while self.pids():
            time.sleep(0.1)
        self._folder.rmdir()

    def join(self) -> None:
        """Put the calling process into the group."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))

    def pids(self) -> list[int]:
        """Processes of the group."""
        return [int(pid) for pid in (self._folder / "cgroup.procs").read_text().split()]

    def cpu_s(self) -> float:
        """CPU seconds, user and system, of all that ever ran in the group."""
        if self._is_v1:
            return int((self._folder / "cpuacct.usage").read_text()) / 1e9
        fields = dict(line.split() for line in (self._folder / "cpu.stat").read_text().splitlines())
        return int(fields["usage_usec"]) / 1e6


def run(command: Sequence[str], log_path: Path, environment: dict[str, str] | None = None) -> Cost:
    """Run `command` to its end, output to `log_path`; raise `CalledProcessError` when it fails."""
    with CpuGroup() as group:
        started_s = time.monotonic()
        with log_path.open("wb") as log_file:
            process = subprocess.Popen(
                command,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                preexec_fn=group.join,  # noqa: PLW1509 - one thread, one system call
                env={**os.environ, **(environment or {})},
            )
        peak_sum = peak_process = 0
        while process.poll() is None:
            sizes = [_pss_bytes(pid) for pid in group.pids()]
            peak_sum = max(peak_sum, sum(sizes))
            peak_process = max(peak_process, *sizes, 0)
            time.sleep(_SAMPLE_S)
        wall_s = time.monotonic() - started_s
        while group.pids():
            time.sleep(0.1)
        if process.returncode:
            raise subprocess.CalledProcessError(
                process.returncode, command, log_path.read_text(errors="replace")[-2000:]
            )
        return Cost(wall_s, group.cpu_s(), peak_sum, peak_process)


def heading(title: str) -> list[str]:
    """The first lines of a result file: what was measured, when, of which commit, where."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return [f"# {title}", "", f"{day}, commit {_commit()}, {_machine()}.", ""]


def _machine() -> str:
    model = "unknown CPU"
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{os.cpu_count()} cores ({model}), Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


def _commit() -> str:
    return subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()


def _pss_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
