"""`controlmill annotate`."""

from controlmill.cli.running import running
from controlmill.cli.settings import ConfigCommand
from controlmill.config import AnnotateConfig
from controlmill.logs import LogFormat


def run(config: AnnotateConfig, log_format: LogFormat) -> None:
    """Annotate."""
    with running(config.output_folder, log_format) as finished:
        from flows.run import run_annotate

        finished(run_annotate(config))


command = ConfigCommand(
    "annotate",
    AnnotateConfig,
    run,
    dataset=True,
    text="""Add layers to a dataset: one for each annotator, made from its images.

    \b
    controlmill annotate DATASET --annotators canny
    controlmill annotate DATASET --annotators canny --annotator-options 'canny.low_threshold=[50,120]'
    """,
)
