"""Events that reach an address over HTTP: again after a failure, never in the way, and the address never shown."""

import asyncio
import json
import random
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from controlmill.config import TrainConfig, validate
from controlmill.errors import ConfigError
from controlmill.testing.http_server import Handler, HttpServer, Request, answer
from flows.webhook import ENVIRONMENT, TOLD, Webhook, webhook_url

SECRET = "T0K3N"  # noqa: S105 - of nothing
NEEDED = {"train_data_dir": "data", "condition": ["canny"], "pretrained_model_name_or_path": "base"}
FIELDS = {"update": 180, "samples_seen": 2880, "gain": 0.19}


def in_turn(*statuses: str) -> Handler:
    """Answers with these, the last one for good."""
    left = list(statuses)

    async def write(request: Request, writer: asyncio.StreamWriter) -> bool:
        return await answer(status=left.pop(0) if len(left) > 1 else left[0])(request, writer)

    return write


def tell(server: HttpServer, *events: str, fields: Mapping[str, Any] = FIELDS) -> None:
    with Webhook(server.url(f"/{SECRET}"), "s3://key:secret@bucket/run", first_wait_s=0.01) as webhook:
        for event in events:
            webhook.tell(event, fields)


def test_it_arrives_after_two_failures(capsys: pytest.CaptureFixture[str]) -> None:
    with HttpServer({f"/{SECRET}": in_turn("500 Oh", "500 Oh", "200 OK")}) as server:
        tell(server, "control_following")
        asked = server.asked(f"/{SECRET}")
    assert len(asked) == 3
    messages = [json.loads(request.body) for request in asked]
    assert messages[0] == messages[2]
    assert messages[2]["event"] == "control_following"
    assert {name: messages[2][name] for name in FIELDS} == FIELDS
    assert messages[2]["output_dir"] == "s3://***@bucket/run"
    assert messages[2]["text"] == "controlmill s3://***@bucket/run: control_following at update 180"
    assert {request.headers["content-type"] for request in asked} == {"application/json"}
    assert "webhook_failed" not in capsys.readouterr().err


def test_events_arrive_in_order_and_others_are_not_sent() -> None:
    with HttpServer({f"/{SECRET}": answer()}) as server:
        tell(server, "forecast", *sorted(TOLD), "checkpoint")
        sent = [json.loads(request.body)["event"] for request in server.asked(f"/{SECRET}")]
    assert sent == sorted(TOLD)


@pytest.mark.parametrize(
    ("status", "num_attempts"),
    [("503 Later", 5), ("429 Too Many Requests", 5), ("404 Not Found", 1), ("302 Elsewhere", 1)],
)
def test_what_cannot_be_delivered_is_a_warning(
    status: str, num_attempts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with HttpServer({f"/{SECRET}": answer(status=status, headers={"Location": "/elsewhere"})}) as server:
        tell(server, "stalled")
        assert len(server.requests) == num_attempts
    said = capsys.readouterr().err
    assert "webhook_failed" in said
    assert f"answer {status[:3]}" in said
    assert SECRET not in said


def test_nobody_listens(capsys: pytest.CaptureFixture[str]) -> None:
    with HttpServer() as server:
        gone = server.url(f"/{SECRET}")
    with Webhook(gone, "run", first_wait_s=0.01) as webhook:
        webhook.tell("control_settled", FIELDS)
    said = capsys.readouterr().err
    assert "no answer (ClientConnectorError)" in said
    assert SECRET not in said


def test_an_address_that_hangs_does_not_hold_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    async def hang(_request: Request, _writer: asyncio.StreamWriter) -> bool:
        await asyncio.Event().wait()
        return False

    with HttpServer({f"/{SECRET}": hang}) as server:
        with Webhook(server.url(f"/{SECRET}"), "run", close_s=0.2) as webhook:
            webhook.tell("control_following", FIELDS)
            webhook.tell("control_settled", FIELDS)
        assert "events=2" in capsys.readouterr().err
    assert not [thread for thread in threading.enumerate() if thread.name == "webhook"], "it works on"


def test_the_random_numbers_of_the_process_are_left_alone() -> None:
    before = random.getstate()
    with HttpServer({f"/{SECRET}": answer(status="503 Later")}) as server:
        tell(server, "stalled")
        assert len(server.requests) > 1
    assert random.getstate() == before


def test_without_an_address_nothing_happens() -> None:
    with Webhook(None, "run") as webhook:
        webhook.tell("control_following", FIELDS)


def test_the_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    config = validate(TrainConfig, NEEDED)
    assert webhook_url(config) is None
    monkeypatch.setenv(ENVIRONMENT, "https://example.org/environment")
    assert webhook_url(config) == "https://example.org/environment"
    given = validate(TrainConfig, {**NEEDED, "webhook_url": "https://example.org/option"})
    assert webhook_url(given) == "https://example.org/option"
    monkeypatch.setenv(ENVIRONMENT, SECRET)
    with pytest.raises(ConfigError) as caught:
        webhook_url(config)
    assert SECRET not in str(caught.value)


def test_the_address_is_in_nothing_that_is_written() -> None:
    config = validate(TrainConfig, {**NEEDED, "webhook_url": f"https://example.org/{SECRET}"})
    copied = config.model_copy(update={"output_dir": "elsewhere"})
    assert webhook_url(copied) == f"https://example.org/{SECRET}"
    written = [str(config.model_dump(mode="json")), config.model_dump_json(), repr(config), str(config.model_dump())]
    assert not [text for text in written if SECRET in text]
    with pytest.raises(ConfigError, match="webhook_url: give an address") as caught:
        validate(TrainConfig, {**NEEDED, "webhook_url": SECRET})
    assert SECRET not in str(caught.value)


def test_the_flow_is_called_with_the_address_and_its_server_is_not_told() -> None:
    from flows.train_controlnet import train_controlnet

    config = validate(TrainConfig, {**NEEDED, "webhook_url": f"https://example.org/{SECRET}"})
    given = train_controlnet.validate_parameters({"config": config})
    assert webhook_url(given["config"]) == f"https://example.org/{SECRET}"
    assert SECRET not in json.dumps(train_controlnet.serialize_parameters(given))
