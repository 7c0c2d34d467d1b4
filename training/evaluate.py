"""Controllability of a finished ControlNet, measured offline on held-out rows as training measures it."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controlmill.config.evaluate import EvaluateConfig
from controlmill.config.training_data import TrainingDataOptions
from controlmill.errors import ConfigError, RunUnusableError, StorageWriteError
from storage.dataset import Dataset
from training.base_files import read_json
from training.base_model import BaseModel
from training.callbacks.probe import ROWS_LOG
from training.checkpoints import Checkpoints
from training.controllability_grid import grid
from training.controllability_result import Controllability
from training.controllability_run import (
    Measured,
    ReadBack,
    Rows,
    Share,
    compared,
    measure,
    measure_baseline,
)
from training.controlnet import ControlNets
from training.decoder import take_over, trained_beside
from training.net_files import CONTROLNET_FOLDER, check_fits, find_net
from training.pictures import as_png
from training.reader.reader import ShardReader
from training.sample import Sampling
from training.sample_run import DTYPES, device_of

_REPORT = "evaluation.json"

ReadBacksOf = Callable[[Dataset, Sequence[str]], Mapping[str, ReadBack]]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured on what, as far as it can be told from files."""

    net: Path
    unet: Path | None
    """The base's UNet, where the run has trained its decoder."""
    base: str
    data: TrainingDataOptions
    num_held_out: int
    """Rows that the run never trained on; 0 where no run is known."""
    num_probe_shards: int | None
    keys: tuple[str, ...]
    """Theirs, where the dataset is the run's."""
    report: Path


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured, and where it is written."""

    found: tuple[Controllability, ...]
    num_rows: int
    report: Path
    grid: Path


def subject_of(config: EvaluateConfig) -> Subject:
    """Find everything, with what the run's `config.json` says where options are not given.

    Raises:
        ConfigError: base, dataset or condition are neither given nor known.
        WeightsMissingError: the ControlNet is not there.
        RunUnusableError: the run has no ControlNet yet, or a file of it is broken.
    """
    run = _run_of(Path(config.controlnet).expanduser())
    known: Mapping[str, Any] = {} if run is None else read_json(run / "config.json")
    net = find_net(config.controlnet) if run is None else run / CONTROLNET_FOLDER
    if not net.is_dir():
        what = f"{run}: the run has not left a ControlNet yet" if run is not None else f"{net} is a single file"
        raise RunUnusableError(f"controlnet: {what}; give a folder in diffusers' layout")
    given = {name: value for name, value in config.model_dump(mode="json").items() if value not in (None, [])}
    values = {name: value for name, value in known.items() if name in TrainingDataOptions.model_fields}
    values |= {name: value for name, value in given.items() if name in TrainingDataOptions.model_fields}
    missing = [name for name in ("train_data_dir", "condition") if name not in values]
    base = str(given.get("pretrained_model_name_or_path", known.get("pretrained_model_name_or_path", "")))
    missing += [] if base else ["pretrained_model_name_or_path"]
    if missing:
        raise ConfigError(f"{', '.join(missing)}: to be given for a ControlNet without its run, {net} is one")
    same_data = run is not None and _place(values["train_data_dir"]) == _place(known["train_data_dir"])
    keys, num_probe_shards = _held_out_by(run) if run is not None and same_data else ((), None)
    report = Path(config.out).expanduser() if config.out else (run or Path()) / _REPORT
    data = TrainingDataOptions.model_validate(values)
    unet = trained_beside(net) if run is not None else None
    return Subject(net, unet, base, data, len(keys), num_probe_shards, keys, report)


def evaluate(config: EvaluateConfig, read_backs_of: ReadBacksOf, say: Callable[[str], None]) -> Evaluation:
    """Measure and write down what was found.

    Args:
        config: the options.
        read_backs_of: finds the annotators of a dataset's layers.
        say: told what is being done.

    Raises:
        ControlmillError: something needed is not there or does not fit.
    """
    subject = subject_of(config)
    read_backs = _annotators(subject, read_backs_of)
    rows = _rows(subject, config)
    num_rows = len(rows.batch)
    say("loading base and ControlNet")
    base, nets = _loaded(subject, config, len(rows.conditions))
    sampling = Sampling(config.num_inference_steps, config.guidance_scale, seed=config.seed)

    def share(what: str) -> Share:
        return Share(chunk_size=config.batch_size, generated=lambda done: say(f"{what}: {done} of {num_rows} images"))

    baseline = measure_baseline(base, rows, read_backs, sampling, share("without control"))
    if subject.unet is not None:
        # the run trained the decoder too, and left its UNet beside the ControlNet
        take_over(base, subject.unet)
    measured = measure(base, nets, rows, read_backs, sampling, share("with control"))
    return _written(config, subject, rows, measured, compared(measured, baseline, read_backs))


def _annotators(subject: Subject, read_backs_of: ReadBacksOf) -> Mapping[str, ReadBack]:
    condition = subject.data.condition
    read_backs = read_backs_of(Dataset.open(subject.data.train_data_dir), condition)
    if not read_backs:
        raise ConfigError(f"condition: no annotator with a score is known for {', '.join(condition)}")
    for read_back in read_backs.values():
        read_back.check()
    return read_backs


def _loaded(subject: Subject, config: EvaluateConfig, num_conditions: int) -> tuple[BaseModel, ControlNets]:
    device, dtype = device_of(config.device), DTYPES[config.mixed_precision]
    nets = ControlNets.load(subject.net).to(device, dtype).eval()
    if nets.num_conditions != num_conditions:
        raise ConfigError(f"condition: the ControlNet takes {nets.num_conditions}, not {num_conditions}")
    base = BaseModel.load(subject.base, device=device, dtype=dtype, revision=config.revision, variant=config.variant)
    for one in nets.nets:
        check_fits(one, base, f"controlnet: {config.controlnet}")
    return base, nets


def _place(uri: str) -> str:
    """The same for two spellings of one local folder."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _run_of(folder: Path) -> Path | None:
    """The folder of the run that a folder is, or that it is the ControlNet of."""
    for candidate in (folder, folder.parent):
        path = candidate / "config.json"
        own = candidate / CONTROLNET_FOLDER
        if own in (folder / CONTROLNET_FOLDER, folder) and path.is_file() and "train_data_dir" in read_json(path):
            return candidate
    return None


