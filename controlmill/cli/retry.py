"""`controlmill retry`."""

from controlmill.cli.running import running
from controlmill.cli.settings import ConfigCommand
from controlmill.config import RetryConfig
from controlmill.logs import LogFormat


def run(config: RetryConfig, log_format: LogFormat) -> None:
    """Pull the failed rows again."""
    with running(config.output_folder, log_format) as finished:
        from flows.run import run_retry

        finished(run_retry(config))


command = ConfigCommand(
    "retry",
    RetryConfig,
    run,
    dataset=True,
    text="""Pull rows again that failed for one of the given reasons; what comes in becomes new shards.

    Image options, annotators and captioner are those of the dataset.

    \b
    controlmill retry DATASET --reason timeout --reason dns
    controlmill retry DATASET --reason timeout,dns --timeout 30 --retries 3
    """,
)
