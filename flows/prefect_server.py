"""The Prefect server of one run: a child process that ends when its parent does, however that ends.

Run as `python -m flows.prefect_server ADDRESS PORT`. The parent holds the write end of this process's standard input;
when the parent is gone (also after SIGKILL) the read end sees end-of-file and the server stops: no polling, on any
POSIX system. SIGTERM alone does not end it: who sends it to all processes of a job, as Ray does, must not take the
server from a run that is about to tell it how it ended.
"""

import asyncio
import os
import signal
import socket
import sys
import threading
from typing import Any

LOOPBACK = "127.0.0.1"
_SHUTDOWN_S = 3.0


def address_in_cluster() -> str:
    """This machine's address as other nodes of its Ray cluster know it: a job has tasks on all of them."""
    host, _, port = os.environ.get("RAY_ADDRESS", "").rpartition(":")
    if not host or not port.isdigit():
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # sends nothing: it asks the system which of its addresses faces the head node
        probe.connect((host, int(port)))
        address: str = probe.getsockname()[0]
    return address


def _stop_with_parent(servers: list[Any]) -> None:
    # not sys.stdin: a thread that waits inside of it makes the interpreter's exit a fatal error
    while os.read(0, 4096):
        pass
    # A server that is still starting, or that waits for a client, must not outlive the run.
    threading.Timer(_SHUTDOWN_S, os._exit, args=(0,)).start()
    for server in servers:
        server.should_exit = True


async def _serve(server: Any) -> None:
    await server.serve()
    # all is answered and closed: the ends of the loop and of the interpreter would take seconds
    os._exit(0)


def main() -> None:
    """Serve the Prefect API and pages at the address and port given as arguments."""
    # before there is a second thread, which would get it
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    servers: list[Any] = []
    threading.Thread(target=_stop_with_parent, args=(servers,), daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    address, port = sys.argv[1], int(sys.argv[2])
    config = uvicorn.Config(create_app(), address, port, log_level="error", timeout_graceful_shutdown=1)
    servers.append(uvicorn.Server(config))
    asyncio.run(_serve(servers[0]))


if __name__ == "__main__":
    main()
