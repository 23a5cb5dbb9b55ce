"""Servers that fail in each way that a client must survive, on real sockets."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trustme

TRICKLE_SECONDS = 0.2
"""The pause between two bytes of a slow server: each read succeeds in time, the whole exchange does not."""
_HEAD = b"HTTP/1.1 200 OK\r\n"


class FailingServer:
    """A server on loopback that treats each connection in the same way.

    Args:
        behave: Treats a connection.
        tls: Encrypts the connections.

    Attributes:
        port: The port.
        connections: How many connections were accepted.
    """

    def __init__(self, behave: Callable[[socket.socket], object], tls: ssl.SSLContext | None = None) -> None:
        self._behave = behave
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            self._behave(connection)


def say_nothing(connection: socket.socket) -> None:
    """Accept, and neither read nor write."""
    time.sleep(60)


def trickle_headers(connection: socket.socket) -> None:
    """Send a header that never ends, byte by byte."""
    connection.sendall(_HEAD + b"X-Slow: ")
    _trickle(connection)


def trickle_body(connection: socket.socket) -> None:
    """Send a body byte by byte."""
    connection.sendall(_HEAD + b"Content-Length: 100000\r\n\r\n")
    _trickle(connection)


def send_endless_body(connection: socket.socket) -> None:
    """Send a body that never ends, as fast as possible."""
    connection.sendall(_HEAD + b"\r\n")
    while True:
        connection.sendall(bytes(65_536))


def close(connection: socket.socket) -> None:
    """Close at once."""


def send_garbage(connection: socket.socket) -> None:
    """Send bytes that belong to no protocol."""
    connection.recv(1)
    connection.sendall(bytes(range(256)) * 40)


def _trickle(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"x")
        time.sleep(TRICKLE_SECONDS)


def redirect_to(port: int) -> Callable[[socket.socket], object]:
    """Return a behaviour that redirects to another server."""

    def redirect(connection: socket.socket) -> None:
        connection.recv(1)
        connection.sendall(
            b"HTTP/1.1 307 Temporary Redirect\r\nContent-Length: 0\r\n"
            b"Location: http://127.0.0.1:%d/elsewhere\r\n\r\n" % port
        )

    return redirect


BEHAVIOURS = {
    "silent": say_nothing,
    "slow-headers": trickle_headers,
    "slow-body": trickle_body,
    "endless": send_endless_body,
    "closing": close,
    "garbage": send_garbage,
}


@contextmanager
def failing_servers() -> Iterator[tuple[dict[str, int], FailingServer]]:
    """Run a server of each kind.

    Yields:
        The kinds with their ports, and the server that nothing may be redirected to.
    """
    trap = FailingServer(close)
    servers = {kind: FailingServer(behave) for kind, behave in BEHAVIOURS.items()}
    servers["redirecting"] = FailingServer(redirect_to(trap.port))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)  # the client does not know this authority
    servers["self-signed"] = FailingServer(send_garbage, tls)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        refusing = closed.getsockname()[1]
    try:
        yield {"refusing": refusing, **{kind: server.port for kind, server in servers.items()}}, trap
    finally:
        for server in (trap, *servers.values()):
            server.close()
