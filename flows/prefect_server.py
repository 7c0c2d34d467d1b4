"""The Prefect server of one run: a child process on loopback that ends when its parent does, however that ends.

Run as `python -m flows.prefect_server PORT`. The parent holds the write end of this process's standard input; when the
parent is gone (also after SIGKILL) the read end sees end-of-file and the server stops: no polling, on any POSIX system.
"""

import os
import signal
import sys
import threading

_SHUTDOWN_S = 3.0


def _stop_with_parent() -> None:
    # not sys.stdin: a thread that waits inside of it makes the interpreter's exit a fatal error
    while os.read(0, 4096):
        pass
    # A server that is still starting, or that waits for a client, must not outlive the run.
    threading.Timer(_SHUTDOWN_S, os._exit, args=(0,)).start()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve the Prefect API and pages on 127.0.0.1 at the port given as the only argument."""
    threading.Thread(target=_stop_with_parent, daemon=True).start()

    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.run(create_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="error", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
