"""The flow that encodes images and captions of a dataset with the frozen parts of a base."""

from functools import partial
from pathlib import Path
from typing import Any

import ray
from prefect import flow

from controlmill.config import EncodeConfig
from controlmill.errors import EngineStartError
from flows.encoding import encoding_of, shards_to_encode
from flows.engines import ray_cluster
from flows.fan_out import FanOut, Job
from flows.finish import finish
from flows.make_shards import Jobs, run_jobs
from flows.report import BuildReport
from flows.run_name import named
from flows.session import session
from flows.shard_tasks import encode_shard
from storage.dataset import Dataset
from tasks.stages import Work
from training.encode_shard import MissingLayers

_CPUS_PER_SHARD = 4
"""Where there is no GPU; more CPUs work on more shards."""


@flow(name="encode-dataset", flow_run_name=named("encode"), persist_result=False)
def encode_dataset(config: EncodeConfig) -> BuildReport:
    """Make the layers `latent` and `text_embedding` where they are missing or were made otherwise."""
    dataset = Dataset.open(config.output_folder)
    encoding = encoding_of(dataset, config)
    with session(dataset, partial(shards_to_encode, dataset, encoding)) as opened, ray_cluster(config):
        opened.planner.check(timeout_s=None)
        fan_out, device = _fan_out(config)
        reference = _reference(config)

        def job(work: Work, board: Any) -> Job:
            common = {"uri": dataset.address, "shard": work.shard, "layers": work.layers, "board": board}
            return Job(
                work.shard, encode_shard, {**common, "encoding": encoding, "reference": reference, "device": device}
            )

        jobs = Jobs(dataset, opened.planner, _Stages(MissingLayers(dataset, encoding)), job, pulls=False)
        return finish(dataset, run_jobs(jobs, fan_out))


class _Stages:
    """What the planned shards still need."""

    def __init__(self, missing: MissingLayers) -> None:
        self._missing = missing

    def missing(self, shard: int) -> Work | None:
        """The layers that a shard lacks, None where it is complete."""
        layers = self._missing.of(shard)
        return Work(shard, self._missing.num_rows(shard), pull=False, layers=layers) if layers else None


def _fan_out(config: EncodeConfig) -> tuple[FanOut, str]:
    """How many shards are worked on at once, each with which CPUs and GPUs, and the device."""
    available: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = max(1.0, available.get("CPU", 1.0)), available.get("GPU", 0.0)
    if config.device == "cuda" and gpus == 0:
        raise EngineStartError("device: cuda, but the Ray cluster has no GPU; use --device cpu")
    if config.device != "cpu" and gpus > 0:
        at_once = config.processes_count or max(1, int(gpus / config.num_gpus))
        return FanOut(at_once, config.max_shard_retry, min(1.0, cpus / at_once), config.num_gpus), "cuda"
    at_once = config.processes_count or max(1, int(cpus // _CPUS_PER_SHARD))
    num_cpus = max(1, int(cpus / at_once)) if cpus >= at_once else cpus / at_once
    return FanOut(at_once, config.max_shard_retry, num_cpus), "cpu"


def _reference(config: EncodeConfig) -> str:
    """The base as a worker finds it, whatever folder it works in."""
    folder = Path(config.pretrained_model_name_or_path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else config.pretrained_model_name_or_path
