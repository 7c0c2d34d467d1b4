"""Planning and bookkeeping of 10 million rows in 100,000 shards: time and memory of planning, resuming, inspecting.

Usage: python benchmarks/scale_simulation.py [--rows 10000000] [--shards 100000] [--folder DIR] [--out FILE.md]

Planning is the real thing: every source shard is a Parquet file with its commit record. What pulling would have made
is stubs: a record as pulling writes it beside a Parquet file of a few bytes, which nothing here reads. Nothing is
synced to the disk, planning included, unless `--sync` is given: an fsync costs what the disk makes it cost. Each
measured step is a process of its own with the code that a flow runs; without Ray, Prefect and pulling.
Needs about 3 GB of disk at the full size, and half an hour, most of it for the stubs.
"""

import argparse
import contextlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from measured_run import heading
from plan_source import write_source

from controlmill.config import BuildConfig
from storage.dataset import Dataset
from storage.record import CommitRecord, LayerInput, UnitDescription


def config_of(folder: Path, rows_per_shard: int) -> BuildConfig:
    """The build that is simulated."""
    return BuildConfig(
        url_list=str(folder / "urls.parquet"),
        caption_col="caption",
        output_folder=str(folder / "dataset"),
        number_sample_per_shard=rows_per_shard,
        annotators=("canny",),
    )


def plan(config: BuildConfig) -> str:
    """Plan the source, as a build does first."""
    from tasks.stages import planned_shards

    return f"{sum(1 for _ in planned_shards(Dataset(config.output_folder), config)):,} shards planned"


def resume(config: BuildConfig) -> str:
    """Find what is missing, as a build that is run again does before its first job."""
    from flows.jobs import JobMaker, Jobs
    from flows.planner import BackgroundPlanner
    from flows.report import BuildReport
    from tasks.recipe import annotators, layer_fingerprints
    from tasks.stages import Stages, planned_shards

    dataset = Dataset(config.output_folder)
    with dataset.lock(), BackgroundPlanner(lambda: planned_shards(dataset, config)) as planner:
        dataset.remove_leftovers()
        planner.check(None)
        stages = Stages(dataset, layer_fingerprints(dataset, config))
        jobs = Jobs(planner, stages, JobMaker(dataset, config, annotators(config), None, 2, None), {}, BuildReport(""))
        num_jobs = 0
        while not jobs.exhausted:
            num_jobs += jobs.next_job("pull") is not None
    return f"{jobs.report.num_shards_before:,} shards complete, {num_jobs:,} jobs for the others"


def inspect(config: BuildConfig) -> str:
    """What `controlmill inspect` prints."""
    from controlmill.cli import inspect as command

    with contextlib.redirect_stdout(sys.stderr):
        command.run(config.output_folder, None, 0, as_json=False)
    return "all records counted"


def card(config: BuildConfig) -> str:
    """Write the dataset card, as a build does last."""
    from storage.card import write_card

    write_card(Dataset(config.output_folder))
    return "card written"


STEPS: dict[str, Callable[[BuildConfig], str]] = {"plan": plan, "resume": resume, "inspect": inspect, "card": card}


