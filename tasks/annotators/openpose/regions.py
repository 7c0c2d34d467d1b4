"""Connected regions of many maps at once, on the device: only the little that is over a threshold is looked at.

Shapes: M maps of H by W; P pixels of all of them that are over the threshold, in the order of the maps and their rows,
in R runs along the rows; E pairs of runs that touch.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def highest_points(raw_MHW: "Tensor", smooth_MHW: "Tensor", threshold: float) -> "Tensor":
    """The highest point of `raw` in that region of `smooth` over the threshold where the sum of `raw` is the largest.

    x, y and the value, (M, 3) in double precision; NaN where nothing is over the threshold, or no value there over 0.
    Of equals the first counts.
    """
    import torch

    num_maps, height, width = raw_MHW.shape
    points_M3 = torch.full((num_maps, 3), math.nan, dtype=torch.float64, device=raw_MHW.device)
    place_P, root_P = regions(smooth_MHW > threshold)
    raw_P, map_P = raw_MHW.flatten()[place_P].double(), place_P // (height * width)
    sum_P = torch.zeros_like(raw_P).index_add_(0, root_P, raw_P)[root_P]
    chosen_P = _first_highest(sum_P, map_P, num_maps)
    is_there_P = root_P == root_P[chosen_P[map_P]]
    highest_M = _first_highest(raw_P.where(is_there_P, -math.inf), map_P, num_maps)
    map_F = (highest_M < len(place_P)).nonzero()[:, 0]
    map_F = map_F[raw_P[highest_M[map_F]] > 0]
    value_F, place_F = raw_P[highest_M[map_F]], place_P[highest_M[map_F]] % (height * width)
    points_M3[map_F] = torch.stack([(place_F % width).double(), (place_F // width).double(), value_F], dim=1)
    return points_M3


def regions(is_over_MHW: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Places of the pixels that are over, (P,), and for each the number in P of the first pixel of its region, (P,).

    Neighbours along edges and diagonals belong together.
    """
    import torch
    from torch.nn import functional

    place_P = is_over_MHW.flatten().nonzero()[:, 0]
    # a rim, so that nothing is beside the pixel at the other edge or in the next map
    padded = functional.pad(is_over_MHW, (1, 1, 1, 1))
    at_P, width = padded.flatten().nonzero()[:, 0], padded.shape[2]
    number = place_P.new_full((padded.numel(),), -1)
    number[at_P] = torch.arange(len(at_P), device=place_P.device)
    left_P, above_left_P, above_P, above_right_P = (number[at_P - back] for back in (1, width + 1, width, width - 1))
    is_first_P = left_P < 0
    run_P = is_first_P.cumsum(0) - 1
    # one pair for two runs that touch: where they begin to, or where only their corners do
    pairs = [
        (above_P, (above_P >= 0) & (is_first_P | (above_left_P < 0))),
        (above_left_P, (above_left_P >= 0) & (above_P < 0)),
        (above_right_P, (above_right_P >= 0) & (above_P < 0)),
    ]
    one_E = torch.cat([run_P[touches_P] for _, touches_P in pairs])
    other_E = torch.cat([run_P[number_P[touches_P]] for number_P, touches_P in pairs])
    first_R = is_first_P.nonzero()[:, 0]
    return place_P, first_R[_roots(len(first_R), one_E, other_E)[run_P]]


def _roots(num_runs: int, one_E: "Tensor", other_E: "Tensor") -> "Tensor":
    """The lowest number among the runs that hang together with each run, (R,).

    Zhang, Azad, Hu, "FastSV: a distributed-memory connected component algorithm with fast convergence", 2020: of two
    that touch, that which stands for one takes what stands for the other, and then what stands for that.
    """
    import torch

    root_R = torch.arange(num_runs, device=one_E.device)
    while True:
        lowest_E = torch.minimum(root_R[one_E], root_R[other_E])
        lower_R = root_R.scatter_reduce(0, root_R[one_E], lowest_E, "amin")
        lower_R = lower_R.scatter_reduce(0, root_R[other_E], lowest_E, "amin")
        lower_R = lower_R[lower_R]
        if torch.equal(lower_R, root_R):
            return root_R
        root_R = lower_R


def _first_highest(value_P: "Tensor", map_P: "Tensor", num_maps: int) -> "Tensor":
    """The number in P of the first of the highest values of each map, (M,); of a map without any, one too many."""
    import torch

    highest_M = value_P.new_full((num_maps,), -math.inf).scatter_reduce_(0, map_P, value_P, "amax")
    number_P = torch.arange(len(value_P), device=value_P.device)
    is_highest = value_P == highest_M[map_P]
    none_M = number_P.new_full((num_maps,), len(value_P))
    return none_M.scatter_reduce_(0, map_P[is_highest], number_P[is_highest], "amin")
