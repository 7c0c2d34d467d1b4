"""Seeds of rows."""

from tasks.captioners.seeds import row_seed


def test_a_seed_is_the_same_everywhere_and_for_ever() -> None:
    assert row_seed(0, "0000001") == 5270926267169887965


def test_seeds_differ_by_seed_and_key() -> None:
    assert len({row_seed(seed, f"{key:07d}") for seed in range(10) for key in range(100)}) == 1000


def test_torch_takes_them() -> None:
    assert all(0 <= row_seed(seed, "key") < 2**63 for seed in range(1000))
