"""What a measurement of controllability costs, before it has been measured."""

from training.sample import Sampling

# FLOPs of Stable Diffusion 1.5 at 512 x 512 over those of a row that is trained on, 2265 GFLOP: base and ControlNet
# forward in each step and branch, and the VAE's decoder
_STEP = (803 + 283) / 2265
_DECODER = 2480 / 2265


_USUAL_MEASUREMENTS = 4
_MOST_SHARE = 0.03
_LEAST_ROWS = 8


def cost_in_updates(num_rows: int, sampling: Sampling, rows_per_update: int) -> float:
    """Cost of one measurement in updates, both shared by the same ranks."""
    num_passes = sampling.num_steps * (2 if sampling.is_guided else 1)
    return num_rows * (num_passes * _STEP + _DECODER) / rows_per_update


def default_num_rows(num_held_out: int, sampling: Sampling, rows_per_update: int, num_updates: int) -> int:
    """All rows that are held out, or as many as keep the usual measurements at 3 % of the updates, at least 8."""
    affordable = _MOST_SHARE * num_updates / (_USUAL_MEASUREMENTS * cost_in_updates(1, sampling, rows_per_update))
    return min(num_held_out, max(_LEAST_ROWS, int(affordable)))
