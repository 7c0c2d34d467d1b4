"""How this process takes and gives back memory for tensors."""

import ctypes

# malloc.h of glibc
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed for what comes next, in this process from now on; whether it does.

    A network on a CPU takes and frees the same large blocks at every layer. glibc maps each block above 32 MiB anew
    and gives it back at once, and the kernel fills its pages with zeros: a fifth of HED's CPU time at 512x512. The
    process stays as large as it once was. Another libc than glibc is left as it is.

    Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # one arena, for only the first can grow as it must: threads that come later use it too
    return all([mallopt(_ARENA_MAX, 1), mallopt(_MMAP_MAX, 0), mallopt(_TRIM_THRESHOLD, -1)])
