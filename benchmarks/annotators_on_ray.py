"""What an annotator takes more than its network when it works where it does in a run: in an actor on Ray.

    python benchmarks/annotators_on_ray.py [--num-rounds 5] [--batch-size 2] [--num-rows 16] [--out FILE]

As benchmarks/annotators.py: 512x512 pictures, HED with random weights of its real size, one thread, one actor, and the
bare loop beside each round gives the same network as many tensors, in the same batches, in this process.

- shard on an actor: `tasks.annotate_shard` with the maps of `flows.annotating.Networks`: read, decode, put the pixels
  into Ray's object store, batch, network and PNG in the actor, write and hash the Parquet file, commit.
- annotate: the flow `annotate_dataset` on Ray and a Prefect server, once with `--num-rows` rows and once with three
  times as many. Told is the difference of the two, so that what every run costs once (starting an actor, loading
  weights, asking Prefect) is not in it; Ray and the server are there before.

CPU time, from a cgroup (this needs root), of this process, actors, workers, Ray's own processes and the Prefect server;
of the bare loop, of its thread. Medians of both and of their ratios. A quiet machine is needed: what Ray and Prefect do
while they wait counts, and they wait longer on a busy one.
"""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

# for the actor, and before torch is imported
os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import torch
from measured_run import CpuGroup, heading

from controlmill.config import AnnotateConfig, BuildConfig, EngineOptions
from controlmill.testing.pictures import photo
from controlmill.testing.random_weights import write_weights
from flows.annotating import Networks
from flows.crews import ANNOTATE, crews
from flows.run import engines
from storage.dataset import Dataset
from tasks.annotate_shard import annotate_shard
from tasks.annotators.network import NetworkAnnotator
from tasks.annotators.registry import create
from tasks.pull_shard import pull_shard
from tasks.stages import planned_shards

_SIZE = 512
_SETTLE_S, _REST_S = 20, 30
_ONE_ACTOR = EngineOptions(device="cpu", num_actors=1, processes_count=1)

Spent = tuple[float, float]
"""CPU seconds of ours and of the bare loop, of one round."""


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--num-rows", type=int, default=16)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        os.environ["CONTROLMILL_WEIGHTS"] = folder
        write_weights(Path(folder), "ControlNetHED.pth")
        few, many = (make_dataset(Path(folder), num * arguments.num_rows) for num in (1, 3))
        bare = bare_loop(arguments.batch_size)
        with CpuGroup() as group:
            group.join()
            try:
                with engines(_ONE_ACTOR):
                    rest = at_rest(group)
                    of_shard = on_an_actor(few, arguments, bare, group)
                    of_flow = in_the_flow(few, many, arguments, bare, group)
            finally:
                group.leave()
    lines = report({"shard on an actor": (of_shard, 1), "annotate": (of_flow, 2)}, rest, arguments)
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text("\n".join([*heading("Annotators on Ray"), *lines]) + "\n")


def make_dataset(folder: Path, num_rows: int) -> Dataset:
    """One shard of JPEG images."""
    pictures = folder / f"pictures-{num_rows}"
    pictures.mkdir()
    for row in range(num_rows):
        cv2.imwrite(str(pictures / f"{row:05d}.jpg"), photo(_SIZE, _SIZE, seed=row % 16))
    config = BuildConfig(image_folder=str(pictures), output_folder=str(folder / f"dataset-{num_rows}"))
    dataset = Dataset.create(config.output_folder)
    assert list(planned_shards(dataset, config)) == [0]
    assert pull_shard(dataset, 0, config)[0].rows == num_rows
    return dataset


def hed_of(batch_size: int) -> NetworkAnnotator:
    """HED, not set up."""
    hed = create("hed", {"batch_size": batch_size})
    assert isinstance(hed, NetworkAnnotator)
    return hed


