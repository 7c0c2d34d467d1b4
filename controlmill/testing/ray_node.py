"""Another node of a Ray cluster on this machine, with files of its own as another machine would have.

Usage: `python -m controlmill.testing.ray_node ADDRESS FOLDER NUM_CPUS OBJECT_STORE_BYTES`.

`ray start` refuses second nodes where Ray is told to keep to loopback; this does what it would. Ends with SIGTERM.
"""

import signal
import sys
from importlib import import_module


def main(address: str, folder: str, num_cpus: str, object_store_bytes: str) -> None:
    """Join the cluster and wait for the end."""
    # by name: tests need Ray, and what they share is a part of the foundation, which does not
    node_module, parameter_module = (import_module(f"ray._private.{name}") for name in ("node", "parameter"))
    wanted = parameter_module.RayParams(
        gcs_address=address,
        temp_dir=folder,
        node_ip_address="127.0.0.1",
        num_cpus=int(num_cpus),
        object_store_memory=int(object_store_bytes),
        min_worker_port=0,
        max_worker_port=0,
        node_manager_port=0,
        dashboard_agent_listen_port=0,
    )
    node = node_module.Node(wanted, head=False, shutdown_at_exit=False, spawn_reaper=False)
    sys.stdout.write("Ray runtime started\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM})
    node.kill_all_processes(check_alive=False, allow_graceful=True)


if __name__ == "__main__":
    # before any thread is there: only the one that waits gets it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    main(*sys.argv[1:])
