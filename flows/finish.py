"""The end of every dataset flow: the dataset card, and the totals on Prefect's page."""

import time

from prefect.artifacts import create_table_artifact
from prefect.runtime import flow_run

from flows.report import BuildReport
from storage.card import write_card
from storage.dataset import Dataset
from storage.filesystem import redact


def finish(dataset: Dataset, report: BuildReport) -> BuildReport:
    """Write the card, publish the table of totals and failures by reason; returns the report."""
    report.seconds = time.monotonic() - report.started_s
    write_card(dataset)
    report.flow_run_url = flow_run.ui_url
    create_table_artifact(report.table(), key="dataset-rows", description=f"This run on `{redact(dataset.address)}`")
    return report
