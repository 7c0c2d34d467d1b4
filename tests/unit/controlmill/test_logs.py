"""Log events are lines with fields."""

import json
import subprocess
import sys

import pytest

from controlmill import logs


@pytest.fixture(autouse=True)
def text_again() -> object:
    yield
    logs.configure()


def test_text(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.log("shard_written", shard="00012", rows=981, dataset="my data", complete=True, host=None)
    logs.warning("network_outage", hosts=12)
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        'shard_written shard=00012 rows=981 dataset="my data" complete=true host=',
        "network_outage hosts=12 level=warning",
    ]
    assert captured.out == ""


def test_event_without_fields(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    logs.log("ray_ready")
    assert capsys.readouterr().err == "ray_ready\n"


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logs.log("shard_written", shard="00012", rows=981)
    event = json.loads(capsys.readouterr().err)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "shard_written", "shard": "00012", "rows": 981, "level": "info"}


def test_a_process_that_configured_nothing_writes_text_to_stderr() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from controlmill.logs import log; log('hello', a=1)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "hello a=1\n")


def test_a_listener_has_each_line_inside_of_the_block() -> None:
    heard: list[str] = []
    with logs.also_to(heard.append):
        logs.log("shard_written", shard="00001", rows=3)
        logs.warning("outage", after_s=2)
    logs.log("afterwards")
    assert heard == ["shard_written shard=00001 rows=3", "outage level=warning after_s=2"]
