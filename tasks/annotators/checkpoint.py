"""The tensors of a file into a network that has exactly these."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from controlmill.errors import WeightsUnusableError
from storage.weights.tensors import first_line

if TYPE_CHECKING:
    from torch import Tensor, nn


def fill(network: "nn.Module", state: Mapping[str, "Tensor"], path: Path) -> None:
    """Put the tensors of a file into a network that has exactly these.

    Raises:
        WeightsUnusableError: naming tensors that are missing, superfluous or of another shape.
    """
    try:
        network.load_state_dict(dict(state), strict=True)
    except RuntimeError as error:
        kind = type(network).__name__
        raise WeightsUnusableError(f"weights: {path} does not fit {kind}: {first_line(error)}") from error
