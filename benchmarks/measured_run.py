"""Run a command and say what it cost: wall time, CPU time and memory of all of its processes together.

CPU time comes from a cgroup (v1 cpuacct, or v2), which also counts daemons and processes that were killed; this needs
root. Memory is sampled: the sum of proportional set sizes, so that shared pages count once. What each kind of process
took of both is sampled too, and a little less than the whole: the last quarter of a second of a process is not seen.
"""

import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

_SAMPLE_S = 0.25
_IDLE = "ray::IDLE"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Part:
    """What the processes of one kind took."""

    cpu_s: float = 0.0
    peaks_bytes: list[int] = field(default_factory=list)
    """The peak of each process."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run cost."""

    wall_s: float
    cpu_s: float
    peak_sum_bytes: int
    parts: dict[str, Part]
    """By kind of process."""


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

    def leave(self) -> None:
        """Put the calling process where it was before: into the group above, or one like it."""
        (self._folder.parent / "cgroup.procs").write_text(str(os.getpid()))

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
    """Run `command` to its end, output to `log_path`; raise `RuntimeError` when it fails."""
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
        samples = _Samples()
        while process.poll() is None:
            samples.take(group.pids())
            time.sleep(_SAMPLE_S)
        wall_s = time.monotonic() - started_s
        while group.pids():
            time.sleep(0.1)
        if process.returncode:
            raise RuntimeError(f"{command} failed: {log_path.read_text(errors='replace')[-2000:]}")
        return Cost(wall_s, group.cpu_s(), samples.peak_sum_bytes, samples.parts())


@dataclass
class _Samples:
    """What was seen of the processes of one run."""

    peak_sum_bytes: int = 0
    _kinds: dict[int, str] = field(default_factory=dict)
    _cpu_s: dict[int, float] = field(default_factory=dict)
    _peaks_bytes: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def take(self, pids: Sequence[int]) -> None:
        """Look at all of them once."""
        sum_bytes = 0
        for pid in pids:
            with suppress(OSError):
                num_bytes = _pss_bytes(pid)
                sum_bytes += num_bytes
                self._peaks_bytes[pid] = max(self._peaks_bytes[pid], num_bytes)
                self._cpu_s[pid] = _cpu_s(pid)
                # what a process did last counts, not that it does nothing now
                if (kind := _kind(pid)) != _IDLE or pid not in self._kinds:
                    self._kinds[pid] = kind
        self.peak_sum_bytes = max(self.peak_sum_bytes, sum_bytes)

    def parts(self) -> dict[str, Part]:
        """By kind of process."""
        parts: dict[str, Part] = defaultdict(Part)
        for pid, kind in self._kinds.items():
            parts[kind].cpu_s += self._cpu_s[pid]
            parts[kind].peaks_bytes.append(self._peaks_bytes[pid])
        return dict(parts)


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
    """Of this working tree; a copy without its history is told in the environment."""
    return (
        os.environ.get("COMMIT")
        or subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
    )


def _pss_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _kind(pid: int) -> str:
    """What a process is: its title where it set one, else the module, script or program that it runs."""
    command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").rstrip("\0 ").split("\0")
    if command[0].startswith("ray::"):
        return command[0].split()[0]
    if not Path(command[0]).name.startswith("python"):
        return Path(command[0]).name
    arguments = command[1:]
    while arguments and arguments[0].startswith("-") and arguments[0] not in ("-m", "-c"):
        arguments = arguments[1:]
    if len(arguments) < 2 or arguments[0] not in ("-m", "-c"):
        return Path(arguments[0]).name if arguments else "python"
    return arguments[1] if arguments[0] == "-m" else arguments[1].split(";")[0].removeprefix("from ").split()[0]
