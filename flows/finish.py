"""The end of every dataset flow: the dataset card, and on Prefect's page totals, failures by reason, and pictures."""

import io
import time

from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.runtime import flow_run

from controlmill.errors import ControlmillError
from controlmill.logs import log
from flows.page_pictures import as_jpeg
from flows.report import BuildReport
from storage.card import write_card
from storage.dataset import Dataset
from storage.filesystem import redact
from tasks.contact_sheet import draw_contact_sheet, samples_of

_NUM_ROWS = 6


def finish(dataset: Dataset, report: BuildReport) -> BuildReport:
    """Write the card, publish what the run did and how the dataset looks; returns the report."""
    report.seconds = time.monotonic() - report.started_s
    write_card(dataset)
    report.flow_run_url = flow_run.ui_url
    done = {"shards": report.num_shards, "complete_before": report.num_shards_before, "images": report.num_images}
    log("dataset_complete", **done, failed=report.failed.total())
    for layer, lack in sorted(report.lacks.items()):
        log("layer_incomplete", layer=layer, rows=lack.num_rows, message=lack.why)
    where = f"`{redact(dataset.address)}`"
    create_table_artifact(report.table(), key="dataset-rows", description=f"This run on {where}")
    if report.num_shards:
        create_markdown_artifact(contact_sheet(dataset), key="contact-sheet", description=f"Some rows of {where}")
    return report


def contact_sheet(dataset: Dataset) -> str:
    """Images beside their maps, inside of the text."""
    try:
        sheet = draw_contact_sheet(samples_of(dataset, _NUM_ROWS), _NUM_ROWS)
    except ControlmillError as error:
        # the work is done and safe: a picture of it is not worth the run
        return f"no contact sheet: {error}"
    file = io.BytesIO()
    sheet.save(file, "PNG")
    return as_jpeg("images and their maps", file.getvalue())
