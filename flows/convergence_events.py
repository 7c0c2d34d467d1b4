"""What Prefect is told of a training run: its log, an event for automations, and a page with the plot."""

import base64
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact
from prefect.events import emit_event
from prefect.logging import get_run_logger
from prefect.runtime import flow_run

from controlmill.config import TrainConfig
from controlmill.errors import ControlmillError
from controlmill.logs import warning
from flows.page_pictures import as_jpeg
from storage.filesystem import one_line, redact
from training.local_run import local_files
from training.metrics import SAMPLES

EVENT = "controlmill.sudden_convergence"
_ARTIFACT = "sudden-convergence"
_TELLING = ("control_following", "control_settled", "already_following", "control_confirmed")


def publish(name: str, fields: Mapping[str, Any], config: TrainConfig) -> None:
    """Log an event of the run; publish those that say that the condition is followed; never in the way of the run."""
    try:
        _publish(name, fields, config)
    # a server that is away, or a file that is not ours, must not end a run of days at the moment that it was for
    except Exception as error:  # noqa: BLE001 Prefect's client may raise anything
        warning("not_on_prefect", event_name=name, update=fields.get("update"), reason=one_line(error)[:300])


def _publish(name: str, fields: Mapping[str, Any], config: TrainConfig) -> None:
    get_run_logger().info(" ".join([name, *(f"{key}={value}" for key, value in fields.items())]))
    if name not in _TELLING:
        return
    if name == "control_following":
        resource = {
            "prefect.resource.id": f"controlmill.run.{flow_run.id}",
            "prefect.resource.name": "train-controlnet",
        }
        emit_event(EVENT, resource, payload={"output_dir": redact(config.output_dir), **fields})
    create_markdown_artifact(_page(name, fields, config), key=_ARTIFACT, description=f"{name} at {fields['update']}")


def _page(name: str, fields: Mapping[str, Any], config: TrainConfig) -> str:
    head = [f"# {name}", "", f"`{redact(config.output_dir)}`", "", "| | |", "|---|---|"]
    rows = [f"| {key} | {value} |" for key, value in fields.items()]
    # of a remote run there is here what the last checkpoint has sent
    with local_files(config.output_dir) as run:
        return "\n".join([*head, *rows, "", *_plot(run), *_samples(run)])


def _samples(run: Path) -> list[str]:
    """What was generated before the first update, and last."""
    drawn = [path for path in (run / SAMPLES).glob("*.png") if path.stem.isdecimal()]
    grids = sorted(drawn, key=lambda path: int(path.stem))
    lines = []
    for grid in dict.fromkeys([*grids[:1], *grids[-1:]]):
        title = f"update {int(grid.stem):,}: hints, stored images, generated images"
        lines += ["", f"## {title}", "", as_jpeg(title, grid.read_bytes())]
    return lines


def _plot(run: Path) -> list[str]:
    """The curves so far, inside of the page: Prefect keeps no files."""
    from training.plot import write_plot
    from training.report import analyse

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        try:
            write_plot(analyse(run, {}), path)
        except ControlmillError as error:
            return [f"no plot: {error}"]
        encoded = base64.b64encode(path.read_bytes()).decode()
    return [f"![control gain over updates](data:image/png;base64,{encoded})"]
