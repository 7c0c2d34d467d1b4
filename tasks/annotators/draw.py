"""Random numbers of a row: from (seed, key, name) alone, so that no order and no number of workers changes them."""

from hashlib import blake2b


def draw_integer(low: int, high: int, *, seed: int, key: str, name: str) -> int:
    """A whole number from low to high, both included, drawn uniformly for the row `key`; `name` separates draws."""
    digest = blake2b(f"{seed}/{key}/{name}".encode(), digest_size=8).digest()
    return low + int.from_bytes(digest) % (high - low + 1)