def _held_out_by(run: Path) -> tuple[tuple[str, ...], int | None]:
    """Keys of the rows that a run never trained on, and of how many shards they were chosen."""
    log = run / ROWS_LOG
    if not log.is_file():
        return (), None
    try:
        keys = tuple(json.loads(log.read_text(encoding="utf-8").splitlines()[0])["keys"])
    except (ValueError, LookupError, OSError) as error:
        raise RunUnusableError(f"{log}: cannot read which rows were held out: {error}") from error
    committed = Checkpoints(str(run)).committed()
    state = committed[-1].state.get("reader", {}) if committed else {}
    return keys, state.get("num_probe_shards")


def _rows(subject: Subject, config: EvaluateConfig) -> Rows:
    with ShardReader(
        subject.data,
        batch_size=1,
        num_probe_rows=subject.num_held_out or config.num_rows,
        num_probe_shards=subject.num_probe_shards,
    ) as reader:
        num_rows = min(config.num_rows, reader.num_held_out)
        if num_rows < 2:
            raise ConfigError(
                f"train_data_dir: {num_rows} rows of {subject.data.train_data_dir} are held out, at most a tenth of "
                "it; at least 2 are needed"
            )
        rows = Rows.of(reader, subject.data.condition, num_rows, config.seed)
    if subject.keys and set(rows.batch.keys) - set(subject.keys):
        raise RunUnusableError(
            f"{subject.data.train_data_dir}: the rows held out of it now are not those that the run held out: the "
            "dataset or its options have changed; give another dataset with train_data_dir"
        )
    return rows


def _written(
    config: EvaluateConfig, subject: Subject, rows: Rows, measured: Measured, found: Sequence[Controllability]
) -> Evaluation:
    values = {
        "controlnet": str(subject.net),
        "pretrained_model_name_or_path": subject.base,
        "train_data_dir": subject.data.train_data_dir,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "seed": config.seed,
        "keys": list(rows.batch.keys),
        "measurements": [one.to_json() for one in found],
    }
    picture = subject.report.with_suffix(".png")
    try:
        subject.report.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(as_png(grid(rows, measured)))
        subject.report.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageWriteError(f"out: cannot write {subject.report}: {error.strerror}") from error
    return Evaluation(tuple(found), len(rows.batch), subject.report, picture)
