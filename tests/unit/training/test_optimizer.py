import sys
from typing import Any

import pytest
import torch
from diffusers.optimization import get_scheduler

from controlmill.config import OptimizerOptions
from controlmill.errors import ConfigError
from training.ema import MovingAverage, decay_at
from training.optimizer import learning_rate_factor, make_optimizer


@pytest.mark.parametrize(
    "options",
    [
        {"lr_scheduler": "constant"},
        {"lr_scheduler": "constant_with_warmup"},
        {"lr_scheduler": "linear"},
        {"lr_scheduler": "cosine"},
        {"lr_scheduler": "cosine_with_restarts", "lr_num_cycles": 2},
        {"lr_scheduler": "polynomial", "lr_power": 2.0},
        {"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:5,0.1:10,0.01"},
    ],
)
def test_the_learning_rate_is_that_of_diffusers_at_every_update(options: dict[str, Any]) -> None:
    given = OptimizerOptions(learning_rate=0.5, lr_warmup_steps=4, **options)
    factor = learning_rate_factor(given, 20)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    theirs = get_scheduler(
        given.lr_scheduler,
        optimizer=optimizer,
        step_rules=given.lr_step_rules,
        num_warmup_steps=4,
        num_training_steps=20,
        num_cycles=given.lr_num_cycles,
        power=given.lr_power,
    )
    for update in range(20):
        assert 0.5 * factor(update) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()


def test_adamw_has_the_given_settings() -> None:
    options = OptimizerOptions(adam_beta1=0.8, adam_beta2=0.9, adam_weight_decay=0.1, adam_epsilon=1e-6)
    made = make_optimizer(options, [torch.nn.Parameter(torch.zeros(1))], 3e-4)
    assert type(made) is torch.optim.AdamW
    (group,) = made.param_groups
    shown = {name: group[name] for name in ("lr", "betas", "weight_decay", "eps")}
    assert shown == {"lr": 3e-4, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-6}


def test_8_bit_adam_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)  # as where it is not installed
    with pytest.raises(ConfigError, match="pip install bitsandbytes"):
        make_optimizer(OptimizerOptions(use_8bit_adam=True), [torch.nn.Parameter(torch.zeros(1))], 1e-3)


def test_rules_go_with_their_scheduler() -> None:
    with pytest.raises(ValueError, match="lr_step_rules"):
        OptimizerOptions(lr_scheduler="piecewise_constant")
    with pytest.raises(ValueError, match="lr_step_rules"):
        OptimizerOptions(lr_step_rules="1:10,0.1")


def test_the_average_follows_slowly_from_the_weights_it_began_at() -> None:
    weight = torch.tensor([0.0])
    average = MovingAverage(lambda: [weight], largest_decay=0.5)
    weight.fill_(1.0)
    average.update(1)
    assert decay_at(1, 0.5) == pytest.approx(2 / 11)
    assert average.averages[0].item() == pytest.approx(9 / 11)
    average.update(10_000)
    assert average.averages[0].item() == pytest.approx(0.5 * 9 / 11 + 0.5)
    average.set([torch.tensor([7.0])])
    assert average.averages[0].item() == 7.0
    assert weight.item() == 1.0
