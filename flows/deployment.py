"""What `prefect deploy` calls: the parameters of a deployment from a file of options."""

from typing import Any

from controlmill import config
from controlmill.config.base import refuse_credentials, refuse_secrets
from controlmill.errors import ConfigError


def options_of(path: str, model: str) -> dict[str, Any]:
    """A build step of prefect.yaml: the options in `path`, checked, for `parameters: {config: "{{ ID.config }}"}`.

    Args:
        path: a file as `controlmill build`, `train` or `build-and-train` takes it.
        model: the class in `controlmill.config` that it has to fit.

    Raises:
        ConfigError: it does not, or it holds what a page must not show; the message begins with the file.
    """
    try:
        checked = config.validate(getattr(config, model), config.load_yaml(path))
        refuse_credentials(checked)
        refuse_secrets(checked, "set CONTROLMILL_WEBHOOK_URL where the worker of the pool runs")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    # a list of one may be written as a word, which Prefect would not take
    return {"config": checked.model_dump(mode="json", exclude_unset=True)}
