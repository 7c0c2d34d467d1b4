"""A file of weights is read here and nowhere else: tensors and nothing else, whatever the file claims to hold."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from controlmill.errors import WeightsUnusableError

if TYPE_CHECKING:
    from torch import Tensor

_WRAPPERS = ("state_dict", "model", "model_state_dict")


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """The tensors of a `.safetensors` or PyTorch file, on the CPU, by name; nothing in it is run.

    Files of trainers that keep the tensors under "model" or "state_dict" are unwrapped, and names freed of the
    "module." of data-parallel training.

    Raises:
        WeightsUnusableError: the file holds objects other than tensors and containers, or is none of these formats.
    """
    import torch
    from safetensors import SafetensorError

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsUnusableError(
            f"weights: {path} holds more than tensors, and unpickling that could run any code; convert it to "
            "safetensors on a machine where you trust it"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        raise WeightsUnusableError(f"weights: {path} is not a file of tensors: {first_line(error)}") from error
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise WeightsUnusableError(f"weights: {path} is not a table of tensors by name")
    return {str(name).removeprefix("module."): value for name, value in loaded.items()}


def first_line(error: BaseException) -> str:
    """What torch says is wrong; its own first line only says that there were errors."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else " ".join(lines[:1])
    return text[:300] or type(error).__name__
