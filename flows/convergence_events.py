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
from flows.page_pictures import as_jpeg
from storage.filesystem import open_files, redact
from training.metrics import SAMPLES

EVENT = "controlmill.sudden_convergence"
_ARTIFACT = "sudden-convergence"
_TELLING = ("control_following", "control_settled", "already_following", "control_confirmed")


def publish(name: str, fields: Mapping[str, Any], config: TrainConfig) -> None:
    """Log an event of the run; publish those that say that the condition is followed."""
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
    rows = [f"| {key} | {value} |" for key, value in fields.items()]
    lines = [
        f"# {name}",
        "",
        f"`{redact(config.output_dir)}`",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        *_plot(config),
        *_samples(config),
    ]
    return "\n".join(lines)


def _samples(config: TrainConfig) -> list[str]:
    """What was generated before the first update, and last."""
    files, root = open_files(config.output_dir)
    folder = f"{root}/{SAMPLES}"
    names = sorted(entry.name for entry in files.entries(folder) if entry.name.endswith(".png"))
    lines = []
    for name in dict.fromkeys([*names[:1], *names[-1:]]):
        title = f"update {int(name.removesuffix('.png')):,}: hints, stored images, generated images"
        lines += ["", f"## {title}", "", as_jpeg(title, files.read(f"{folder}/{name}") or b"")]
    return lines


def _plot(config: TrainConfig) -> list[str]:
    """The curves so far, inside of the page: Prefect keeps no files."""
    from training.plot import write_plot
    from training.report import analyse

    if not open_files(config.output_dir)[0].is_local:
        return []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plot.png"
        try:
            write_plot(analyse(Path(config.output_dir), {}), path)
        except ControlmillError as error:
            return [f"no plot: {error}"]
        encoded = base64.b64encode(path.read_bytes()).decode()
    return [f"![control gain over updates](data:image/png;base64,{encoded})"]
