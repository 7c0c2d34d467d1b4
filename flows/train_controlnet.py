"""The flow that trains a ControlNet."""

from typing import Any

from prefect import flow

from controlmill.config import TrainConfig
from controlmill.progress import observer
from flows.engines import ray_cluster
from flows.run_name import named
from training.outcome import Outcome


@flow(name="train-controlnet", flow_run_name=named("train"), persist_result=False)
def train_controlnet(config: TrainConfig) -> Outcome:
    """Train a ControlNet on Ray; goes on from the last checkpoint after a lost worker."""
    watching = observer()

    def tell(record: Any) -> None:
        if "event" in record:
            fields = " ".join(f"{name}={value}" for name, value in record.items() if name != "event")
            watching.message(f"{record['event']} {fields}".strip())
        else:
            watching.trained(record)

    with ray_cluster(config.engine):
        from training.launch import launch

        return launch(config, tell)
