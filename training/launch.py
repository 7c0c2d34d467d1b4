"""The loop on Ray Train: workers, their restart after a failure, and what they tell the process that started them."""

import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from controlmill.errors import ControlmillError, EngineError, NonFiniteLossError, WorkerLostError
from storage.filesystem import one_line, open_files, redact
from training.board import Board
from training.checkpoints import Checkpoints
from training.process_group import ProcessGroup
from training.restart import RAY_NOTES

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.controllability_run import ReadBack
    from training.outcome import Outcome

_POLL_S = 0.25
_UNNEEDED = ("DatasetsCallback", "PlacementGroupCleanerCallback")
_PATHS = ("train_data_dir", "output_dir", "deepspeed", "offload_folder")
_WEIGHTS = ("pretrained_model_name_or_path", "controlnet_model_name_or_path", "transfer_from")


def launch(
    config: "TrainConfig",
    tell: Callable[[Mapping[str, Any]], None],
    read_backs: "Mapping[str, ReadBack] | None" = None,
    check: Callable[[], None] = lambda: None,
) -> "Outcome":
    """Train on the Ray that this process is connected to; returns when the run has ended.

    Args:
        config: the options.
        tell: called in this thread with every update and event of the run.
        read_backs: annotators by condition, for controllability; they are sent to the workers.
        check: called several times a second, between calls of Ray; what it raises ends the run.

    Raises:
        ControlmillError: what stopped the workers, or `WorkerLostError` where they died more often than `max_failures`.
    """
    # beside this process: the death of another node must not take what was told with it
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    # it is asked several times a second, which would push everybody's tasks out of the history that Ray keeps
    remote: Any = ray.remote(Board)
    board: Any = remote.options(num_cpus=0, label_selector=here, enable_task_events=False).remote()
    failed: list[BaseException] = []
    config = with_absolute_paths(with_updates(config))
    with notes_folder(config.output_dir) as folder:
        trainer = _trainer(config, board, folder, read_backs or {})

        def fit() -> None:
            try:
                trainer.fit()
            # whatever Ray raises in this thread is looked at in the other
            except BaseException as error:  # noqa: BLE001
                failed.append(error)

        # In a thread of its own it leaves Ctrl-C to this one, which ends Ray in order.
        thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            check()
            _pass_on(board, tell)
        _pass_on(board, tell)
    error: ControlmillError | None = _ask(board.failure)
    if error is not None:
        raise error
    outcome: Outcome | None = _ask(board.ending)
    if failed or outcome is None:
        raise _lost(config, failed[0] if failed else None)
    return outcome


@contextmanager
def notes_folder(output_dir: str) -> Iterator[str]:
    """Where Ray Train keeps notes while a run lasts: in a local run, whose next start clears what a killed one left."""
    files, root = open_files(output_dir)
    if not files.is_local:
        with tempfile.TemporaryDirectory(prefix="controlmill-train-") as folder:
            yield folder
        return
    notes = Path(root) / RAY_NOTES
    shutil.rmtree(notes, ignore_errors=True)
    files.make_folder(str(notes))
    try:
        yield str(notes)
    finally:
        shutil.rmtree(notes, ignore_errors=True)


def _pass_on(board: Any, tell: Callable[[Mapping[str, Any]], None]) -> None:
    for record in _ask(board.take):
        tell(record)


def _ask(method: Any) -> Any:
    try:
        return ray.get(method.remote())
    except ray.exceptions.RayError as error:
        raise EngineError(f"Ray: the connection was lost: {one_line(error)}") from error


def _lost(config: "TrainConfig", error: BaseException | None) -> WorkerLostError:
    failures = getattr(error, "worker_failures", {}) or {}
    cause = next(iter(failures.values()), error)
    said = one_line(cause) if isinstance(cause, BaseException) else "no worker said why"
    return WorkerLostError(
        f"training stopped after {config.max_failures + 1} attempts: {said[-600:]}; "
        f"go on with: output_dir={redact(config.output_dir)} resume_from_checkpoint=latest"
    )


