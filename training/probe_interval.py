"""How often the probe is evaluated: often enough to date the convergence, seldom enough to cost little."""

import math

# the paper's Figure 4 marks update 6133 at 1e-5; small models of 16 to 32 pixels follow the power of the learning rate
_PUBLISHED_UPDATE, _PUBLISHED_RATE, _POWER = 6000, 1e-5, 0.7
# six evaluations within the rise take an interval of at most this part of the way
_PART_OF_WAY = 0.04
_MOST_SHARE = 0.03
# for the evaluation before the first update, and for networks whose cost is estimated too low
_LEEWAY = 0.7
# FLOPs of a probe row (base once, ControlNet and decoder twice) over those of a training row, Stable Diffusion 1.5:
# (268 + 2 x 283 + 2 x 535) / 2265; the losses without control are measured once
_RELATIVE_COST = 0.84


def expected_convergence(learning_rate: float) -> int:
    """Update at which a ControlNet may be expected to converge, before there is anything to measure; a rough scale."""
    return round(_PUBLISHED_UPDATE * math.pow(_PUBLISHED_RATE / learning_rate, _POWER))


def cost_in_updates(num_rows: int, num_timesteps: int, rows_per_update: int) -> float:
    """Cost of one evaluation in updates, both shared by the same ranks."""
    return _RELATIVE_COST * num_rows * num_timesteps / rows_per_update


def default_interval(learning_rate: float, cost: float) -> int:
    """Updates between evaluations: 4 % of the expected way, and more where that would come near 3 % of the time."""
    return max(1, round(_PART_OF_WAY * expected_convergence(learning_rate)), math.ceil(cost / (_LEEWAY * _MOST_SHARE)))
