"""A run into a checkpoint and back, and out of it at its end: every rank takes part."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from controlmill.errors import ConfigError, RunUnusableError
from storage.filesystem import open_files, redact
from training.checkpoints import Checkpoints, Commit
from training.decoder import DECODER_FILE, UNET_FOLDER
from training.engine import STATE_FOLDER
from training.model_card import write_model_card
from training.net_files import CONTROLNET_FOLDER
from training.run_card import recipe_of

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.callbacks.base import Callback
    from training.decoder import DecoderTraining
    from training.ema import MovingAverage
    from training.place import Place
    from training.run import Run

_EMA = "ema.pt"


@dataclass
class Trained:
    """What learns, beside the engine's ControlNets."""

    run: "Run"
    callbacks: Sequence["Callback"]
    average: "MovingAverage | None" = None
    decoder: "DecoderTraining | None" = None


def start_point(config: "TrainConfig", place: "Place", checkpoints: Checkpoints) -> tuple[str, Commit] | None:
    """The checkpoint to begin from: the last of this launch after a failure, else what was asked for.

    Raises:
        RunUnusableError: what was asked for is not there or not complete.
        ConfigError: a run is in the folder already, and was not asked to go on.
    """

    def choose() -> tuple[str, Commit] | None:
        own = [commit for commit in checkpoints.committed() if place.launch and commit.launch == place.launch]
        if own:
            return checkpoints.checked(checkpoints.address_of(own[-1].update)), own[-1]
        if config.resume_from_checkpoint == "latest" and not checkpoints.committed():
            # as diffusers does: the same command line starts a run and goes on with it
            return None
        if config.resume_from_checkpoint:
            return checkpoints.find(config.resume_from_checkpoint)
        if checkpoints.committed():
            raise ConfigError(
                f"output_dir: there is a run in {redact(config.output_dir)} already; go on with "
                "resume_from_checkpoint=latest, or give another folder"
            )
        return None

    return place.of_first(choose)


def save(trained: Trained, checkpoints: Checkpoints, tag: str = "") -> str:
    """Write a checkpoint of the run as it is, and delete those beyond the limit; returns its folder."""
    run, place = trained.run, trained.run.place
    if place.is_first:
        checkpoints.clear(run.update)
    place.barrier()
    with checkpoints.writing(run.update) as folder:
        run.engine.save(folder)
        wholes = _whole_averages(trained)
        if wholes is not None and place.is_first:
            torch.save(wholes, f"{folder}/{_EMA}")
        _save_net(trained, Path(folder), wholes)
        if trained.decoder is not None and place.is_first:
            torch.save(trained.decoder.state_dict(), f"{folder}/{DECODER_FILE}")
        place.barrier()
        sizes = place.gather(checkpoints.put(folder, run.update))
    if checkpoints.is_shared and any(other != sizes[0] for other in sizes):
        raise ConfigError(
            f"output_dir: not every worker sees the files of the others in {redact(run.output_dir)}; give a "
            "folder on a disk that all machines share, or an URI such as s3://bucket/run"
        )
    files = {name: size for part in sizes for name, size in part.items()}
    commit = Commit(
        run.update, run.samples_seen, place.world_size, run.engine.zero_stage, place.launch, files,
        run.state_dict(trained.callbacks), tag,
    )  # fmt: skip
    if place.is_first:
        run.sync()
        checkpoints.commit(commit)
        checkpoints.prune(run.config.checkpoints_total_limit)
    place.barrier()
    run.log(
        "checkpoint",
        update=run.update,
        folder=redact(checkpoints.address_of(run.update)),
        **({"tag": tag} if tag else {}),
    )
    return checkpoints.address_of(run.update)


def _whole_averages(trained: Trained) -> "list[torch.Tensor] | None":
    return None if trained.average is None else trained.run.engine.whole(trained.average.averages)


def _save_net(trained: Trained, folder: Path, averages: "Sequence[torch.Tensor] | None") -> None:
    """The ControlNet as it is (the averaged one, where there is one) in diffusers' layout, into `folder` of rank 0."""
    run = trained.run
    with run.engine.gathered():
        if not run.place.is_first:
            return
        state = {name: tensor.detach().cpu() for name, tensor in run.controlnets.state_dict().items()}
        if averages is not None:
            names = [name for name, parameter in run.controlnets.named_parameters() if parameter.requires_grad]
            state |= dict(zip(names, averages, strict=True))
        run.controlnets.save(folder / CONTROLNET_FOLDER, state)


def needs_universal(commit: Commit, place: "Place") -> bool:
    """Whether a checkpoint was divided over another number of workers."""
    return commit.zero_stage > 0 and commit.world_size != place.world_size


