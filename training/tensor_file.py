"""Writing files of tensors; `storage.weights.tensors` reads them."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from controlmill.errors import StorageWriteError


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
