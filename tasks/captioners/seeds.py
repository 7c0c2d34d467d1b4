"""Seeds of what is drawn for one row; the standard library only, for every interpreter."""

from hashlib import blake2b


def row_seed(seed: int, key: str) -> int:
    """Seed of the words of the row `key`: from (seed, key) alone, so that no order and no worker changes them."""
    return int.from_bytes(blake2b(f"{seed}/{key}/caption".encode(), digest_size=8).digest(), "big") >> 1