def with_updates(config: "TrainConfig") -> "TrainConfig":
    """The same with `additional_train_steps` counted from the last checkpoint: what restarted workers go by."""
    if config.additional_train_steps is None:
        return config
    committed = Checkpoints(config.output_dir).committed()
    changes = {
        "max_train_steps": config.additional_train_steps + (committed[-1].update if committed else 0),
        "resume_from_checkpoint": "latest",
        "additional_train_steps": None,
    }
    return config.model_copy(update=changes)


def with_absolute_paths(config: "TrainConfig") -> "TrainConfig":
    """The same with paths that mean the same in every process: workers have folders of their own."""
    changed: dict[str, str] = {}
    for name in (*_PATHS, *_WEIGHTS):
        value = getattr(config, name)
        is_reference = name in _WEIGHTS and value is not None and not Path(value).expanduser().exists()
        if value is not None and "://" not in value and "::" not in value and not is_reference:
            changed[name] = str(Path(value).expanduser().absolute())
    resumed = config.resume_from_checkpoint
    if resumed and "/" in resumed and "://" not in resumed:
        changed["resume_from_checkpoint"] = str(Path(resumed).expanduser().absolute())
    return config.model_copy(update=changed)


def _trainer(
    config: "TrainConfig", board: Any, folder: str, read_backs: "Mapping[str, ReadBack]"
) -> DataParallelTrainer:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    use_gpu = resources.get("GPU", 0) > 0 if config.use_gpu is None else config.use_gpu
    launch_id = uuid.uuid4().hex
    return _Trainer(
        _work,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "board": board,
            "launch": launch_id,
            "read_backs": dict(read_backs),
        },
        scaling_config=ScalingConfig(
            num_workers=config.num_workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": _cpus(config, resources), **({"GPU": 1} if use_gpu else {})},
        ),
        backend_config=ProcessGroup("nccl" if use_gpu else "gloo"),
        run_config=RunConfig(
            name=f"train-{launch_id}",
            storage_path=folder,
            failure_config=FailureConfig(max_failures=config.max_failures),
        ),
    )


class _Trainer(DataParallelTrainer):
    """Ray's trainer without two actors that it starts beside every run.

    One keeps the datasets of Ray Data, of which there are none here. The other one removes placement groups: in Ray
    2.60 it ends its thread but not itself where the run was killed, so each such run leaves a process in the cluster.
    The groups end with the run's controller, whose they are.
    """

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [one for one in callbacks if type(one).__name__ not in _UNNEEDED]


def _cpus(config: "TrainConfig", resources: Mapping[str, float]) -> int:
    """CPUs of a worker: all of this machine for a Ray of the run's own, one where a cluster is shared."""
    if config.ray_address is not None:
        return 1
    return max(1, int(resources.get("CPU", 1)) // config.num_workers)


def _work(arguments: Mapping[str, Any]) -> None:
    """One worker, in its own process."""
    import torch
    from ray.train.torch import get_device

    from controlmill.config import TrainConfig
    from training.loop import train
    from training.place import Place

    board = arguments["board"]
    if ray.get(board.failure.remote()) is not None:
        # restarted for an error that would only come again: an orderly end lets Ray stop here
        return
    context, device = ray.train.get_context(), get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    place = Place(
        context.get_world_rank(),
        context.get_world_size(),
        device,
        arguments["launch"],
        lambda record: board.tell.remote(dict(record)),
    )
    try:
        outcome = train(TrainConfig.model_validate(arguments["config"]), place, arguments["read_backs"])
    except ControlmillError as error:
        ray.get(board.fail.remote(error))
        if place.world_size > 1 and not isinstance(error, NonFiniteLossError):
            # the other ranks may wait for this one: its death is what wakes them
            raise
        return
    if place.is_first:
        ray.get(board.finish.remote(outcome))
