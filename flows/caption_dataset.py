"""The flow that describes the images of a dataset in words."""

from functools import partial

from prefect import flow

from controlmill.config import CaptionConfig, LayerOptions
from flows.engines import ray_cluster
from flows.finish import finish
from flows.make_shards import make_shards
from flows.page import on_page
from flows.report import BuildReport
from flows.run_name import named
from flows.session import session
from storage.dataset import Dataset
from tasks.captioners.registry import create
from tasks.stages import shards_to_caption


@flow(name="caption-dataset", flow_run_name=named("caption"), persist_result=False)
def caption_dataset(config: CaptionConfig) -> BuildReport:
    """Make the layer `caption` where it is missing or was made otherwise, on actors that hold the network."""
    dataset = Dataset.open(config.output_folder)
    captioner = create(config)
    plan = partial(shards_to_caption, dataset, captioner)
    with on_page(), session(dataset, plan) as opened, ray_cluster(config) as num_cpus:
        report = make_shards(dataset, LayerOptions(), captioner, config, opened.planner, num_cpus)
        return finish(dataset, report)
