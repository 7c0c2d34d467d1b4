"""An S3-compatible server on loopback, for tests: moto's, in a process of its own, with one empty bucket."""

import subprocess
import sys
from types import TracebackType
from typing import Self

BUCKET = "bucket"

_SERVE = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(port, flush=True)
sys.stdin.read()
server.stop()
"""


class S3Server:
    """Runs from entering the `with` block to leaving it, and never longer than the process that started it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _SERVE]
        self._process = subprocess.Popen(  # noqa: S603 - our own text
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables through which fsspec and the SDK find this server, as users set them for theirs."""
        return {
            "FSSPEC_S3_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",  # no secret: moto takes any
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        if self._process.stdout is None:
            raise RuntimeError("the server has no output")
        port = self._process.stdout.readline().strip()
        if not port:
            self._stop()
            raise RuntimeError("moto's server did not start: is moto[server] installed?")
        self.endpoint_url = f"http://127.0.0.1:{port}"
        self._make_bucket()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _make_bucket(self) -> None:
        import urllib.request

        request = urllib.request.Request(f"{self.endpoint_url}/{BUCKET}", method="PUT")  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            answer.read()

    def _stop(self) -> None:
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
