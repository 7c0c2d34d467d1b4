"""Draws depend on seed, epoch, key and purpose, and on nothing else."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import draws


def test_each_of_the_four_counts_and_no_order_or_batch() -> None:
    drawn = {
        (seed, epoch, key, purpose): draws.fraction(seed, epoch, key, purpose)
        for seed in (0, 1)
        for epoch in (0, 1)
        for key in ("a", "b")
        for purpose in ("noise", "prompt")
    }
    assert len(set(drawn.values())) == 16
    both = draws.normal(0, [3, 4], ["a", "b"], "noise", (2, 3))
    assert both.shape == (2, 2, 3)
    assert torch.equal(both[1], draws.normal(0, 4, ["b"], "noise", (2, 3))[0])


def test_frozen_values() -> None:
    """A resumed run of an older version draws the same."""
    assert draws.digest(1, 2, "key", "noise") == 9661747783927193696
    assert [draws.integer(1, 2, key, "timestep", 0, 1000) for key in "abc"] == [80, 537, 771]


@settings(deadline=None, max_examples=50)
@given(low=st.integers(-5, 5), size=st.integers(1, 7), key=st.text())
def test_integers_stay_in_their_range(low: int, size: int, key: str) -> None:
    assert low <= draws.integer(0, 0, key, "any", low, low + size) < low + size


def test_fractions_are_even_and_normals_normal() -> None:
    keys = [str(number) for number in range(4000)]
    fractions = draws.uniform(0, 0, keys, "prompt")
    assert abs(fractions.mean() - 0.5) < 0.02
    assert 0 <= fractions.min() < fractions.max() < 1
    timesteps = torch.tensor([draws.integer(0, 0, key, "timestep", 0, 4) for key in keys]).bincount()
    assert (timesteps - 1000).abs().max() < 120
    noise = draws.normal(0, 0, keys[:500], "noise", (16,))
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
