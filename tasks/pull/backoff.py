"""When to try again."""

import random

_BASE_S = 0.5
_LONGEST_S = 30.0


def backoff_s(url: str, attempt: int) -> float:
    """Seconds to wait after the failed `attempt` (1, 2, …): exponential, with full jitter, the same for the same URL.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("full jitter").
    """
    longest_s = min(_LONGEST_S, _BASE_S * 2 ** min(attempt, 16))
    return random.Random(f"{attempt} {url}").uniform(0, longest_s)  # noqa: S311, spreads load, keeps no secret
