"""Thresholds and actions of convergence: what is accepted, and how a mistake is answered."""

from typing import Any

import pytest

from controlmill.config import TrainConfig, validate
from controlmill.config.convergence import Action, ConvergenceOptions
from controlmill.errors import ConfigError


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ((), ()),
        ("stop", ("stop",)),
        (["stop"], ("stop",)),
        ({"accumulate": 4}, ("accumulate: 4",)),
        ([{"accumulate": 4}, "connect_decoder"], ("accumulate: 4", "connect_decoder")),
        ({"connect_decoder": True, "unlock_base": False, "lower_lr": 0.1}, ("connect_decoder", "lower_lr: 0.1")),
        ({"restart": 4}, ("restart: 4",)),
        (["continue_for:2000", "unlock_base: true"], ("continue_for: 2000", "unlock_base")),
    ],
)
def test_actions_as_yaml_and_the_command_line_write_them(written: Any, read: tuple[str, ...]) -> None:
    assert validate(ConvergenceOptions, {"on_settled": written}).on_settled == read


def test_actions_of_an_event() -> None:
    options = ConvergenceOptions(on_following=("accumulate: 4", "connect_decoder"), on_settled=("stop",))
    assert options.actions("control_following") == (Action("accumulate", 4), Action("connect_decoder"))
    assert options.actions("control_settled") == (Action("stop"),)
    assert options.actions("control_onset") == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"on_following": "halt"},
            "'halt' is no action; there are stop, connect_decoder, unlock_base, accumulate, restart,",
        ),
        ({"on_following": "stop: 3"}, "stop takes no number (got 3)"),
        ({"on_following": "accumulate"}, "accumulate needs a number, as in 'accumulate: 4' (got none)"),
        ({"on_following": "accumulate: 2.5"}, "accumulate needs a whole number of at least 1 (got 2.5)"),
        ({"on_following": "lower_lr: 2"}, "lower_lr needs a factor between 0 and 1 (got 2)"),
        ({"on_following": ["lower_lr: 0.1", "lower_lr: 0.2"]}, "lower_lr is given twice"),
        ({"on_settled": ["stop", "unlock_base"]}, "stop excludes the others (got stop, unlock_base)"),
        ({"on_following": {"restart": 1.5}}, "restart needs a whole number of at least 1 (got 1.5)"),
        ({"on_following": ["restart: 4", "lower_lr: 0.1"]}, "restart excludes the others (got restart, lower_lr)"),
        ({"webhook_url": "example.org"}, "webhook_url: give an address that begins with http:// or https://"),
        ({"num_probe_rows": 1}, "num_probe_rows: a wrong hint is another row's, so at least 2 are needed"),
        ({"num_probe_rows": 0, "on_settled": "stop"}, "without a probe neither on_following nor on_settled can come"),
        ({"sudden_rise": 0.7}, "they must be below gradual_rise and gradual_width"),
        ({"probe_timesteps": [0.3, 1.0]}, "probe_timesteps.1: Input should be less than 1"),
        ({"probe_timesteps": []}, "probe_timesteps"),
    ],
)
def test_mistakes_are_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(ConvergenceOptions, values)
    assert message in str(caught.value)


def test_defaults_are_those_that_were_measured() -> None:
    options = ConvergenceOptions()
    assert (options.following_gain, options.following_p, options.following_evaluations) == (0.05, 1e-3, 2)
    assert (options.num_probe_rows, options.probe_timesteps) == (32, (0.30, 0.45, 0.65))


NEEDED = {"train_data_dir": "data", "condition": "canny", "pretrained_model_name_or_path": "base"}


@pytest.mark.parametrize(
    "preferred",
    [
        {"min_timestep": 300},
        {"max_timestep": 900},
        {"timestep_bias_strategy": "later", "timestep_bias_multiplier": 3},
    ],
)
def test_timesteps_that_are_preferred_until_it_converges(preferred: dict[str, Any]) -> None:
    config = validate(TrainConfig, {**NEEDED, **preferred, "timestep_bias_until": "converged"})
    assert config.timestep_bias_until == "converged"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "timestep_bias_until: converged needs timesteps that are preferred until then"),
        ({"timestep_bias_strategy": "later"}, "a timestep_bias_strategy with a timestep_bias_multiplier other than 1"),
        ({"min_timestep": 300, "num_probe_rows": 0}, "timestep_bias_until: converged needs a probe that sees it"),
    ],
)
def test_timesteps_that_cannot_be_preferred_until_it_converges(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate(TrainConfig, {**NEEDED, **values, "timestep_bias_until": "converged"})
    assert message in str(caught.value)


def test_a_training_run_refuses_the_same_mistakes() -> None:
    with pytest.raises(ConfigError, match="without a probe neither on_following nor on_settled can come"):
        validate(TrainConfig, {**NEEDED, "num_probe_rows": 0, "on_settled": "stop"})
