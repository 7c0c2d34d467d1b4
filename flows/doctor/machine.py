"""What of the machine the networks and the engines need: GPUs, NCCL, a compiler, shared memory, open files."""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from flows.doctor.finding import Finding

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - it is looked at, not written to
_OBJECT_STORE_BYTES = 128 * 2**20
_MIN_OPEN_FILES = 4096


def gpus() -> Iterator[Finding]:
    """GPUs as torch sees them, and NCCL, through which they exchange gradients."""
    import torch

    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi"):
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
            remedy = "compare `nvidia-smi` with what torch was built for; update the driver or install another torch"
            yield Finding(
                "GPU", "problem", f"there is a driver, but torch {torch.__version__}, {built}, uses none", remedy
            )
        else:
            yield Finding("GPU", "note", "none: networks work on the CPU", "training wants one; the demo does not")
        return
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    text = ", ".join(f"{one.name} ({one.total_memory / 2**30:.0f} GiB)" for one in found)
    yield Finding("GPU", "good", f"{text}; CUDA {torch.version.cuda}")
    if not torch.distributed.is_nccl_available():
        remedy = "for training on several GPUs install a torch that has it"
        yield Finding("NCCL", "problem" if len(found) > 1 else "note", "torch was built without it", remedy)
        return
    yield Finding("NCCL", "good", ".".join(map(str, torch.cuda.nccl.version())))  # type: ignore[no-untyped-call]


def compiler() -> Iterator[Finding]:
    """A C++ compiler: DeepSpeed builds its own optimizers with it, where the optimizer is offloaded."""
    found = next(
        (path for name in (os.environ.get("CXX"), "c++", "g++") if name and (path := shutil.which(name))), None
    )
    if found:
        yield Finding("C++ compiler", "good", found)
    else:
        yield Finding("C++ compiler", "note", "none", "only --offload-optimizer needs one: install g++")


def limits() -> Iterator[Finding]:
    """What Ray takes from the system."""
    if _SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(_SHARED_MEMORY).free
        text = f"{free / 2**20:,.0f} MiB free in {_SHARED_MEMORY}"
        if free < _OBJECT_STORE_BYTES:
            remedy = "Ray falls back to the disk, slowly; in a container: docker run --shm-size=1g"
            yield Finding("shared memory", "note", text, remedy)
        else:
            yield Finding("shared memory", "good", text)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _MIN_OPEN_FILES:
        remedy = f"ulimit -n {_MIN_OPEN_FILES}" + ("" if hard >= _MIN_OPEN_FILES else " (ask whoever runs the machine)")
        yield Finding("open files", "note", f"at most {soft}", remedy)
    else:
        yield Finding("open files", "good", f"at most {soft:,}")
