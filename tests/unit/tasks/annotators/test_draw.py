from tasks.annotators.draw import draw_integer


def _draw(key: str, seed: int = 0, name: str = "low") -> int:
    return draw_integer(50, 120, seed=seed, key=key, name=name)


def test_is_a_function_of_seed_key_and_name() -> None:
    assert _draw("000000001") == _draw("000000001") == 87
    assert len({_draw("000000001", seed) for seed in range(20)}) > 10
    assert len({_draw("000000001", name=str(name)) for name in range(20)}) > 10


def test_covers_the_range_evenly_with_both_ends() -> None:
    drawn = [_draw(f"{row:09d}") for row in range(7100)]
    counts = {value: drawn.count(value) for value in range(50, 121)}
    assert sum(counts.values()) == 7100
    assert min(counts.values()) > 60
    assert max(counts.values()) < 145


def test_a_range_of_one_number_is_that_number() -> None:
    assert draw_integer(7, 7, seed=1, key="k", name="n") == 7
