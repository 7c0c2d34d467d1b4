"""Does the detector find sudden convergence, when, and what does it miss? Controllability of samples is the truth.

Trains ControlNets on the small Stable Diffusion of examples/tiny_sd: runs that converge, negative controls whose hints
belong to other images, runs that compare what lets it converge sooner, and one pair that measures what the probe costs.
Two processes of one thread each, about half an hour on two quiet cores. A run that is done is not done again: give the
same --folder to go on, delete RUN in it to repeat one. Beside the result it leaves the raw evaluations as JSON lines;
--again says what they give with other thresholds, without training.

Usage: python benchmarks/convergence_study.py [--folder FOLDER] [--runs a,b] [--results FOLDER] [--processes 2]
           [--first-seed N]
       python benchmarks/convergence_study.py --again RESULT.jsonl [following_high_gain=0.2] ...
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from convergence_figure import draw
from convergence_findings import findings_of
from convergence_raw import analysed_again, raw_lines
from convergence_runs import DONE, Spec, begin, prepare, run_here
from convergence_tables import tables
from measured_run import heading

from controlmill.config import parse_overrides

RESULTS = Path(__file__).resolve().parent / "results"
MIDDLE: dict[str, Any] = {"learning_rate": 3e-4}
LATE = {"min_timestep": 300}
WHILE_SEARCHING = {**LATE, "timestep_bias_until": "converged"}


def studied() -> list[Spec]:
    """Runs that should converge, and negative controls."""
    fast, slow = {"learning_rate": 1e-3}, {"learning_rate": 1e-4}
    late = {**MIDDLE, **LATE}
    return [
        Spec("fast-0", "lr 1e-3", 240, 5, {**fast, "seed": 0}),
        Spec("fast-1", "lr 1e-3", 240, 5, {**fast, "seed": 1}),
        Spec("middle-0", "lr 3e-4", 360, 8, {**MIDDLE, "seed": 0}),
        Spec("middle-1", "lr 3e-4", 360, 8, {**MIDDLE, "seed": 1}),
        Spec("slow-0", "lr 1e-4", 600, 15, {**slow, "seed": 0}),
        Spec("accumulate-0", "lr 3e-4, 4 batches", 240, 8, {**MIDDLE, "gradient_accumulation_steps": 4, "seed": 0}),
        Spec("late-fast-0", "lr 1e-3, t >= 300", 152, 4, {**fast, **LATE, "seed": 0}),
        Spec("late-middle-0", "lr 3e-4, t >= 300", 240, 6, {**late, "seed": 0}),
        Spec("late-middle-1", "lr 3e-4, t >= 300", 240, 6, {**late, "seed": 1}),
        Spec("late-slow-0", "lr 1e-4, t >= 300", 456, 12, {**slow, **LATE, "seed": 0}),
        Spec("late-slow-1", "lr 1e-4, t >= 300", 456, 12, {**slow, **LATE, "seed": 1}),
        Spec("mid-0", "lr 3e-4, t >= 300, middle only", 360, 10, {**late, "only_mid_control": True, "seed": 0}),
        Spec("gaussian-0", "lr 3e-4, t >= 300, Gaussian", 360, 10, {**late, "connection_init": "gaussian", "seed": 0}),
        Spec("unrelated-0", "lr 1e-3", 240, 8, {**fast, "seed": 0}, is_unrelated=True),
        Spec("unrelated-1", "lr 3e-4", 240, 8, {**MIDDLE, "seed": 1}, is_unrelated=True),
        Spec("unrelated-2", "lr 1e-4, t >= 300", 360, 12, {**slow, **LATE, "seed": 2}, is_unrelated=True),
        Spec("unrelated-3", "lr 1e-3, t >= 300", 150, 5, {**fast, **LATE, "seed": 3}, is_unrelated=True),
    ]


def sooner() -> list[Spec]:
    """With and without the two options, three seeds each, equally many updates, all timesteps at the end."""
    options = {
        "plain": {"hint_init": "default"},
        "range": {"hint_init": "default", **WHILE_SEARCHING},
        "init": {"hint_init": "kaiming"},
        "both": {"hint_init": "kaiming", **WHILE_SEARCHING},
    }
    return [
        Spec(f"sooner-{name}-{seed}", name, 300, 15, {**MIDDLE, **given, "seed": seed}, is_dated=False)
        for name, given in options.items()
        for seed in (10, 11, 12)
    ]


def costs() -> list[Spec]:
    """The same run with a probe at its default interval, and without one."""
    given = {"learning_rate": 1e-4, "seed": 0, "probe_steps": None}
    return [
        Spec("cost-with", "probe at its default interval", 700, 700, given, is_sampled=False),
        Spec("cost-without", "no probe", 700, 700, {**given, "num_probe_rows": 0}, is_sampled=False),
    ]


def with_seeds_from(first: int, specs: list[Spec]) -> list[Spec]:
    """The same runs with seeds that are `first` higher."""
    return [replace(spec, options={**spec.options, "seed": int(spec.options["seed"]) + first}) for spec in specs]


def run_all(specs: list[Spec], folder: Path, num_processes: int) -> None:
    """So many at a time, in processes that import torch once: the pair of `costs`, then the longest first."""
    missing = [spec for spec in specs if not (folder / spec.name / DONE).is_file()]

    def rank(spec: Spec) -> tuple[bool, int]:
        batches = spec.updates * int(spec.options.get("gradient_accumulation_steps", 1))
        return not spec.name.startswith("cost-"), -batches

    missing.sort(key=rank)
    os.environ["OMP_NUM_THREADS"] = "1"  # theirs
    with ProcessPoolExecutor(num_processes, get_context("spawn"), begin) as pool:
        list(pool.map(prepare, ("related", "unrelated"), (folder, folder)))
        for spec in missing:
            shutil.rmtree(folder / spec.name, ignore_errors=True)
        for spec, cpu_s in zip(missing, pool.map(run_here, missing, repeat(folder)), strict=True):
            print(f"{spec.name}: {cpu_s:.0f} CPU s", flush=True)


def report(folder: Path, results: Path, first_seed: int) -> None:
    """Write table, figure and raw evaluations of what is done."""
    groups = [with_seeds_from(first_seed, group) for group in (studied(), sooner(), costs())]
    studied_, sooner_, costs_ = ([spec for spec in group if (folder / spec.name / DONE).is_file()] for group in groups)
    found, compared = ([findings_of(spec, folder) for spec in group] for group in (studied_, sooner_))
    seeds = f"seeds-from-{first_seed}_" if first_seed else ""
    stem = f"convergence_study_{os.cpu_count()}-cores_{seeds}{datetime.now(UTC):%Y-%m-%d}"
    results.mkdir(parents=True, exist_ok=True)
    lines = heading("Sudden convergence: detected, dated, forecast")
    lines += tables(found, compared, {spec.name: cost(spec, folder) for spec in costs_})
    cpu_s = sum(cost(spec, folder)["cpu_s"] for spec in (*studied_, *sooner_, *costs_))
    lines += [
        "",
        f"The loops of these runs took {cpu_s:,.0f} CPU s, {cpu_s / 120:.0f} minutes of two cores; asked: 30.",
    ]
    lines += ["", f"![curves of all runs]({stem}.png)" if found else "", ""]
    (results / f"{stem}.md").write_text("\n".join(lines))
    (results / f"{stem}.jsonl").write_text("\n".join([*raw_lines([*found, *compared]), ""]))
    if found:
        draw(found, results / f"{stem}.png")
    print("\n".join(lines))


def cost(spec: Spec, folder: Path) -> dict[str, Any]:
    """What was left in done.json."""
    done: dict[str, Any] = json.loads((folder / spec.name / DONE).read_text())
    return done


def main() -> None:
    """Run what is missing, then report on what is there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "convergence-study")
    parser.add_argument("--runs", default="", help="only these, by name or the beginning of one, with commas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--first-seed", type=int, default=0, help="added to all seeds, for runs that nothing was set on"
    )
    parser.add_argument("--again", type=Path, help="analyse these raw evaluations, without training")
    parser.add_argument("options", nargs="*", metavar="OPTION=VALUE", help="thresholds for --again")
    given = parser.parse_args()
    if given.again:
        print("\n".join(analysed_again(given.again, parse_overrides(given.options))))
        return
    specs = with_seeds_from(given.first_seed, [*studied(), *sooner(), *costs()])
    # runs with other seeds have the same names
    folder = given.folder / f"seeds-from-{given.first_seed}" if given.first_seed else given.folder
    chosen = tuple(given.runs.split(","))
    started_s, before = time.monotonic(), os.times()
    run_all([spec for spec in specs if spec.name.startswith(chosen)], folder, given.processes)
    after = os.times()
    cpu_s = sum(after[:4]) - sum(before[:4])
    print(f"{time.monotonic() - started_s:.0f} s, {cpu_s:.0f} CPU s")
    report(folder, given.results, given.first_seed)


if __name__ == "__main__":
    main()
