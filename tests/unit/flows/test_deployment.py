"""prefect.yaml and the files of options that it names: what `prefect deploy --all` would find wrong."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.client.schemas.schedules import CronSchedule
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema

from controlmill import config as configs
from controlmill.errors import ConfigError
from flows.deployment import options_of

ROOT = Path(__file__).resolve().parents[3]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
STEP = "flows.deployment.options_of"


def step(deployment: dict[str, Any]) -> dict[str, Any]:
    (one,) = deployment["build"]
    return dict(one[STEP])


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))
def test_a_deployment_names_a_flow_and_gives_it_what_it_takes(
    deployment: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    given = step(deployment)
    parameters = options_of(given["path"], given["model"])
    assert deployment["parameters"] == {"config": f"{{{{ {given['id']}.config }}}}"}
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    checked = flow.validate_parameters(parameters)["config"]
    assert type(checked) is getattr(configs, given["model"])
    schema = parameter_schema(flow).model_dump()
    assert schema["required"] == ["config"]
    assert list(schema["properties"]) == ["config"]
    form = schema["definitions"][given["model"]]["properties"]
    assert set(parameters["config"]) <= set(form)
    assert all(field.get("description") for field in form.values())


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: str(deployment["name"]))
def test_schedules_and_limits_are_prefects(deployment: dict[str, Any]) -> None:
    for schedule in deployment["schedules"]:
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).timezone == schedule["timezone"]
    limit = ConcurrencyLimitConfig.model_validate(deployment["concurrency_limit"])
    assert limit.limit == 1
    assert deployment["work_pool"]["name"] == "controlmill"


def test_every_file_of_options_is_that_of_a_deployment() -> None:
    files = {f"examples/{path.name}" for path in (ROOT / "examples").glob("*.yaml")}
    assert files == {step(deployment)["path"] for deployment in DEPLOYMENTS}


def test_no_two_deployments_write_into_the_same_folder() -> None:
    written = []
    for deployment in DEPLOYMENTS:
        options = options_of(str(ROOT / step(deployment)["path"]), step(deployment)["model"])["config"]
        parts = [options, options.get("build", {}), options.get("train", {})]
        written += [part[name] for part in parts for name in ("output_folder", "output_dir") if name in part]
    assert len(written) == 4
    assert sorted(set(written)) == sorted(written)


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("url_list: urls.txt\noutput_folder: there\nimage_sise: 3\n")
    with pytest.raises(ConfigError, match=r"wrong\.yaml: image_sise: .*image_size"):
        options_of(str(path), "BuildConfig")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            "BuildConfig",
            {"url_list": "urls.txt", "output_folder": "s3://user:hidden@bucket/there"},
            "output_folder: holds an URI with a user name or password",
        ),
        (
            "TrainConfig",
            {
                "train_data_dir": "there",
                "condition": "canny",
                "pretrained_model_name_or_path": "base",
                "webhook_url": "https://hidden",
            },
            "webhook_url: .*set CONTROLMILL_WEBHOOK_URL where the worker",
        ),
    ],
)
def test_what_the_page_must_not_show_is_refused(
    tmp_path: Path, model: str, options: dict[str, str], message: str
) -> None:
    path = tmp_path / "secret.yaml"
    path.write_text(yaml.safe_dump(options))
    with pytest.raises(ConfigError, match=rf"secret\.yaml: {message}") as caught:
        options_of(str(path), model)
    assert "hidden" not in str(caught.value)
