"""The server of the tests leaves no connection behind for a later test to be warned of."""

import socket

from controlmill.testing.http_server import HttpServer


class BreaksOff(HttpServer):
    """Cancels every conversation before its first step, as the end of the server does with the last ones."""

    def _accept(self, *streams: object) -> None:
        super()._accept(*streams)  # type: ignore[arg-type]
        self.writer = streams[1]
        for conversation in self._conversations:
            conversation.cancel()


def test_a_connection_of_the_last_moment_is_closed() -> None:
    with BreaksOff() as server, socket.create_connection(("127.0.0.1", server.port), 10) as client:
        assert client.recv(1) == b""
    assert server.writer.transport.get_extra_info("socket").fileno() == -1  # type: ignore[attr-defined]
