"""`make demo`: the whole way, from URLs to a ControlNet that is caught converging, on this machine and without network.

A web server with generated and real pictures (and a few bad apples), then the commands as a user types them: build,
inspect, encode, train on two workers, report. Usage: python examples/demo.py [FOLDER] [--retrain]
"""

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

from demo_pictures import ROWS_PER_SHARD, pictures, serve, shuffled, small_discs, write_list

EXAMPLES = Path(__file__).resolve().parent
SIZE = 128
NUM_SMALL_DISCS = 1024
SMALL_PER_SHARD = 256
NUM_UPDATES = 300


def step(title: str) -> None:
    """Say what comes now."""
    print(f"\n=== {title}", flush=True)


def controlmill(*arguments: str) -> None:
    """Run the command line as a user would, and show what was run."""
    print(f"$ controlmill {' '.join(arguments)}", flush=True)
    subprocess.run([sys.executable, "-m", "controlmill.cli.main", *arguments], check=True)


def look_at_the_web(folder: Path) -> Path:
    """A dataset of photographs, drawings and bad apples; returns its contact sheet."""
    files = pictures()
    dataset, sheet = str(folder / "dataset"), folder / "contact-sheet.png"
    with serve(files) as url:
        rows = [(f"{url}/{name}", files[name][1]) for name in shuffled(files)]
        rows.append((f"{url}/bad/gone.jpg", "a picture that is not there any more"))
        write_list(folder / "urls.csv", rows)
        step(f"1 of 5: {len(rows)} pictures of all kinds at {url}, with their edges")
        controlmill(
            *("build", "--url-list", str(folder / "urls.csv"), "--caption-col", "caption", "--output-folder", dataset),
            *("--number-sample-per-shard", str(ROWS_PER_SHARD), "--annotators", "canny", "--allow-private-networks"),
        )
    controlmill("inspect", dataset, "--contact-sheet", str(sheet))
    print(f"look at it: {sheet}")
    return sheet


def build_discs(folder: Path) -> str:
    """The dataset that is trained on: discs with their prompts and edges; returns its folder."""
    dataset = str(folder / "discs")
    files = small_discs(NUM_SMALL_DISCS, SIZE)
    with serve(files) as url:
        write_list(folder / "discs.csv", [(f"{url}/{name}", caption) for name, (_, caption) in files.items()])
        step(f"2 of 5: {len(files):,} discs to train on")
        controlmill(
            *("build", "--url-list", str(folder / "discs.csv"), "--caption-col", "caption", "--output-folder", dataset),
            *("--image-size", str(SIZE), "--encode-format", "png", "--number-sample-per-shard", str(SMALL_PER_SHARD)),
            *("--annotators", "canny", "--allow-private-networks"),
        )
    return dataset


def train(dataset: str, base: Path, run: Path) -> None:
    """Latents once for all epochs, then a ControlNet on two workers."""
    step("3 of 5: latents and prompts, encoded once for all epochs")
    controlmill("encode", dataset, "--pretrained-model-name-or-path", str(base), "--resolution", str(SIZE))
    step("4 of 5: a ControlNet on two workers; wait for the sudden convergence")
    controlmill(
        *("train", dataset, "--condition", "canny", "--pretrained-model-name-or-path", str(base)),
        *("--output-dir", str(run), "--resolution", str(SIZE), "--num-workers", "2", "--zero-stage", "2"),
        *("--train-batch-size", "8", "--max-train-steps", str(NUM_UPDATES), "--learning-rate", "1e-4"),
        *("--hint-init", "kaiming", "--hint-channels", "8,8,16,32", "--min-timestep", "300"),
        *("--num-probe-rows", "24", "--num-controllability-rows", "24", "--probe-steps", "10"),
        *("--checkpointing-steps", str(NUM_UPDATES)),
    )


def main() -> None:
    """Tell the story in a fresh folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", default="demo", type=Path)
    parser.add_argument("--retrain", action="store_true", help="train the small Stable Diffusion anew too: 3 minutes")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started_s = time.monotonic()
    base = EXAMPLES / "tiny_sd" / "base"
    sheet = look_at_the_web(folder)
    dataset = build_discs(folder)
    if arguments.retrain:
        base = folder / "base"
        step("a small Stable Diffusion from nothing")
        script = EXAMPLES / "tiny_sd" / "make.py"
        print(f"$ python {script.relative_to(EXAMPLES.parent)} {base}", flush=True)
        subprocess.run([sys.executable, str(script), str(base)], check=True)
    train(dataset, base, folder / "run")
    step("5 of 5: what happened, on one page")
    report = folder / "report.html"
    controlmill("report", str(folder / "run"), "--out", str(report))
    print(f"\nDone in {time.monotonic() - started_s:.0f} s.\nFirst pictures: {sheet}\nThe whole story: {report}")


if __name__ == "__main__":
    main()
