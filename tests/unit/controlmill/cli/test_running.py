"""What stands at the end of a run."""

import io
import json
from collections import Counter
from collections.abc import Iterator

import pytest
from rich.console import Console

from controlmill.cli.progress import RichObserver
from controlmill.cli.running import print_summary, running
from controlmill.logs import configure, log, warning
from controlmill.progress import LogObserver, observer
from controlmill.reasons import Reason
from controlmill.testing.records import record_of
from flows.report import BuildReport


@pytest.fixture(autouse=True)
def text_again() -> Iterator[None]:
    yield
    configure()


def summary(report: BuildReport) -> list[str]:
    screen = io.StringIO()
    print_summary(report, "DATA", Console(file=screen, width=100))
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def test_summary_with_failures() -> None:
    failed = Counter({Reason.HTTP_404: 1_200, Reason.TIMEOUT: 30, Reason.DNS: 4})
    report = BuildReport("DATA", num_shards=3, num_rows=12_000, num_images=10_766, failed=failed, seconds=100.0)
    assert summary(report) == [
        "12,000 rows in 3 shards, 100.0 s: 10,766 images (107.7 per second), 1,234 failed",
        "1,200 http_404",
        "30 timeout",
        "4 dns",
        "pull again: controlmill retry DATA --reason timeout,dns",
        "look at it: controlmill inspect DATA",
    ]


def test_layers_that_lack_rows_are_named_with_what_went_wrong() -> None:
    report = BuildReport("DATA", num_shards=2, num_rows=12, num_images=12, seconds=1.0)
    boom = "ValueError: a [bold] image"
    report.add([record_of("hed", 8, {boom: 7}), record_of("caption", 8, {"Error: x": 1})], counts=False)
    assert summary(report)[:3] == [
        "12 rows in 2 shards, 1.0 s: 12 images (12.0 per second), 0 failed",
        "caption: 1 row without a caption (Error: x)",
        "hed: 7 rows without a map (ValueError: a [bold] image)",
    ]


def test_no_retry_is_offered_for_what_will_fail_again() -> None:
    failed = Counter({Reason.HTTP_404: 1, Reason.ANNOTATOR_ERROR: 1})
    report = BuildReport("DATA", num_shards=1, num_rows=5, num_images=3, failed=failed, seconds=0.0)
    assert not [line for line in summary(report) if "retry" in line]


@pytest.mark.parametrize(
    ("num_before", "line"), [(7, "nothing to do: all 7 shards were done before"), (0, "nothing to do: no rows")]
)
def test_nothing_to_do(num_before: int, line: str) -> None:
    report = BuildReport("DATA", num_shards_before=num_before, seconds=1.0)
    assert summary(report)[0] == line


def test_without_a_terminal_events_are_logged_and_the_summary_goes_to_stdout(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with running("DATA", "text") as finished:
        assert isinstance(observer(), LogObserver)
        observer().message("starting Ray")
        finished(BuildReport("DATA", num_shards=1, num_rows=2, num_images=2, seconds=1.0))
    captured = capsys.readouterr()
    assert captured.err == "starting Ray\n"
    assert captured.out.startswith("2 rows in 1 shard, 1.0 s: 2 images")


def test_no_summary_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), running("DATA", "text"):
        raise ZeroDivisionError
    assert capsys.readouterr().out == ""


def test_on_a_terminal_only_warnings_stand_above_the_display(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal then
    with running("DATA", "text"):
        assert isinstance(observer(), RichObserver)
        log("shard_written", shard="00001")
        warning("network_outage", hosts=12)
    text = capsys.readouterr().err
    assert "network_outage hosts=12" in text
    assert "shard_written" not in text


def test_json_events_are_written_on_a_terminal_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with running("DATA", "json"):
        assert isinstance(observer(), LogObserver)
        log("shard_written", shard="00001")
    assert json.loads(capsys.readouterr().err)["shard"] == "00001"
