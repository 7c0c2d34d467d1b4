"""The flow from a list of URLs to Parquet layers: plan, pull and annotate shard by shard on Ray."""

from functools import partial

from prefect import flow

from controlmill.config import BuildConfig
from flows.engines import ray_cluster
from flows.finish import finish
from flows.make_shards import make_shards
from flows.page import on_page
from flows.report import BuildReport
from flows.run_name import named
from flows.session import session
from storage.dataset import Dataset
from tasks.recipe import captioner_of
from tasks.stages import planned_shards


@flow(name="build-dataset", flow_run_name=named("build"), persist_result=False)
def build_dataset(config: BuildConfig) -> BuildReport:
    """Make every layer that the configuration asks for and that is not there yet.

    Running it again does what is missing: after a kill, with another annotator, or with a source that grew.
    """
    dataset = Dataset(config.output_folder)
    captioner = captioner_of(config)
    plan = partial(planned_shards, dataset, config, captioner)
    with on_page(), session(dataset, plan) as opened, ray_cluster(config) as num_cpus:
        report = make_shards(dataset, config, captioner, config, opened.planner, num_cpus)
        return finish(dataset, report)
