"""The display on a terminal, as text."""

import io

from rich.console import Console

from controlmill.cli.progress import RichObserver
from controlmill.reasons import Reason


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(display: RichObserver) -> list[str]:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(display.render())
    return [line.rstrip() for line in capture.get().splitlines()]


def test_display() -> None:
    clock = Clock()
    display = RichObserver(Console(file=io.StringIO(), force_terminal=True), clock)
    display.message("starting Ray and Prefect")
    clock.now = 7.0
    assert lines_of(display) == ["0:00:07 starting Ray and Prefect"]

    display.planned(10, 10_000, complete=False)
    clock.now = 57.0
    display.rows(2_500, {Reason.TIMEOUT: 200, Reason.HTTP_404: 1_300})
    for shard in range(2):
        display.shard_done(shard)
    display.message("pulling")
    assert lines_of(display) == [
        "rows   ━━━━━━━╸                          2,500/10,000+ 20.0 images/s",
        "shards ━━━━━━                                    2/10+",
        "failed  http_404 1,300 timeout 200",
        "0:00:57 pulling",
    ]

    display.planned(20, 20_000, complete=True)
    assert lines_of(display)[1].endswith("2/20 0:05:50 left")


def test_a_bar_is_drawn_and_ends_with_the_last_state() -> None:
    clock = Clock()
    screen = io.StringIO()
    console = Console(file=screen, width=100, force_terminal=True, color_system="truecolor", legacy_windows=False)
    with RichObserver(console, clock) as display:
        display.planned(1, 4, complete=True)
        clock.now = 2.0
        display.rows(4, {})
        display.shard_done(0)
    text = screen.getvalue()
    assert "4/4" in text
    assert "1/1" in text
    assert text.endswith("\x1b[?25h")  # the cursor is back
    assert "done" in text


def test_events_of_training_stay_above_the_bars() -> None:
    file = io.StringIO()
    display = RichObserver(Console(file=file, width=120, force_terminal=True, color_system=None), Clock())
    with display:
        display.event("checkpoint", {"update": 30, "folder": "RUN/checkpoint-30"})
        display.event("control_following", {"update": 40, "gain": 0.18, "p_value": 7.4e-06, "sensitivity": 0.9})
        settled = {"update": 90, "gain": 0.379, "ci95": [39.8, 46.7], "convergence_update": 42.2, "label": "sudden"}
        display.event("control_settled", settled)
        display.message("exporting")
    said = file.getvalue()
    assert "update 40: sudden convergence: the hint is followed (control gain 0.18, p 7e-06)" in said
    assert "it converged at update 42, 95 % between 40 and 47: sudden" in said
    assert lines_of(display) == ["0:00:00 done"]


def test_a_forecast_stays_until_the_next_one_or_until_it_has_come() -> None:
    display = RichObserver(Console(file=io.StringIO(), force_terminal=True), Clock())
    for expected in (1200, 1100):
        fields = {"update": expected - 500, "expected": expected, "low": expected - 100, "high": expected + 300}
        display.event("forecast", fields)
        display.event("checkpoint", {"update": 700})
        said = lines_of(display)
        low, high = f"{expected - 100:,}", f"{expected + 300:,}"
        assert said == [
            f"sudden convergence expected around update {expected:,}, between {low} and {high}",
            "0:00:00 checkpoint update=700",
        ]
    display.event("control_following", {"update": 1120, "gain": 0.18, "p_value": 7.4e-06, "sensitivity": 0.9})
    assert lines_of(display) == ["0:00:00 checkpoint update=700"]
