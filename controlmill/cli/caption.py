"""`controlmill caption`."""

from controlmill.cli.running import running
from controlmill.cli.settings import ConfigCommand
from controlmill.config import CaptionConfig
from controlmill.logs import LogFormat


def run(config: CaptionConfig, log_format: LogFormat) -> None:
    """Caption."""
    with running(config.output_folder, log_format) as finished:
        from flows.run import run_caption

        finished(run_caption(config))


command = ConfigCommand(
    "caption",
    CaptionConfig,
    run,
    dataset=True,
    text="""Describe the images of a dataset in words: a layer `caption`, with the alt text of the source beside it.

    \b
    controlmill caption DATASET --captioner blip --model Salesforce/blip-image-captioning-base
    controlmill caption DATASET --captioner lavis --model FOLDER --num-beams 5
    """,
)