@contextmanager
def fetched(start: tuple[str, Commit], checkpoints: Checkpoints, place: "Place") -> Iterator[str]:
    """A checkpoint as a local folder that this number of workers can load."""
    folder, commit = start
    with ExitStack() as stack:
        local = stack.enter_context(checkpoints.local_copy(folder))
        if needs_universal(commit, place):
            local = stack.enter_context(_universal(local, place, everyone=not open_files(folder)[0].is_local))
        yield local


@contextmanager
def _universal(local: str, place: "Place", *, everyone: bool) -> Iterator[str]:
    """DeepSpeed's universal form of a checkpoint beside it, deleted after it was loaded.

    Args:
        local: the checkpoint's folder.
        place: of this worker.
        everyone: whether each rank has a copy of its own, which it converts by itself.
    """
    target = f"{local}/.universal"
    if everyone:
        _make_universal(local, target)
    else:
        place.of_first(lambda: _make_universal(local, target))
    place.barrier()
    try:
        yield target
    finally:
        place.barrier()
        if everyone or place.is_first:
            shutil.rmtree(target, ignore_errors=True)


def _make_universal(local: str, target: str) -> None:
    shutil.rmtree(target, ignore_errors=True)
    _convert(f"{local}/{STATE_FOLDER}", f"{target}/{STATE_FOLDER}")
    for name in (_EMA, DECODER_FILE):
        if Path(f"{local}/{name}").is_file():
            shutil.copyfile(f"{local}/{name}", f"{target}/{name}")


def _convert(source: str, target: str) -> None:
    Path(target).mkdir(parents=True)
    words = ["--input_folder", source, "--output_folder", target, "--inject_missing_state"]
    workers = ["--num_extract_workers", "1", "--num_merge_workers", "1"]
    done = subprocess.run(  # noqa: S603 our own module, our paths
        [sys.executable, "-m", "training.engine_files", *words, *workers],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise RunUnusableError(f"{source}: cannot be divided over another number of workers: {' '.join(last)}")


def restore(trained: Trained, commit: Commit, folder: str) -> None:
    """Take over a checkpoint: weights, moments, averages, data position, and what callbacks know."""
    run = trained.run
    if commit.zero_stage != run.engine.zero_stage:
        raise ConfigError(
            f"zero_stage: the checkpoint was written with {commit.zero_stage}, this run has {run.engine.zero_stage}; "
            f"give zero_stage={commit.zero_stage}"
        )
    run.engine.load(folder)
    run.update, run.samples_seen = commit.update, commit.samples_seen
    run.load_state_dict(commit.state, trained.callbacks)
    if trained.average is not None:
        _restore_average(trained, folder)


def _restore_average(trained: Trained, folder: str) -> None:
    average, engine = trained.average, trained.run.engine
    assert average is not None  # noqa: S101 checked by the caller
    if Path(f"{folder}/{_EMA}").is_file():
        saved: list[torch.Tensor] = torch.load(f"{folder}/{_EMA}", map_location="cpu", weights_only=True)
        average.set(engine.part(saved))
    else:
        # the run began without averages: they begin at the weights that were loaded
        average.set(engine.local_tensors())


def restore_decoder(decoder: "DecoderTraining", folder: str) -> None:
    """Take over the unlocked decoder, where the checkpoint has one."""
    path = Path(folder) / DECODER_FILE
    if path.is_file():
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        decoder.load_state_dict(state)


def export(trained: Trained, checkpoints: Checkpoints) -> str:
    """Write the ControlNet (the averaged one, where there is one) in diffusers' layout; returns its folder."""
    from storage.staging import Staging

    run = trained.run
    target = f"{checkpoints.address}/{CONTROLNET_FOLDER}"
    files, root = open_files(run.output_dir)
    staging = Staging()
    folder = Path(root) if files.is_local or not run.place.is_first else staging.new_folder()
    _save_net(trained, folder, _whole_averages(trained))
    if run.place.is_first:
        said = [sentence for callback in trained.callbacks if (sentence := callback.summary())]
        recipe = recipe_of(run, " ".join(said), decoder_trained=trained.decoder is not None)
        write_model_card(folder, recipe)
        if trained.decoder is not None:
            run.base.unet.save_pretrained(folder / UNET_FOLDER)
        if not files.is_local:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    files.write(f"{root}/{path.relative_to(folder).as_posix()}", path.read_bytes())
            staging.discard(folder)
        run.log("exported", folder=redact(target))
    run.place.barrier()
    return target
