"""The flow that encodes images and captions of a dataset with the frozen parts of a base."""

from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow

from controlmill.config import EncodeConfig
from flows.board import new_board
from flows.encoding import encoding_of, shards_to_encode
from flows.engines import ray_cluster
from flows.fan_out import FanOut, Job, Lane
from flows.finish import finish
from flows.jobs import Jobs
from flows.make_shards import run_jobs
from flows.page import on_page
from flows.report import BuildReport
from flows.run_name import named
from flows.session import session
from flows.shard_tasks import encode_shard
from flows.sharing import announced_device, cluster_of_ray
from storage.dataset import Dataset
from tasks.stages import Work
from training.encode_shard import MissingLayers

_ENCODE = "encode"
_CPUS_PER_SHARD = 4
"""Where there is no GPU; more CPUs work on more shards."""


@flow(name="encode-dataset", flow_run_name=named("encode"), persist_result=False)
def encode_dataset(config: EncodeConfig) -> BuildReport:
    """Make the layers `latent` and `text_embedding` where they are missing or were made otherwise."""
    dataset = Dataset.open(config.output_folder)
    encoding = encoding_of(dataset, config)
    with on_page(), session(dataset, partial(shards_to_encode, dataset, encoding)) as opened, ray_cluster(config):
        opened.planner.check(timeout_s=None)
        lane, device = _lane(config)
        given = {"encoding": encoding, "reference": _reference(config), "device": device}
        missing = MissingLayers(dataset, encoding)
        jobs = Jobs(opened.planner, _Stages(missing), _Maker(dataset, given), {}, BuildReport(dataset.uri))
        return finish(dataset, run_jobs(jobs, FanOut({_ENCODE: lane}, config.max_shard_retry)))


class _Maker:
    """One job for each shard."""

    pulls = False

    def __init__(self, dataset: Dataset, given: dict[str, Any]) -> None:
        self.board = new_board()
        self._given = {"uri": dataset.address, "board": self.board, **given}

    def jobs(self, work: Work) -> list[tuple[str, Job]]:
        """Encode it."""
        return [(_ENCODE, Job(work.shard, encode_shard, {**self._given, "shard": work.shard, "layers": work.layers}))]

    def afterwards(self, _work: Work) -> None:
        """Nothing."""
        return


class _Stages:
    """What the planned shards still need."""

    def __init__(self, missing: MissingLayers) -> None:
        self._missing = missing

    def missing(self, shard: int) -> Work | None:
        """The layers that a shard lacks, None where it is complete."""
        layers = self._missing.of(shard)
        return Work(shard, self._missing.num_rows(shard), pull=False, layers=layers) if layers else None


def _lane(config: EncodeConfig) -> tuple[Lane, str]:
    """How many shards are worked on at once, each with which CPUs and GPUs, and the device."""
    cluster = cluster_of_ray()
    cpus = cluster.num_cpus
    wanted = config.num_actors or config.processes_count
    if announced_device(config, cluster, "encoding") == "cuda":
        num_gpus = config.num_gpus or 1.0
        at_once = wanted or max(1, int(cluster.num_gpus / num_gpus))
        return Lane(at_once, min(1.0, cpus / at_once), num_gpus), "cuda"
    at_once = wanted or max(1, int(cpus // _CPUS_PER_SHARD))
    return Lane(at_once, max(1, int(cpus / at_once)) if cpus >= at_once else cpus / at_once), "cpu"


def _reference(config: EncodeConfig) -> str:
    """The base as a worker finds it, whatever folder it works in."""
    folder = Path(config.pretrained_model_name_or_path).expanduser()
    return str(folder.absolute()) if folder.is_dir() else config.pretrained_model_name_or_path
