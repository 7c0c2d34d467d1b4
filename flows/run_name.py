"""What a flow run is called on Prefect's page."""

from collections.abc import Callable

from prefect.runtime import flow_run

from storage.filesystem import redact


def named(verb: str) -> Callable[[], str]:
    """For `flow_run_name`: the verb and the dataset or the folder of the run, without credentials."""

    def name() -> str:
        config = flow_run.parameters["config"]
        names = ("output_folder", "output_dir", "controlnet")
        given = [value for name in names if (value := getattr(config, name, None))]
        where = given[0] if given else config.train.output_dir
        return f"{verb} {redact(where)}"

    return name