def bare_loop(batch_size: int) -> Callable[[int], float]:
    """CPU seconds of the network alone, for so many images."""
    hed = hed_of(batch_size)
    hed.setup("cpu")
    images = np.stack([photo(_SIZE, _SIZE, seed=index) for index in range(batch_size)])
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()

    def work(num_images: int) -> float:
        started_s = time.thread_time()
        with torch.inference_mode():
            for start in range(0, num_images, batch_size):
                hed.network(batch[: num_images - start])
        return time.thread_time() - started_s

    return work


def on_an_actor(
    dataset: Dataset, arguments: argparse.Namespace, bare: Callable[[int], float], group: CpuGroup
) -> list[Spent]:
    """Rounds of one shard whose network is in an actor that is there already."""
    hed = hed_of(arguments.batch_size)
    num_rows = arguments.num_rows
    with crews([hed], None, _ONE_ACTOR)[ANNOTATE] as crew:
        networks = crew.ready(timeout_s=600)
        assert isinstance(networks, Networks)

        def ours() -> None:
            (record,) = annotate_shard(dataset, 0, [hed], networks.make_maps)
            assert (record.rows, record.successes) == (num_rows, num_rows)

        # the first round wakes everything up
        return [(spent_s(group, ours), bare(num_rows)) for _ in range(arguments.num_rounds + 1)][1:]


def in_the_flow(
    few: Dataset, many: Dataset, arguments: argparse.Namespace, bare: Callable[[int], float], group: CpuGroup
) -> list[Spent]:
    """Rounds of what the flow takes for `many` more than for `few`."""
    from flows.annotate_dataset import annotate_dataset

    def annotate(dataset: Dataset) -> None:
        shutil.rmtree(Path(dataset.root) / "hed", ignore_errors=True)
        config = AnnotateConfig(
            output_folder=dataset.address,
            annotators=("hed",),
            annotator_options={"hed": {"batch_size": arguments.batch_size}},
            **_ONE_ACTOR.model_dump(),
        )
        assert annotate_dataset(config).failed.total() == 0

    rounds = []
    for _ in range(arguments.num_rounds + 1):
        more_s = spent_s(group, lambda: annotate(many)) - spent_s(group, lambda: annotate(few))
        rounds.append((more_s, bare(2 * arguments.num_rows)))
    return rounds[1:]


def at_rest(group: CpuGroup) -> float:
    """CPU seconds per second of Ray and the Prefect server when nothing is asked of them."""
    time.sleep(_SETTLE_S)
    return spent_s(group, lambda: time.sleep(_REST_S)) / _REST_S


def spent_s(group: CpuGroup, work: Callable[[], None]) -> float:
    """CPU seconds, user and system, of all processes of the group while `work` is done."""
    before_s = group.cpu_s()
    work()
    return group.cpu_s() - before_s


def report(rounds: dict[str, tuple[list[Spent], int]], rest: float, arguments: argparse.Namespace) -> list[str]:
    """The lines of the result; beside the rounds, for how many times `--num-rows` images each is."""
    lines = [
        f"ms of CPU per {_SIZE}x{_SIZE} image, HED in batches of {arguments.batch_size}, one thread, one actor;",
        f"{arguments.num_rounds} rounds of {arguments.num_rows} rows. `annotate` is the flow with three times as many",
        f"less the flow with as many. Ray and the Prefect server, asked for nothing, take {rest:.1%} of a core;",
        "that is in what is more, and is the same however many actors work.",
        "",
        "| way | bare | controlmill | more |",
        "| --- | --- | --- | --- |",
    ]
    for name, (spent, times) in rounds.items():
        num_images = arguments.num_rows * times / 1000
        ours, bare = (median(one[which] for one in spent) / num_images for which in (0, 1))
        more = median(ours_s / bare_s - 1 for ours_s, bare_s in spent)
        lines.append(f"| {name} | {bare:.0f} | {ours:.0f} | {more:+.1%} |")
    return lines


if __name__ == "__main__":
    main()
