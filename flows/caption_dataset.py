"""The flow that describes the images of a dataset in words."""

from contextlib import ExitStack
from functools import cache, partial
from typing import Any

from prefect import flow

from controlmill.config import CaptionConfig
from flows.captioning import caption_pool
from flows.engines import ray_cluster
from flows.fan_out import FanOut, Job
from flows.finish import finish
from flows.make_shards import Jobs, run_jobs
from flows.report import BuildReport
from flows.run_name import named
from flows.session import session
from flows.shard_tasks import caption_shard
from storage.dataset import Dataset
from tasks.captioners.base import LAYER
from tasks.captioners.registry import create
from tasks.recipe import remember_captions
from tasks.stages import Stages, Work, shards_to_caption

# one more than the one whose rows are captioned, so that the actors have work while a shard is committed
_NUM_SHARDS_AT_ONCE = 2


@flow(name="caption-dataset", flow_run_name=named("caption"), persist_result=False)
def caption_dataset(config: CaptionConfig) -> BuildReport:
    """Make the layer `caption` where it is missing or was made otherwise, on actors that hold the network."""
    dataset = Dataset.open(config.output_folder)
    captioner = create(config)
    plan = partial(shards_to_caption, dataset, captioner)
    with session(dataset, plan) as opened, ray_cluster(config):
        opened.planner.check(timeout_s=None)
        stages = Stages(dataset, {LAYER: remember_captions(dataset, captioner)})
        with ExitStack() as stack:
            # where nothing is missing, no network is loaded
            pool = cache(lambda: stack.enter_context(caption_pool(captioner, config)))

            def job(work: Work, board: Any) -> Job:
                common = {"uri": dataset.address, "shard": work.shard, "captioner": captioner}
                return Job(work.shard, caption_shard, {**common, "pool": pool(), "board": board})

            jobs = Jobs(dataset, opened.planner, stages, job, pulls=False)
            at_once = config.processes_count or _NUM_SHARDS_AT_ONCE
            report = run_jobs(jobs, FanOut(at_once, config.max_shard_retry, num_cpus=0))
        return finish(dataset, report)