def write_stubs(config: BuildConfig) -> None:
    """What pulling would have left: records of `image` and of a layer made from it."""
    from tasks.annotators.registry import create
    from tasks.recipe import image_fingerprint, image_recipe, layer_fingerprint

    dataset = Dataset(config.output_folder)
    image = image_fingerprint(image_recipe(config))
    canny = create("canny", {}, config.seed)
    prints = {"image": image, "canny": layer_fingerprint(canny, image)}
    for layer in prints:
        Path(dataset.layer(layer).folder).mkdir()
    for source in dataset.layer("source").iter_records():
        for layer, fingerprint in prints.items():
            failed = source.rows // 10 if layer == "image" else 0
            made_from = LayerInput(fingerprint=image, sha256=f"{source.shard:064x}")
            record = CommitRecord(
                count=source.rows, successes=source.rows - failed, failed_to_download=failed, layer=layer,
                shard=source.shard, rows=source.rows - failed, num_bytes=4, sha256=f"{source.shard:064x}",
                fingerprint=fingerprint, duration=61.1, start_time=1.7e9, end_time=1.7e9 + 61.1,
                status_dict={"success": source.rows - failed, "failed_to_download": failed},
                reasons={"http_404": failed // 2, "timeout": failed - failed // 2} if failed else {},
                hosts={f"host-{source.shard % 1000:03d}-{n}.example.org": 1 for n in range(8)} if failed else {},
                inputs={} if layer == "image" else {"image": made_from},
                unit=UnitDescription(name=layer, version="1", config=canny.recipe() if layer == "canny" else {}),
                versions={"pyarrow": "26.0.0", "opencv": "4.14.0", "numpy": "2.4.0", "pillow": "12.0.0"},
            )  # fmt: skip
            target = dataset.layer(layer)
            Path(target.path(source.shard)).write_bytes(b"stub")
            Path(target.record_path(source.shard)).write_bytes(record.to_json())


def make_incomplete(config: BuildConfig) -> None:
    """Uncommit every hundredth shard of `image`, and of `canny` others."""
    dataset = Dataset(config.output_folder)
    for layer, first in (("image", 0), ("canny", 50)):
        for status in list(dataset.layer("source").statuses())[first::100]:
            dataset.layer(layer).delete_record(status)


def measured(step: str, arguments: argparse.Namespace, folder: Path, note: str) -> str:
    """Run a step in a process of its own; a row of the table."""
    rows = -(-arguments.rows // arguments.shards)
    command = [sys.executable, __file__, "--step", step, "--folder", str(folder), "--shard-rows", str(rows)]
    done = subprocess.run(
        [*command, *(["--sync"] if arguments.sync else [])], check=True, stdout=subprocess.PIPE, text=True
    )
    said, wall, cpu, memory = done.stdout.strip().splitlines()[-1].split("|")
    line = f"| {step}: {note} | {said} | {wall} | {cpu} | {memory} | {os.getloadavg()[0]:.0f} |"
    print(line, flush=True)
    return line


def run_step(arguments: argparse.Namespace) -> None:
    """Do one step, and print what it cost."""
    if not arguments.sync:
        os.fsync = lambda _descriptor: None
    config = config_of(arguments.folder, arguments.shard_rows)
    started_s = time.monotonic()
    said = STEPS[arguments.step](config)
    wall_s = time.monotonic() - started_s
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{said}|{wall_s:.1f}|{usage.ru_utime + usage.ru_stime:.1f}|{peak_kib() / 1024:.0f}")


def peak_kib() -> int:
    """Peak memory of this process; what getrusage says may be its parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def simulate(folder: Path, arguments: argparse.Namespace) -> list[str]:
    """All steps, in the order of a dataset's life."""
    config = config_of(folder, -(-arguments.rows // arguments.shards))
    write_source(folder / "urls.parquet", arguments.rows)
    lines = [measured("plan", arguments, folder, "with fsync" if arguments.sync else "without fsync")]
    lines.append(measured("resume", arguments, folder, "nothing is pulled"))
    write_stubs(config)
    # whoever resumes first reads every record and writes the indexes
    notes = (("inspect", "no index yet"), ("resume", "no index yet"), ("resume", "complete"), ("inspect", "complete"))
    lines += [measured(step, arguments, folder, note) for step, note in (*notes, ("card", "complete"))]
    make_incomplete(config)
    lines += [measured(step, arguments, folder, "2 % is missing") for step in ("resume", "inspect")]
    return lines


def main() -> None:
    """Simulate, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where the dataset goes; a temporary folder by default")
    parser.add_argument("--sync", action="store_true", help="sync planned shards to the disk, as a build does")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--step", choices=tuple(STEPS), help=argparse.SUPPRESS)
    parser.add_argument("--shard-rows", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments)
        return
    lines = heading("Planning and bookkeeping at scale")
    lines += [
        f"{arguments.rows:,} rows in {arguments.shards:,} shards. Source, image and canny have a record for each;",
        "image and canny are stubs. No Ray, no Prefect, nothing is pulled: planning, bookkeeping. Load is that of the",
        "machine over the last minute: with other work on it, CPU seconds say more than wall seconds.",
        "",
        "| step | what came of it | wall s | CPU-s | peak memory, MiB | load |",
        "|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        lines += simulate(Path(folder), arguments)
    text = "\n".join([*lines, ""])
    print(text)
    if arguments.out:
        arguments.out.write_text(text)


if __name__ == "__main__":
    main()
