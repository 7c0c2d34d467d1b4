"""All checks, side by side: the engines take ten seconds to start, and torch a few to be imported."""

import logging
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from controlmill.config import EngineOptions
from flows.doctor import data, engines, machine, packages
from flows.doctor.finding import Check, Finding


def examine(options: EngineOptions, uri: str) -> Iterator[Finding]:
    """Look at everything; yields findings in a fixed order, as soon as they and those before them are there.

    `uri`: where a dataset or a run is to be written.
    """
    logging.disable(logging.WARNING)  # libraries would write beside the table
    quick: list[Check] = [packages.python, packages.libraries, packages.names]
    slow: list[Check] = [machine.gpus, machine.compiler, machine.limits, partial(data.storage, uri)]
    slow += [data.weights, data.environments]
    with ThreadPoolExecutor(len(slow), thread_name_prefix="doctor") as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for check in quick:
            yield from _run(check)
        running = [pool.submit(_run, check) for check in slow]
        # Ray sets signal handlers: the main thread is its place
        of_engines = _run(partial(engines.ray_and_prefect, options))
        for future in running:
            yield from future.result()
        yield from of_engines


def _run(check: Check) -> list[Finding]:
    findings: list[Finding] = []
    try:
        findings.extend(check())
    # a broken library raises anything at its import, and that is what is to be found out
    except Exception as error:  # noqa: BLE001 - see above
        name = getattr(check, "func", check).__name__.replace("_", " ")
        text = " ".join(f"{type(error).__name__}: {error}".split())
        findings.append(Finding(name, "problem", text, "reinstall: pip install --constraint constraints.txt …"))
    return findings
