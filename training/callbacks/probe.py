"""Measures the control gain in training, detects and forecasts sudden convergence, and does what was asked for then."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlmill.config.convergence import Action
from controlmill.errors import ConfigError
from training.callbacks.base import Callback, RunContext, UpdateMetrics
from training.convergence import Detector, Event
from training.metrics import EVENTS_LOG
from training.probe import Probe, ProbeResult
from training.probe_interval import cost_in_updates, default_interval, expected_convergence
from training.probe_log import PROBE_LOG
from training.probe_rows import ProbeRows
from training.report import Report
from training.restart import refuse_if_impossible
from training.stalled import causes, stalled

if TYPE_CHECKING:
    from controlmill.config import TrainConfig
    from training.gain import Evaluation

ROWS_LOG = "probe_rows.jsonl"
"""One line: which rows were never trained on."""
_NUM_CAUSES = 4
"""In the log; all are in events.jsonl."""
_FOLLOWED = ("control_following", "already_following")


class ProbeCallback(Callback):
    """Evaluates the probe every `probe_steps` updates, from update 0 on; on where `num_probe_rows` is above 0."""

    name = "probe"

    def __init__(self, config: "TrainConfig") -> None:
        """Take over the options.

        Args:
            config: of the run.

        Raises:
            ConfigError: an action is not possible in this run.
        """
        actions = {one.name for event in ("control_following", "control_settled") for one in config.actions(event)}
        self._ends_by_itself = not actions.isdisjoint(("stop", "continue_for"))
        if "unlock_base" in actions and config.mixed_precision == "fp16":
            raise ConfigError("unlock_base: needs mixed_precision bf16 or no: fp16 scales the loss")
        if "restart" in actions:
            refuse_if_impossible(config)
        self._config = config
        self._num_updates = 0
        cost = cost_in_updates(config.num_probe_rows, len(config.probe_timesteps), config.rows_per_update)
        self.interval = config.probe_steps or default_interval(config.peak_learning_rate, cost)
        self._share = cost / self.interval
        self.detector = Detector(config)
        self._probe: Probe | None = None
        self._stop_at: int | None = None
        self._warned: list[str] = []
        self._acted: list[str] = []
        self._probe_s = self._train_s = 0.0

    def on_train_start(self, run: RunContext) -> None:
        """Hold the rows ready, say what is going to happen, and measure before the first update."""
        self._num_updates = run.num_updates
        self._stop_where_asked(run)
        num_rows = min(self._config.num_probe_rows, run.reader.num_held_out)
        if num_rows < 2:
            run.log(
                "probe_off", reason=f"{num_rows} rows are held out, at least 2 are needed: the dataset is too small"
            )
            return
        self._probe = self._open(run, num_rows)
        run.log(
            "probe",
            rows=num_rows,
            timesteps=list(self._probe.timesteps),
            every=self.interval,
            estimated_share_of_training=f"{self._share:.1%}",
            usual_convergence=expected_convergence(self._config.peak_learning_rate),
        )
        if run.update == 0:
            run.append(
                ROWS_LOG, {"update": 0, "timesteps": list(self._probe.timesteps), "keys": list(self._probe.keys)}
            )
            self._evaluate(run, self._probe)

    def on_update_end(self, run: RunContext, metrics: UpdateMetrics) -> None:
        """Measure where it is time, and end a run that was to go on for so long only."""
        self._train_s += metrics.seconds
        if self._probe is not None and run.update % self.interval == 0:
            self._evaluate(run, self._probe)
        self._stop_where_asked(run)

    def on_checkpoint(self, run: RunContext, folder: str) -> None:  # noqa: ARG002 the signature of all callbacks
        """Say what is known so far, while the gain still rises."""
        if "control_settled" not in self.detector.events:
            self._say_convergence(run)

    def on_train_end(self, run: RunContext) -> None:
        """Say where the convergence was and what the probing cost."""
        self._say_convergence(run)
        share = self._probe_s / self._train_s if self._train_s else 0.0
        run.log("probe_cost", seconds=round(self._probe_s, 2), share_of_training=f"{share:.1%}")

    def _say_convergence(self, run: RunContext) -> None:
        found = self.detector.convergence() if run.rank == 0 else None
        if found is not None:
            provisional = "control_settled" not in self.detector.events
            run.log("convergence", update=run.update, provisional=provisional, **found.to_json())

    def summary(self) -> str:
        """What the probe says of the run."""
        return Report(Path(PROBE_LOG), self.detector, self.detector.convergence()).verdict() if self._probe else ""

    def state_dict(self) -> dict[str, Any]:
        """Detector, what it was measured on, warnings and requests; the same on every rank."""
        return {
            "detector": self.detector.state_dict(),
            "rows": self._config.num_probe_rows,
            "timesteps": list(self._config.probe_timesteps),
            "stop_at": self._stop_at,
            "warned": self._warned,
            "acted": self._acted,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ConfigError: the options ask for another probe, whose losses are no continuation of these.
        """
        now = {"num_probe_rows": self._config.num_probe_rows, "probe_timesteps": list(self._config.probe_timesteps)}
        # a checkpoint of an earlier version does not say
        before = {
            "num_probe_rows": state.get("rows", now["num_probe_rows"]),
            "probe_timesteps": state.get("timesteps", now["probe_timesteps"]),
        }
        for name, value in now.items():
            if value != before[name]:
                raise ConfigError(
                    f"{name}: the run was measured with {before[name]} so far, not with {value}; "
                    f"go on with {name}={_as_option(before[name])}, or begin another run"
                )
        self.detector.load_state_dict(state["detector"])
        # whoever takes the action out of the options wants the run to go on
        self._stop_at = state["stop_at"] if self._ends_by_itself else None
        self._warned = list(state["warned"])
        self._acted = list(state["acted"])

    def _stop_where_asked(self, run: RunContext) -> None:
        """At the start too: a run that was killed after its last checkpoint, or is started again, does not go on."""
        if self._stop_at is not None and run.update >= self._stop_at:
            run.request_stop(f"on_following or on_settled asked to stop at update {self._stop_at:,}")

    def _open(self, run: RunContext, num_rows: int) -> Probe:
        rows = ProbeRows.prepare(
            run.reader.held_out(num_rows),
            run.base,
            rank=run.rank,
            world_size=run.world_size,
            chunk_size=self._config.train_batch_size,
        )

        return Probe(
            rows,
            run.base,
            fractions=self._config.probe_timesteps,
            seed=self._config.seed,
            autocast=run.autocast,
            sum_over_ranks=run.sum_over_ranks,
        )

    def _evaluate(self, run: RunContext, probe: Probe) -> None:
        with run.engine.evaluating():
            result = probe.evaluate(
                run.engine,
                run.update,
                connect_decoder=run.decoder_is_connected,
                base_changes=run.base_is_unlocked,
            )
        self._probe_s += result.seconds
        evaluation = result.evaluation(run.update, run.samples_seen, run.epoch)
        events = self.detector.add(evaluation)
        self._write(run, evaluation, result)
        for event in events:
            self._announce(run, event)
        self._warn(run)

    def _write(self, run: RunContext, evaluation: "Evaluation", result: ProbeResult) -> None:
        """One line of `probe.jsonl`, and the scalars."""
        usable = self.detector.evaluations[-1:] == [evaluation]
        gain = self.detector.gains[-1] if usable else None
        made = self.detector.forecasts[-1] if self.detector.forecasts else None
        made = made if made is not None and made.update == run.update else None
        connections = {
            name: one for name, one in run.controlnets.zero_convolutions().items() if name.endswith(".weight")
        }
        with run.engine.gathered(connections.values()):
            norms = {name: float(one.detach().float().norm()) for name, one in connections.items()}
        head = {"update": run.update, "samples_seen": run.samples_seen, "epoch": run.epoch}
        derived = {
            "gain": None if gain is None else gain.gain,
            "p_value": None if gain is None else gain.p_value,
            "forecast": None if made is None else {"expected": made.expected, "low": made.low, "high": made.high},
            "zero_convolution_norms": {name: one if math.isfinite(one) else None for name, one in norms.items()},
        }
        run.append(PROBE_LOG, {**head, **result.to_json(), **derived})
        if gain is not None:
            run.log_scalar("probe/gain", gain.gain)
            run.log_scalar("probe/p_value", gain.p_value)
        if evaluation.sensitivity is not None:
            run.log_scalar("probe/sensitivity", evaluation.sensitivity)
        run.log_scalar("probe/seconds", result.seconds)
        if made is not None:
            run.log_scalar("probe/expected_convergence", made.expected)
            run.log("forecast", update=run.update, expected=made.expected, low=made.low, high=made.high)

    def _announce(self, run: RunContext, event: Event) -> None:
        run.announce(event.to_json())
        if event.name == "control_following":
            run.request_checkpoint(f"converged-{event.update}")
        if event.name in self._acted:
            return
        self._acted.append(event.name)
        if event.name in _FOLLOWED and self._config.timestep_bias_until == "converged":
            run.request_timesteps_alike()
            self._record_action(run, event, "all timesteps alike")
        for action in self._config.actions(event.name):
            self._act(run, event, action)

    def _act(self, run: RunContext, event: Event, action: Action) -> None:
        value = action.value or 0
        if action.name == "stop":
            self._stop_at = event.update
        elif action.name == "accumulate":
            run.request_accumulation(self._config.gradient_accumulation_steps * int(value))
        elif action.name == "restart":
            run.request_restart(int(value))
        elif action.name == "connect_decoder":
            run.request_connect_decoder()
        elif action.name == "unlock_base":
            run.request_unlock_base()
        elif action.name == "lower_lr":
            run.request_learning_rate_factor(value)
        else:
            self._stop_at = event.update + int(value)
        self._record_action(run, event, str(action))

    def _record_action(self, run: RunContext, event: Event, action: str) -> None:
        record = {"update": event.update, "action": action, "because": event.name}
        run.append(EVENTS_LOG, {"event": "action", **record})
        run.log("action", **record)

    def _warn(self, run: RunContext) -> None:
        found = stalled(self.detector, self._num_updates, self._config.peak_learning_rate)
        if found is None or found.kind in self._warned:
            return
        self._warned.append(found.kind)
        likely = causes(self._config, run.reader.num_rows, run.update)
        run.append(EVENTS_LOG, {"event": "stalled", "update": run.update, "reason": found.reason, "causes": likely})
        run.log("stalled", update=run.update, reason=found.reason, causes=" | ".join(likely[:_NUM_CAUSES]))


def _as_option(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
