"""Training runs on real gloo ranks, without Ray: one process per rank, several runs one after the other in each."""

import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

_LIMIT_S = 900.0
_LOADED_ONCE: Final = (
    "deepspeed.checkpoint",
    "deepspeed.runtime.engine",
    "diffusers.models.controlnets.controlnet",
    "diffusers.optimization",
    "tasks.read_back",
    "training.loop",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
)
"""What every rank imports, for some seconds: in one process, of which each rank is a copy."""
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
    fresh: bool = False,
) -> list[dict[str, Any]]:
    """Train each configuration on so many ranks; returns for each what rank 0 says: the outcome, or the error.

    Args:
        num_ranks: processes, connected by gloo on the loopback address.
        configs: options of `controlmill.config.TrainConfig`, without `num_workers`.
        folder: for messages and logs of the processes.
        read_back: whether the runs measure controllability with the annotators of their datasets.
        unwatched: whether they are without callbacks, though rows are held out for a probe.
        fresh: whether the ranks import everything themselves, as where the test has changed what is read at an import.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "configs.json").write_text(json.dumps([{**config, "num_workers": num_ranks} for config in configs]))
    run_args = (folder, read_back, unwatched)
    context: SpawnContext | ForkServerContext = get_context("spawn") if fresh else get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED_ONCE))
    processes = [
        context.Process(target=_be_a_rank, args=(environment, *run_args)) for environment in _environments(num_ranks)
    ]
    deadline_s = time.monotonic() + _LIMIT_S
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join(max(0.0, deadline_s - time.monotonic()))
        codes = [process.exitcode for process in processes]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    if codes != [0] * num_ranks:
        logs = [_log_of(folder, rank).read_text(errors="replace")[-3000:] for rank in range(num_ranks)]
        raise RuntimeError("\n".join([f"exit codes {codes}", *logs]))
    outcomes: list[dict[str, Any]] = json.loads((folder / "outcomes.json").read_text())
    return outcomes


def _environments(num_ranks: int) -> list[dict[str, str]]:
    """This process's environment with what `torch.distributed` reads, for each rank."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_ranks)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_ranks)]


def _log_of(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.log"


def _be_a_rank(environment: Mapping[str, str], folder: Path, read_back: bool, unwatched: bool) -> None:  # noqa: FBT001
    os.environ.clear()
    os.environ.update(environment)
    log = os.open(_log_of(folder, int(environment["RANK"])), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
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

    torch.set_num_threads(1)
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
