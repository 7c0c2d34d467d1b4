"""Training runs on real gloo ranks, without Ray: one process per rank, several runs one after the other in each."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

_LIMIT_S = 900.0
FOLLOWED_AT_ONCE: Final = {
    "following_gain": 1e-12,
    "following_high_gain": 1e-12,
    "following_p": 0.999,
    "following_evaluations": 1,
    "probe_steps": 1,
}
"""Options of a run whose probe finds in the noise of its first updates that the condition is followed."""


def run_options(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    """Options of a short run `folder`/`name` on `folder`/dataset and `folder`/base, without a probe and preflight."""
    return {
        "train_data_dir": str(folder / "dataset"),
        "condition": ["canny"],
        "keep_empty_hints": True,
        "pretrained_model_name_or_path": str(folder / "base"),
        "output_dir": str(folder / name),
        "resolution": 64,
        "train_batch_size": 2,
        "learning_rate": 1e-3,
        "report_to": ["none"],
        "num_probe_rows": 0,
        "preflight": False,
        **options,
    }


def train_on_ranks(
    num_ranks: int,
    configs: Sequence[dict[str, Any]],
    folder: Path,
    *,
    read_back: bool = False,
    unwatched: bool = False,
) -> list[dict[str, Any]]:
    """Train each configuration on so many ranks; returns for each what rank 0 says: the outcome, or the error.

    Args:
        num_ranks: processes, connected by gloo on the loopback address.
        configs: options of `controlmill.config.TrainConfig`, without `num_workers`.
        folder: for messages and logs of the processes.
        read_back: whether the runs measure controllability with the annotators of their datasets.
        unwatched: whether they are without callbacks, though rows are held out for a probe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configs.json").write_text(json.dumps([{**config, "num_workers": num_ranks} for config in configs]))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(num_ranks),
        "OMP_NUM_THREADS": "1",
    }
    logs = [folder / f"rank-{rank}.log" for rank in range(num_ranks)]
    processes = []
    for rank, path in enumerate(logs):
        with path.open("wb") as log_file:
            processes.append(
                subprocess.Popen(  # noqa: S603 - our own module
                    [
                        sys.executable,
                        "-m",
                        "controlmill.testing.ranks",
                        str(folder),
                        *(["read-back"] if read_back else []),
                        *(["unwatched"] if unwatched else []),
                    ],
                    env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=log_file,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        codes = [process.wait(_LIMIT_S) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    if any(codes):
        raise RuntimeError("\n".join(path.read_text(errors="replace")[-3000:] for path in logs))
    outcomes: list[dict[str, Any]] = json.loads((folder / "outcomes.json").read_text())
    return outcomes


def _be_a_rank(folder: Path, *, read_back: bool, unwatched: bool) -> None:
    import dataclasses

    import torch
    import torch.distributed as dist

    from controlmill.config import TrainConfig
    from controlmill.errors import ControlmillError
    from storage.dataset import Dataset
    from tasks.read_back import read_backs_of
    from training.loop import Loop, train
    from training.place import Place
    from training.setup import assembled

    dist.init_process_group("gloo")
    place = Place(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    outcomes = []
    for config in json.loads((folder / "configs.json").read_text()):
        try:
            options = TrainConfig.model_validate(config)
            if unwatched:
                with assembled(options, place, []) as parts:
                    outcomes.append(dataclasses.asdict(Loop(parts).run_to_end()))
                continue
            read_backs = read_backs_of(Dataset.open(options.train_data_dir), options.condition) if read_back else {}
            outcomes.append(dataclasses.asdict(train(options, place, read_backs)))
        except ControlmillError as error:
            outcomes.append({"error": type(error).__name__, "message": str(error)})
    if place.is_first:
        (folder / "outcomes.json").write_text(json.dumps(outcomes))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    _be_a_rank(Path(sys.argv[1]), read_back="read-back" in sys.argv[2:], unwatched="unwatched" in sys.argv[2:])
