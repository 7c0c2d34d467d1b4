"""`controlmill encode`."""

from controlmill.cli.running import running
from controlmill.cli.settings import ConfigCommand
from controlmill.config import EncodeConfig
from controlmill.logs import LogFormat


def run(config: EncodeConfig, log_format: LogFormat) -> None:
    """Encode."""
    with running(config.output_folder, log_format) as finished:
        from flows.run import run_encode

        finished(run_encode(config))


command = ConfigCommand(
    "encode",
    EncodeConfig,
    run,
    dataset=True,
    text="""Encode images and captions with the frozen parts of a base, once for all epochs: layers `latent` (mean and
    standard deviation of the VAE's posterior) and `text_embedding`. Training with the same base, resolution and
    captions uses them and says so.

    \b
    controlmill encode DATASET --pretrained-model-name-or-path BASE
    controlmill encode DATASET --pretrained-model-name-or-path BASE --resolution 768 --random-flip
    """,
)
