"""AdamW and the learning rate of each update."""

import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch

from controlmill.errors import ConfigError

if TYPE_CHECKING:
    from controlmill.config import OptimizerOptions


def make_optimizer(
    options: "OptimizerOptions", parameters: Iterable[torch.nn.Parameter], learning_rate: float
) -> torch.optim.Optimizer:
    """AdamW: fused on a GPU, of torch's own kind on a CPU, or with 8-bit moments.

    Raises:
        ConfigError: `use_8bit_adam` without bitsandbytes.
    """
    kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    # one kernel for all tensors on a GPU; on a CPU one pass over each, which beats the loop of separate operations
    extra: dict[str, Any] = {"fused": True}
    if options.use_8bit_adam:
        kind, extra = _adam_8bit(), {}
    return kind(
        parameters,
        lr=learning_rate,
        betas=(options.adam_beta1, options.adam_beta2),
        weight_decay=options.adam_weight_decay,
        eps=options.adam_epsilon,
        **extra,
    )


def _adam_8bit() -> Callable[..., torch.optim.Optimizer]:
    try:
        kind: Callable[..., torch.optim.Optimizer] = importlib.import_module("bitsandbytes.optim").AdamW8bit
    except ImportError as error:
        raise ConfigError("use_8bit_adam: needs the package bitsandbytes: pip install bitsandbytes") from error
    return kind


def learning_rate_factor(options: "OptimizerOptions", num_updates: int) -> Callable[[int], float]:
    """The factor on the peak learning rate as a function of the updates done before: 0 for the first.

    It is that of `diffusers.optimization.get_scheduler`, which makes a plain function of the update; a run that goes on
    from a checkpoint needs no state of it.

    Args:
        options: scheduler, warm-up, cycles, power.
        num_updates: updates in all, at whose end the learning rate is where the scheduler leads.
    """
    from diffusers.optimization import get_scheduler

    # some schedulers read the peak learning rate from the optimizer, and all are LambdaLR
    probe = torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=options.learning_rate)
    try:
        scheduler: Any = get_scheduler(
            options.lr_scheduler,
            optimizer=probe,
            step_rules=options.lr_step_rules,
            num_warmup_steps=options.lr_warmup_steps,
            num_training_steps=num_updates,
            num_cycles=options.lr_num_cycles,
            power=options.lr_power,
        )
    except ValueError as error:
        raise ConfigError(f"lr_scheduler {options.lr_scheduler}: {error}") from error
    factor: Callable[[int], float] = scheduler.lr_lambdas[0]
    return factor
