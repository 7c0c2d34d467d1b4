"""What the probe's callback writes, asks for and keeps, along a run whose losses are known."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from controlmill.config import TrainConfig, validate
from controlmill.errors import ConfigError
from controlmill.testing.probe_curves import evaluation
from training.callbacks.base import UpdateMetrics
from training.callbacks.probe import ProbeCallback
from training.probe import ProbeResult

NUM_UPDATES = 2000


def config(**options: Any) -> TrainConfig:
    needed = {
        "train_data_dir": "data",
        "condition": ["canny"],
        "pretrained_model_name_or_path": "base",
        "output_dir": "out",
        "learning_rate": 1e-4,
    }
    return validate(TrainConfig, {**needed, "probe_steps": 40, **options})


def rise(update: int) -> float:
    return 0.6 / (1 + math.exp((1000 - update) / 50))


def growing(update: int) -> float:
    """Reaches 1 at update 750: a third of the way there is between that and following."""
    return min(1.2, math.exp((update - 750) / 90)) if update else 0.0


class KnownLosses:
    """Stands where the networks would be evaluated."""

    timesteps = (300, 450, 650)
    keys = ("00000000", "00000001")

    def __init__(self, *, follows: bool) -> None:
        self._follows = follows

    def evaluate(self, control: object, update: int, **_: object) -> ProbeResult:
        assert control is not None
        one = evaluation(update, rise(update) if self._follows else 0.0)
        right, wrong = torch.tensor(one.right).double(), torch.tensor(one.wrong).double()
        sensitivity = growing(update) if self._follows else 0.01
        return ProbeResult(self.timesteps, right, wrong, wrong, sensitivity, {"middle": 1.0}, 0.5)


class Callback(ProbeCallback):
    follows = True

    def _open(self, run: Any, num_rows: int) -> Any:
        assert run.reader.num_held_out >= num_rows
        return KnownLosses(follows=self.follows)


class Silent(Callback):
    follows = False


class Run:
    """Writes down what a callback asks for."""

    def __init__(self, num_held_out: int = 32) -> None:
        self.rank, self.world_size, self.output_dir, self.device = 0, 1, "out", torch.device("cpu")
        self.update, self.samples_seen, self.epoch, self.num_updates = 0, 0, 0.0, NUM_UPDATES
        self.decoder_is_connected, self.base_is_unlocked = True, False
        self.base = self.config = None
        self.reader = SimpleNamespace(num_held_out=num_held_out, num_rows=500)
        self.controlnets = SimpleNamespace(
            zero_convolutions=lambda: {"a.weight": torch.ones(4), "a.bias": torch.ones(4)}
        )
        self.engine = self
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.files: dict[str, list[dict[str, Any]]] = {"probe.jsonl": [], "events.jsonl": []}
        self.requests: list[tuple[str, Any, int]] = []
        self.scalars: dict[str, dict[int, float]] = {}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        yield

    def gathered(self, _: Iterable[object]) -> Any:
        return nullcontext()

    def autocast(self) -> Any:
        return nullcontext()

    def log(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields))

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        json.dumps(record, allow_nan=False)
        self.files.setdefault(name, []).append(dict(record))

    def announce(self, record: Mapping[str, Any]) -> None:
        self.append("events.jsonl", record)
        self.log(record["event"], **{name: value for name, value in record.items() if name != "event"})
        self.log_scalar(f"events/{record['event']}", 1.0)

    def log_scalar(self, name: str, value: float) -> None:
        self.scalars.setdefault(name, {})[self.update] = value

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("request_"):
            raise AttributeError(name)
        return lambda value=None: self.requests.append((name.removeprefix("request_"), value, self.update))

    def go(self, callback: ProbeCallback, until: int = NUM_UPDATES) -> None:
        callback.on_train_start(self)  # type: ignore[arg-type]
        for update in range(self.update + 1, until + 1):
            if self.is_stopped:
                break
            self.update, self.samples_seen, self.epoch = update, 16 * update, update / 100
            callback.on_update_end(self, UpdateMetrics(update, 16 * update, update / 100, 0.1, 1e-4, 1.0, 0.4))  # type: ignore[arg-type]
        if until == NUM_UPDATES or self.is_stopped:
            callback.on_train_end(self)  # type: ignore[arg-type]

    @property
    def is_stopped(self) -> bool:
        return any(name == "stop" for name, _, _ in self.requests)

    def said(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.logged if name == event]


def test_a_run_that_converges() -> None:
    run = Run()
    callback = Callback(config())
    assert callback.summary() == ""
    run.go(callback)
    assert callback.summary().startswith("Convergence at update ")
    assert ": sudden (R " in callback.summary()
    assert [line["update"] for line in run.files["probe.jsonl"]] == list(range(0, 2001, 40))
    assert run.files["probe_rows.jsonl"] == [
        {"update": 0, "timesteps": [300, 450, 650], "keys": ["00000000", "00000001"]}
    ]
    events = {line["event"]: line for line in run.files["events.jsonl"]}
    assert list(events) == ["control_onset", "control_following", "control_settled"]
    assert events["control_settled"]["convergence_update"] == pytest.approx(1000, abs=10)
    assert events["control_settled"]["label"] == "sudden"
    at = events["control_following"]["update"]
    assert run.requests == [("checkpoint", f"converged-{at}", at)]
    (said,) = run.said("control_following")
    assert said["update"] == at
    assert said["gain"] >= 0.05
    forecasts = [line for line in run.files["probe.jsonl"] if line["forecast"] is not None]
    assert len(forecasts) == len(run.said("forecast")) > 3
    assert all(abs(line["forecast"]["expected"] - 1000) < 100 for line in forecasts)
    assert min(line["update"] for line in forecasts) < 750
    assert max(line["update"] for line in forecasts) < at
    assert run.scalars["probe/gain"][2000] == pytest.approx(0.6, abs=0.02)
    assert set(run.scalars) >= {"probe/p_value", "probe/sensitivity", "events/control_following"}
    assert run.files["probe.jsonl"][0]["zero_convolution_norms"] == {"a.weight": 2.0}
    (summary,) = run.said("convergence")
    assert summary["provisional"] is False
    (cost,) = run.said("probe_cost")
    # 51 evaluations of 0.5 s among 2000 updates of 0.4 s
    assert cost == {"seconds": 25.5, "share_of_training": "3.2%"}


def test_it_says_at_the_start_what_it_will_do() -> None:
    run = Run()
    run.go(Callback(config(probe_steps=None, train_batch_size=16)), until=1)
    (said,) = run.said("probe")
    # 96 losses of each kind at 0.84 of a row's training: 5 updates of 16 rows; 2.1 % of the time are every 241
    assert said == {
        "rows": 32,
        "timesteps": [300, 450, 650],
        "every": 241,
        "estimated_share_of_training": "2.1%",
        "usual_convergence": 1197,
    }


def test_without_held_out_rows_there_is_no_probe() -> None:
    run = Run(num_held_out=1)
    run.go(Callback(config()), until=100)
    assert run.files["probe.jsonl"] == []
    (said,) = run.said("probe_off")
    assert "1 rows are held out" in said["reason"]


@pytest.mark.parametrize("stop", [400, 1000, 1040, 1400, 1599, 1600])
def test_a_resumed_run_writes_what_the_uninterrupted_one_writes(stop: int) -> None:
    options = config(on_following=["continue_for: 600"])
    whole = Run()
    whole.go(Callback(options), until=1900)
    assert whole.update == 1600
    first = Run()
    before = Callback(options)
    first.go(before, until=stop)
    second = Run()
    second.update, second.samples_seen, second.epoch = stop, 16 * stop, stop / 100
    after = Callback(options)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    second.go(after, until=1900)
    assert second.update == 1600
    for name in ("probe.jsonl", "events.jsonl"):
        assert first.files[name] + second.files[name] == whole.files[name]
    # at its end it says again that it has ended
    assert list(dict.fromkeys(first.requests + second.requests)) == whole.requests


@pytest.mark.parametrize(
    ("action", "request_", "value"),
    [
        ("stop", "stop", "on_following or on_settled asked to stop at update 1,000"),
        ("accumulate: 4", "accumulation", 8),
        ("restart: 4", "restart", 4),
        ("connect_decoder", "connect_decoder", None),
        ("unlock_base", "unlock_base", None),
        ("lower_lr: 0.1", "learning_rate_factor", 0.1),
    ],
)
def test_each_action_is_asked_for_once(action: str, request_: str, value: Any) -> None:
    run = Run()
    run.go(Callback(config(on_following=action, gradient_accumulation_steps=2)))
    asked = [(name, given, update) for name, given, update in run.requests if name != "checkpoint"]
    (at,) = [line["update"] for line in run.files["events.jsonl"] if line["event"] == "control_following"]
    assert len(asked) == 1
    assert asked[0][::2] == (request_, at)
    assert asked[0][1] == value or (value is not None and str(asked[0][1]).startswith(str(value)))
    (written,) = [line for line in run.files["events.jsonl"] if line["event"] == "action"]
    assert written == {"event": "action", "update": at, "action": action, "because": "control_following"}


def test_an_action_may_wait_for_settled() -> None:
    run = Run()
    run.go(Callback(config(on_settled="lower_lr: 0.5")))
    (settled,) = [line["update"] for line in run.files["events.jsonl"] if line["event"] == "control_settled"]
    assert ("learning_rate_factor", 0.5, settled) in run.requests


def test_continue_for_stops_so_many_updates_later() -> None:
    run = Run()
    run.go(Callback(config(on_following="continue_for: 100")))
    (at,) = [line["update"] for line in run.files["events.jsonl"] if line["event"] == "control_following"]
    assert next(update for name, _, update in run.requests if name == "stop") == at + 100


@pytest.mark.parametrize(("action", "updates_more"), [("stop", 0), ("continue_for: 100", 100)])
def test_a_run_that_ended_by_itself_stays_at_its_end(action: str, updates_more: int) -> None:
    """However often it is started again; and it goes on once nobody asks for the stop any more."""
    run, before = Run(), Callback(config(on_following=action))
    run.go(before)
    assert run.update == 1000 + updates_more
    state = json.loads(json.dumps(before.state_dict()))
    for options, stops in ((config(on_following=action), True), (config(), False)):
        again, after = Run(), Callback(options)
        again.update = run.update
        after.load_state_dict(state)
        after.on_train_start(again)  # type: ignore[arg-type]
        assert [name for name, _, _ in again.requests] == ["stop"] * stops


def test_unlocking_is_refused_before_the_start_where_it_is_not_possible() -> None:
    with pytest.raises(ConfigError, match="unlock_base: needs mixed_precision"):
        ProbeCallback(config(on_settled="unlock_base", mixed_precision="fp16"))


def test_a_restart_is_refused_where_it_would_move_the_dataset() -> None:
    with pytest.raises(ConfigError, match="restart: would move train_data_dir out/data"):
        ProbeCallback(config(on_following="restart: 4", train_data_dir="out/data"))


@pytest.mark.parametrize("stop", [400, 1400])
def test_preferred_timesteps_end_with_the_sudden_convergence(stop: int) -> None:
    options = config(min_timestep=300, timestep_bias_until="converged")
    run, before = Run(), Callback(options)
    run.go(before, until=stop)
    after = Callback(options)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    run.go(after)
    (at,) = [line["update"] for line in run.files["events.jsonl"] if line["event"] == "control_following"]
    assert [request for request in run.requests if request[0] != "checkpoint"] == [("timesteps_alike", None, at)]
    (written,) = [line for line in run.files["events.jsonl"] if line["event"] == "action"]
    assert (written["update"], written["action"]) == (at, "all timesteps alike")


def test_preferred_timesteps_last_to_the_end_by_default() -> None:
    run = Run()
    run.go(Callback(config(min_timestep=300)))
    assert {name for name, _, _ in run.requests} == {"checkpoint"}


def test_a_run_that_does_not_converge_is_warned_about_once() -> None:
    run = Run()
    run.go(Silent(config(hint_init="default")))
    (warned,) = run.said("stalled")
    assert warned["update"] == 1000
    assert "0.01" in warned["reason"]
    assert "below 1,000" in warned["causes"]
    assert [line["event"] for line in run.files["events.jsonl"]] == ["stalled"]
    assert run.said("forecast") == []
    assert run.said("convergence") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"probe_timesteps": (0.45,)},
            r"measured with \[0.3, 0.45, 0.65\] so far, not with \[0.45\]; go on with probe_timesteps=0.3,0.45,0.65",
        ),
        ({"num_probe_rows": 16}, "num_probe_rows: the run was measured with 32 so far, not with 16; go on with"),
    ],
)
def test_another_probe_is_refused_at_the_resume(options: dict[str, Any], message: str) -> None:
    run, before = Run(), Callback(config())
    run.go(before, until=100)
    state = json.loads(json.dumps(before.state_dict()))
    with pytest.raises(ConfigError, match=message):
        Callback(config(**options)).load_state_dict(state)


def test_checkpoints_say_what_is_known_until_the_gain_has_settled() -> None:
    run, callback = Run(), Callback(config())
    said = []
    for update in (800, 1000, 1400):
        run.go(callback, until=update)
        callback.on_checkpoint(run, "folder")  # type: ignore[arg-type]
        said.append(len(run.said("convergence")))
    assert said == [0, 1, 1]
    (provisional,) = run.said("convergence")
    assert provisional["provisional"] is True
    assert provisional["update"] == 1000
    assert 900 < provisional["convergence_update"] < 1000


class Overflowing(KnownLosses):
    """fp16 runs over on a wrong hint now and then."""

    def evaluate(self, control: object, update: int, **options: object) -> ProbeResult:
        found = super().evaluate(control, update, **options)
        return replace(found, sensitivity=math.inf) if update in (160, 600, 680) else found


def test_a_sensitivity_that_ran_over_counts_as_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    run, callback = Run(), Callback(config())
    monkeypatch.setattr(callback, "_open", lambda *_: Overflowing(follows=True))
    run.go(callback)
    assert [line["update"] for line in run.files["probe.jsonl"] if line["residual_sensitivity"] is None] == [
        160, 600, 680,
    ]  # fmt: skip
    json.dumps(callback.state_dict(), allow_nan=False)
    forecasts = run.said("forecast")
    assert min(one["update"] for one in forecasts) < 750
    assert all(abs(one["expected"] - 1000) < 100 for one in forecasts)
    assert all(math.isfinite(value) for value in run.scalars["probe/sensitivity"].values())
