"""The flow that trains a ControlNet."""

from collections.abc import Mapping
from typing import Any

from prefect import flow

from controlmill.config import TrainConfig
from controlmill.progress import observer
from flows import metrics
from flows.convergence_events import publish
from flows.engines import ray_cluster
from flows.page import on_page
from flows.run_name import named
from flows.termination import DeferredTermination
from flows.webhook import Webhook, webhook_url
from storage.dataset import Dataset
from storage.lock import locked
from tasks.read_back import read_backs_of
from training.outcome import Outcome


@flow(name="train-controlnet", flow_run_name=named("train"), persist_result=False)
def train_controlnet(config: TrainConfig) -> Outcome:
    """Train a ControlNet on Ray; goes on from the last checkpoint after a lost worker."""
    gauges = metrics.TrainingGauges()

    def tell(record: Mapping[str, Any]) -> None:
        if "scalar" in record:
            gauges.measured(record["scalar"], record["value"])
            return
        if "event" not in record:
            gauges.trained(record)
            observer().trained(record)
            return
        metrics.happened(record["event"])
        fields = {name: value for name, value in record.items() if name != "event"}
        observer().event(record["event"], fields)
        # the webhook first: it only queues, and a Prefect server that does not answer keeps it waiting no longer
        webhook.tell(record["event"], fields)
        publish(record["event"], fields, config)

    with (
        on_page(),
        locked(config.output_dir),
        Webhook(webhook_url(config), config.output_dir) as webhook,
        ray_cluster(config.engine),
        DeferredTermination() as termination,
    ):
        from training.launch import launch

        read_backs = read_backs_of(Dataset.open(config.train_data_dir), config.condition)
        return launch(config, tell, read_backs, termination.check)
