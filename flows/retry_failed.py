"""The flow that pulls failed rows again, into new shards."""

from functools import partial

from prefect import flow

from controlmill.config import RetryConfig
from flows.engines import ray_cluster
from flows.finish import finish
from flows.make_shards import make_shards
from flows.page import on_page
from flows.report import BuildReport
from flows.run_name import named
from flows.session import session
from storage.dataset import Dataset
from tasks.recipe import remembered, remembered_captioner
from tasks.sources.plan import plan_retry


@flow(name="retry-failed", flow_run_name=named("retry"), persist_result=False)
def retry_failed(config: RetryConfig) -> BuildReport:
    """Pull the rows that failed for `config.reason` again; images and layers as the dataset's were."""
    dataset = Dataset.open(config.output_folder)
    options, captioner = remembered(dataset, config), remembered_captioner(dataset)
    plan = partial(plan_retry, dataset, config.reason)
    with on_page(), session(dataset, plan) as opened, ray_cluster(config) as num_cpus:
        report = make_shards(dataset, options, captioner, config, opened.planner, num_cpus)
        return finish(dataset, report)
