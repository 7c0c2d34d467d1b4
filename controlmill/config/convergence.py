"""How sudden convergence is measured, detected and forecast, and what is done when it comes."""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, SecretStr, field_validator, model_validator

from controlmill.config.base import Options

Fraction = Annotated[float, Field(gt=0, lt=1)]

ActionName = Literal["stop", "accumulate", "restart", "connect_decoder", "unlock_base", "lower_lr", "continue_for"]
_COUNTS = ("accumulate", "restart", "continue_for")
_FACTORS = ("lower_lr",)
_PLAIN = ("stop", "connect_decoder", "unlock_base")
_ALONE = ("stop", "restart")
"""The run ends with them: nothing else can be done at the same event."""
ACTIONS: tuple[str, ...] = (*_PLAIN, *_COUNTS, *_FACTORS)


class Action(NamedTuple):
    """One thing to do at an event: its name and, where it takes one, its number."""

    name: ActionName
    value: float | None = None

    @classmethod
    def parse(cls, text: str) -> "Action":
        """Read "stop", "accumulate: 4", "lower_lr: 0.1"; raise `ValueError` that says what is wrong."""
        name, _, number = (part.strip() for part in text.partition(":"))
        if name not in ACTIONS:
            raise ValueError(f"{name!r} is no action; there are {', '.join(ACTIONS)}")
        if name in _PLAIN:
            if number and number != "true":
                raise ValueError(f"{name} takes no number (got {number})")
            return cls(name)  # type: ignore[arg-type]
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f"{name} needs a number, as in '{name}: 4' (got {number or 'none'})") from None
        if name in _COUNTS and (value != int(value) or value < 1):
            raise ValueError(f"{name} needs a whole number of at least 1 (got {number})")
        if name in _FACTORS and not 0 < value < 1:
            raise ValueError(f"{name} needs a factor between 0 and 1 (got {number})")
        return cls(name, value)  # type: ignore[arg-type]

    def __str__(self) -> str:
        """As it is written in a config file."""
        return self.name if self.value is None else f"{self.name}: {self.value:g}"


class ConvergenceOptions(Options):
    """How sudden convergence is measured, detected and forecast, and what is done when it comes."""

    num_probe_rows: NonNegativeInt = 32
    """Rows held out of training, by the hash of their key, on which the control gain is measured; 0 for no probe."""
    probe_steps: PositiveInt | None = None
    """Updates between evaluations of the probe; by default about 4 % of the expected way, at most 3 % of the time."""
    probe_timesteps: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.30, 0.45, 0.65)
    """Timesteps of the probe, as fractions of the noise schedule; the gain is largest in its middle."""
    following_gain: Fraction = 0.05
    """Sudden convergence: the control gain is at least this (for weak hints, 10 % of what a pilot run reached): 26
    times what unrelated hints gave."""
    following_high_gain: Fraction = 0.15
    """Sudden convergence: and at least this, a fifth of the 0.8 that strong hints reach: at 0.05 their rise has barely
    begun."""
    following_bend: Fraction = 0.5
    """Sudden convergence: or the gain rises at most this fraction of its steepest rise so far: weak hints stay below
    following_high_gain, but half of their rise is over."""
    following_p: Fraction = 1e-3
    """Sudden convergence: p-value of the paired test over the probe's rows is below this; onset uses it too."""
    following_evaluations: PositiveInt = 2
    """Sudden convergence: evaluations in a row that satisfy all of this."""
    onset_evaluations: PositiveInt = 3
    """Onset, the hint is read: evaluations in a row whose p-value is below following_p."""
    onset_sensitivity: PositiveFloat = 0.5
    """Onset, the hint is read: or the residuals' sensitivity to the hint is above this."""
    settle_slope: Fraction = 0.25
    """Settled: the gain rises at most this fraction of its steepest rise so far."""
    settle_evaluations: PositiveInt = 2
    """Settled: evaluations in a row that rise so little."""
    sudden_rise: PositiveFloat = 0.4
    """Sudden: at most this for R = (s50 - s10) / s50: from 10 to 50 % of the rise, compared with the whole way."""
    sudden_width: PositiveFloat = 1.0
    """Sudden: and at most this for rho = (s90 - s10) / s50."""
    gradual_rise: PositiveFloat = 0.6
    """Gradual: at least this for R."""
    gradual_width: PositiveFloat = 1.5
    """Gradual: or at least this for rho; what is neither sudden nor gradual is called indeterminate."""
    forecast_sensitivity: Fraction = 0.03
    """No forecast before the residuals' sensitivity to the hint has reached this; most runs that fail stay below."""
    on_following: tuple[str, ...] = ()
    """What to do at sudden convergence: stop, accumulate: N (times the batches per update), restart: N (from update 0
    with as many), connect_decoder (ends mid_until_step and only_mid_control), unlock_base, lower_lr: X (a factor),
    continue_for: N (updates, and stop)."""
    on_settled: tuple[str, ...] = ()
    """What to do when the gain has settled after sudden convergence; the same actions."""
    webhook_url: SecretStr | None = Field(default=None, exclude=True, repr=False)
    """Address that gets the events of convergence as JSON; kept out of everything that is written. Also from
    CONTROLMILL_WEBHOOK_URL."""

    @field_validator("on_following", "on_settled", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        """YAML may write `[stop]`, `{accumulate: 4}` or `[{accumulate: 4}, stop]`."""
        items = [value] if isinstance(value, dict | str) else value
        if not isinstance(items, list | tuple):
            return value
        texts: list[Any] = []
        for item in items:
            if isinstance(item, dict):
                texts += [
                    str(name) if one is True else f"{name}: {one}" for name, one in item.items() if one is not False
                ]
            else:
                texts.append(item)
        return tuple(texts)

    @field_validator("on_following", "on_settled")
    @classmethod
    def _are_actions(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        actions = [Action.parse(text) for text in texts]
        names = [action.name for action in actions]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]} is given twice")
        alone = [name for name in names if name in _ALONE]
        if alone and len(names) > 1:
            raise ValueError(f"{alone[0]} excludes the others (got {', '.join(names)})")
        return tuple(str(action) for action in actions)

    @model_validator(mode="after")
    def _convergence_is_possible(self) -> Self:
        if self.num_probe_rows == 1:
            raise ValueError("num_probe_rows: a wrong hint is another row's, so at least 2 are needed (or 0 for none)")
        if self.sudden_rise >= self.gradual_rise or self.sudden_width >= self.gradual_width:
            raise ValueError("sudden_rise and sudden_width: they must be below gradual_rise and gradual_width")
        if not self.num_probe_rows and (self.on_following or self.on_settled):
            raise ValueError("num_probe_rows: without a probe neither on_following nor on_settled can come")
        # here and not in a validator of the field, whose message would show the value
        url = "" if self.webhook_url is None else self.webhook_url.get_secret_value()
        if self.webhook_url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("webhook_url: give an address that begins with http:// or https://")
        return self

    def actions(self, event: str) -> tuple[Action, ...]:
        """What is to be done at `control_following` or `control_settled`."""
        texts = {"control_following": self.on_following, "control_settled": self.on_settled}.get(event, ())
        return tuple(Action.parse(text) for text in texts)
