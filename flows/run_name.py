"""What a flow run is called on Prefect's page."""

from collections.abc import Callable

from prefect.runtime import flow_run

from storage.filesystem import redact


def named(verb: str) -> Callable[[], str]:
    """For `flow_run_name`: the verb and the dataset, without credentials."""

    def name() -> str:
        return f"{verb} {redact(flow_run.parameters['config'].output_folder)}"

    return name
