"""Which images go through a network together."""

from collections.abc import Hashable, Mapping


def same_size(sizes: Mapping[int, Hashable], batch_size: int) -> list[list[int]]:
    """Indices of images of one size, at most `batch_size` of them together, in the order that they come in."""
    by_size: dict[Hashable, list[int]] = {}
    for index, size in sizes.items():
        by_size.setdefault(size, []).append(index)
    return [same[start : start + batch_size] for same in by_size.values() for start in range(0, len(same), batch_size)]
