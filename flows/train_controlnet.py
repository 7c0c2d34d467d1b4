"""The flow that trains a ControlNet."""

from collections.abc import Mapping
from typing import Any

from prefect import flow

from controlmill.config import TrainConfig
from controlmill.progress import observer
from flows.convergence_events import publish
from flows.engines import ray_cluster
from flows.run_name import named
from training.outcome import Outcome


@flow(name="train-controlnet", flow_run_name=named("train"), persist_result=False)
def train_controlnet(config: TrainConfig) -> Outcome:
    """Train a ControlNet on Ray; goes on from the last checkpoint after a lost worker."""
    watching = observer()

    def tell(record: Mapping[str, Any]) -> None:
        if "event" not in record:
            watching.trained(record)
            return
        fields = {name: value for name, value in record.items() if name != "event"}
        watching.event(record["event"], fields)
        publish(record["event"], fields, config)

    with ray_cluster(config.engine):
        from training.launch import launch

        return launch(config, tell)
