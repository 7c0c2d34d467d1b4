"""All checks, side by side: the engines take ten seconds to start, and torch a few to be imported."""

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial

from controlmill.config import EngineOptions
from flows.doctor import data, engines, machine, packages
from flows.doctor.finding import Check, Finding

LIMIT_S = 16.0
"""With what Python takes to start and end, the whole takes less than 20 s, whoever does not answer."""
_END_S = 1.0
_PREFIX = "doctor "


def examine(options: EngineOptions, uri: str, limit_s: float = LIMIT_S) -> Iterator[Finding]:
    """Look at everything; yields findings in a fixed order, as soon as they and those before them are there.

    Args:
        options: which Ray is asked.
        uri: where a dataset or a run is to be written.
        limit_s: what has not answered by then is a problem.
    """
    logging.disable(logging.WARNING)  # libraries would write beside the table
    deadline_s = time.monotonic() + limit_s
    quick: list[Check] = [packages.python, packages.libraries, packages.names]
    slow: list[Check] = [machine.gpus, machine.compiler, machine.limits, partial(data.storage, uri)]
    # Ray's process is ended in time to say so
    slow += [data.weights, data.environments, partial(engines.ray, options, limit_s - _END_S), engines.prefect]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        running = [_Running(check) for check in slow]
        for check in quick:
            yield from _run(check)
        for one in running:
            yield from one.findings(deadline_s, limit_s)


def end(exit_code: int) -> None:
    """End the process, at once where a check is still at work.

    The interpreter's own end stops such a thread wherever it next asks for the interpreter; within native code, as in
    the import of torch, that aborts the whole process: -6 instead of `exit_code`.
    """
    if any(thread.name.startswith(_PREFIX) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


class _Running:
    """A check in a thread that may hang: see `end`."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._examine, name=_PREFIX + _name(check), daemon=True)
        self._thread.start()

    def _examine(self) -> None:
        self._found = _run(self._check)

    def findings(self, deadline_s: float, limit_s: float) -> list[Finding]:
        """What it found; that it is late, where it has not by then."""
        self._thread.join(max(0.0, deadline_s - time.monotonic()))
        if not self._thread.is_alive():
            return self._found
        remedy = "is what it asks out of reach, or this machine busy? to wait longer: controlmill doctor --timeout 120"
        return [Finding(_name(self._check), "problem", f"no answer within {limit_s:.0f} s", remedy)]


def _run(check: Check) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check())
    # a broken library raises anything at its import, and that is what is to be found out
    except Exception as error:  # noqa: BLE001 - see above
        text = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = "reinstall: pip install --constraint constraints.txt …"
        findings.append(Finding(_name(check), "problem", text, remedy))
    return findings


def _name(check: Check) -> str:
    name: str = getattr(check, "func", check).__name__
    return {"ray": "Ray", "prefect": "Prefect", "gpus": "GPU"}.get(name, name)
