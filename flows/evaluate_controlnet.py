"""The flow that measures how well a ControlNet is obeyed."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from controlmill.config.evaluate import EvaluateConfig
from controlmill.progress import observer
from flows.page import on_page
from flows.page_pictures import as_jpeg
from flows.run_name import named
from tasks.read_back import read_backs_of

_ARTIFACT = "controllability"
_COLUMNS = ("measure", "mean_own", "mean_other", "off", "real", "lift", "confirmed")


@flow(name="evaluate-controlnet", flow_run_name=named("evaluate"), persist_result=False)
def evaluate_controlnet(config: EvaluateConfig) -> list[dict[str, Any]]:
    """Generate images from held-out rows and read them back; returns what `out` holds of each condition."""
    with on_page():
        from training.evaluate import evaluate

        done = evaluate(config, read_backs_of, observer().message)
    found = [one.to_json() for one in done.found]
    rows = [f"| {' | '.join(_text(one[name]) for name in _COLUMNS)} |" for one in found]
    table = [f"| {' | '.join(_COLUMNS)} |", "|---" * len(_COLUMNS) + "|", *rows]
    picture = as_jpeg("hints, real images, generated images", done.grid.read_bytes())
    page = "\n".join([f"# Controllability of {config.controlnet}", "", *table, "", picture])
    create_markdown_artifact(page, key=_ARTIFACT, description=f"{done.num_rows} held-out rows")
    return found


def _text(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
