"""The flow that adds layers to a dataset whose images are there."""

from functools import partial

from prefect import flow

from controlmill.config import AnnotateConfig
from flows.engines import ray_cluster
from flows.finish import finish
from flows.make_shards import make_shards
from flows.page import on_page
from flows.report import BuildReport
from flows.run_name import named
from flows.session import session
from storage.dataset import Dataset
from tasks.stages import shards_with_images


@flow(name="annotate-dataset", flow_run_name=named("annotate"), persist_result=False)
def annotate_dataset(config: AnnotateConfig) -> BuildReport:
    """Make the layers of `config.annotators` from the stored images, where they are missing or were made otherwise."""
    dataset = Dataset.open(config.output_folder)
    plan = partial(shards_with_images, dataset, config)
    with on_page(), session(dataset, plan) as opened, ray_cluster(config) as num_cpus:
        report = make_shards(dataset, config, None, config, opened.planner, num_cpus)
        return finish(dataset, report)
