"""What a flow run is called on Prefect's page."""

from collections.abc import Callable

from prefect.runtime import flow_run

from storage.filesystem import redact


def named(verb: str) -> Callable[[], str]:
    """For `flow_run_name`: the verb and the dataset or the folder of the run, without credentials."""

    def name() -> str:
        config = flow_run.parameters["config"]
        return f"{verb} {redact(getattr(config, 'output_folder', None) or config.output_dir)}"

    return name
