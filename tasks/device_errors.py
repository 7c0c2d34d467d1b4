"""What an error of a network says about its machine, without importing torch."""

from collections.abc import Sequence

from controlmill.errors import DeviceLostError

_LONGEST = 300


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory was too little, of the machine or of a device: torch's error for a device is no MemoryError."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"


def is_lost(error: Exception) -> bool:
    """Whether this process cannot use its GPU any more: after a CUDA error every later call fails, on any image."""
    kind = type(error).__name__
    return kind == "AcceleratorError" or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def lost(name: str, error: Exception) -> DeviceLostError:
    """What a unit raises where `is_lost`."""
    return DeviceLostError(f"{name}: {told(error)}; this process cannot use its GPU any more: run the command again")


def told(error: Exception) -> str:
    """Kind and text of an error in a line that is not too long."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_LONGEST]}"


def too_large(name: str, shape: Sequence[int], error: Exception) -> MemoryError:
    """What a unit raises where one image (H, W, …) alone does not fit: the machine's trouble, not the image's."""
    return MemoryError(f"{name}: one image of {shape[1]}x{shape[0]} alone does not fit into memory: {told(error)}")
