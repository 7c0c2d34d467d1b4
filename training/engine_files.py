"""What DeepSpeed reads of a checkpoint: tensors, and a few plain classes of its own. Nothing that a pickle says is run.

DeepSpeed loads with `weights_only=False`; a switch of torch's in the environment overrules it
(https://docs.pytorch.org/docs/stable/notes/serialization.html). Run as a program, with DeepSpeed's own options, this
module writes the universal form of a checkpoint in that way.
"""

import importlib
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from controlmill.errors import RunUnusableError

_SWITCH = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_PLAIN = {
    "deepspeed.runtime.fp16.loss_scaler": ("LossScaler", "DynamicLossScaler"),
    "deepspeed.runtime.zero.config": ("ZeroStageEnum",),
    "deepspeed.utils.tensor_fragment": ("fragment_address",),
}
"""Classes whose objects DeepSpeed keeps beside tensors; making one runs nothing."""


@contextmanager
def only_tensors(folder: str) -> Iterator[None]:
    """Within the `with` block torch loads tensors and plain values only.

    Raises:
        RunUnusableError: a file of the checkpoint in `folder` holds something else.
    """
    plain = [getattr(importlib.import_module(module), name) for module, names in _PLAIN.items() for name in names]
    before = os.environ.get(_SWITCH)
    os.environ[_SWITCH] = "1"
    try:
        with torch.serialization.safe_globals(plain):
            yield
    except pickle.UnpicklingError as error:
        raise RunUnusableError(
            f"{folder}: it holds more than tensors, which could run anything, and is not read; "
            "go on from a checkpoint that controlmill has written"
        ) from error
    finally:
        os.environ.pop(_SWITCH)
        if before is not None:
            os.environ[_SWITCH] = before


if __name__ == "__main__":
    from deepspeed.checkpoint import ds_to_universal

    words = ds_to_universal.parse_arguments()
    try:
        with only_tensors(words.input_folder):
            ds_to_universal.main(words)
    except RunUnusableError as error:
        sys.exit(str(error))
