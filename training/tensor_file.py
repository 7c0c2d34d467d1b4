"""Reading and writing files of tensors: safetensors, and PyTorch files that hold nothing else."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from controlmill.errors import StorageWriteError, WeightsUnusableError


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or PyTorch file by name, on the CPU; nothing in it is run.

    A table of tensors under "state_dict" or "model", as trainers write it, is taken out.

    Raises:
        WeightsUnusableError: the file holds objects other than tensors and containers, or is none of these formats.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsUnusableError(
            f"weights: {path} holds more than tensors, and unpickling that could run any code; convert it to "
            "safetensors on a machine where you trust it"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError, KeyError, OSError) as error:
        text = " ".join(str(error).split())[:300]
        raise WeightsUnusableError(f"weights: {path} is not a file of tensors: {text}") from error
    for name in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
            break
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise WeightsUnusableError(f"weights: {path} is not a table of tensors by name")
    return {str(name): value for name, value in loaded.items()}


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write safetensors under a temporary name, then rename; the same tensors make the same bytes.

    Raises:
        StorageWriteError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    plain = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(plain, temporary, metadata={"format": "pt"})
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise StorageWriteError(f"cannot write {path}: {' '.join(str(error).split())}") from error
