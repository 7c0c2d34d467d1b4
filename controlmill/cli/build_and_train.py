"""`controlmill build-and-train`."""

from controlmill.cli.running import print_summary, stdout, watched
from controlmill.cli.settings import ConfigCommand
from controlmill.cli.train import print_outcome
from controlmill.config import BuildAndTrainConfig
from controlmill.logs import LogFormat


def run(config: BuildAndTrainConfig, log_format: LogFormat) -> None:
    """Build, then train."""
    with watched(log_format):
        from flows.run import run_build_and_train

        made = run_build_and_train(config)
    print_summary(made.built, config.build.output_folder, stdout())
    print_outcome(made.trained)


command = ConfigCommand(
    "build-and-train",
    BuildAndTrainConfig,
    run,
    text="""Build a dataset, encode it, and train a ControlNet on it, in one run; Ray and Prefect are started once.

    The options of `build` and `train` are given in a file, or as build.OPTION=VALUE and train.OPTION=VALUE. Run it
    again after an interruption, or with a source that grew: what is there is not made again.

    \b
    controlmill build-and-train config.yaml
    controlmill build-and-train config.yaml build.url_list=urls.parquet train.additional_train_steps=500
    """,
)
