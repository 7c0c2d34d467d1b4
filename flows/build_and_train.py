"""The flow from a list of URLs to a trained ControlNet; every stage is a flow of its own on Prefect's page."""

from dataclasses import dataclass
from pathlib import Path

from prefect import flow

from controlmill.config import BuildAndTrainConfig
from controlmill.progress import observer
from flows.build_dataset import build_dataset
from flows.checks import check
from flows.encode_dataset import encode_dataset
from flows.engines import ray_cluster
from flows.evaluate_controlnet import evaluate_controlnet
from flows.ownership import owned
from flows.report import BuildReport
from flows.run_name import named
from flows.train_controlnet import train_controlnet
from training.outcome import Outcome


@dataclass(frozen=True)
class BuiltAndTrained:
    """What came of it."""

    built: BuildReport
    trained: Outcome


@flow(name="build-and-train", flow_run_name=named("build and train"), persist_result=False)
def build_and_train(config: BuildAndTrainConfig) -> BuiltAndTrained:
    """Build the dataset, encode it, train on it, evaluate and export; Ray is started once.

    Running it again makes what is missing, adds what a source has more (`build.incremental_mode: extend`), and trains
    on (`train.additional_train_steps`).
    """
    check(config)
    with owned(), ray_cluster(config.engine):
        built = build_dataset(config.build)
        if config.encoding is not None:
            encode_dataset(config.encoding)
        trained = train_controlnet(config.train)
        if config.evaluation is not None:
            evaluate_controlnet(config.evaluation)
        if config.export_cldm is not None:
            _export(config.train.output_dir, config.export_cldm)
        return BuiltAndTrained(built, trained)


def _export(run: str, target: str) -> None:
    from training.export import export_model

    path = Path(target).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    for written in export_model(Path(run).expanduser(), "cldm", path):
        observer().message(f"exported {written}")
