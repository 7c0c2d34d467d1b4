"""How the ranks of a run find each other, for Ray Train.

As Ray's own set-up for torch (`ray.train.torch.config` of Ray 2.60), but for two things. The ranks meet at one
address: a store of torch's own listens on all of them. And torch is imported by the ranks alone: neither the process
that starts the run nor Ray's controller needs it, and it is seconds and 450 MB for each.
"""

import os
import socket
from contextlib import suppress
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

_TIMEOUT_S = 1800
_SHUTDOWN_S = 30.0
_stores: list[Any] = []
"""The store of this process lives as long as it does."""


class ProcessGroup(BackendConfig):
    """The ranks are connected by `backend`: nccl or gloo."""

    def __init__(self, backend: str) -> None:
        self.backend = backend

    @property
    def backend_cls(self) -> type["_Backend"]:
        """What Ray sets the ranks up with."""
        return _Backend


class _Backend(Backend):
    share_cuda_visible_devices = True
    """NCCL reaches the GPUs of other ranks on a node directly."""

    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:  # type: ignore[override]
        """Open the store at the first rank, then connect all of them."""
        meeting: tuple[str, int] = worker_group.execute_single(0, _open_store)
        size = len(worker_group)
        joining = [
            worker_group.execute_single_async(rank, _join, backend_config.backend, rank, size, meeting)
            for rank in range(size)
        ]
        ray.get(joining)

    def on_shutdown(self, worker_group: Any, backend_config: ProcessGroup) -> None:  # type: ignore[override]
        """Take leave in order; a rank that hangs is ended all the same."""
        del backend_config
        with suppress(ray.exceptions.GetTimeoutError):
            ray.get(worker_group.execute_async(_leave, len(worker_group)), timeout=_SHUTDOWN_S)


def _open_store() -> tuple[str, int]:
    """A store that listens at this node's address in the cluster and nowhere else; that address and its port."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    listening = socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    port: int = listening.getsockname()[1]
    _stores.append(TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=listening.detach()))
    return address, port


def _join(backend: str, rank: int, size: int, meeting: tuple[str, int]) -> None:
    from ray.train.torch.config import _set_torch_distributed_env_vars, _setup_torch_process_group

    address, port = meeting
    # all ranks are clients of the store that the first one has opened
    os.environ.update(MASTER_ADDR=address, MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    if address.startswith(("127.", "::1")):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", socket.if_indextoname(1))  # or it listens where our name leads
    _set_torch_distributed_env_vars()  # type: ignore[no-untyped-call]
    _setup_torch_process_group(backend, rank, size, "env://", _TIMEOUT_S)


def _leave(size: int) -> None:
    from ray.train.torch.config import _shutdown_torch

    _shutdown_torch(destroy_process_group=size > 1)  # type: ignore[no-untyped-call]
