"""The scrape server: a thread that accepts connections, and a thread for each connection."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Self, Unpack

from metrics_adapters.http.connection import Connection
from metrics_adapters.http.options import EndpointOptions
from metrics_adapters.http.scrape import Endpoint
from metrics_adapters.http.tls import Certificates, StrPath
from metrics_adapters.prometheus.targets import Target
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.log import Isolation, log_event
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.validation import check_port, safe_repr

MAX_CONNECTIONS = 100
"""The number of open connections.

For a further one, a connection is closed that waits for a request or for the rest of one: the oldest of those
that have not scraped yet, or else the one that is idle for longest.
"""

_GRACEFUL_CLOSE_SECONDS = 2.0  # for scrapes in progress when the server is closed
_ABORT_SECONDS = 1.0
_ACCEPT_RETRY_SECONDS = 0.2  # after a failure to accept, such as when no file descriptor is free
_LOOPBACK_OF_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound here


def serve(
    port: int,
    addr: str = "127.0.0.1",
    *,
    metrics: Target,
    certfile: StrPath | None = None,
    keyfile: StrPath | None = None,
    client_cafile: StrPath | None = None,
    **options: Unpack[EndpointOptions],
) -> MetricsServer:
    """Serve metrics for Prometheus to scrape, in daemon threads.

    A forked child does not serve: its copies of the sockets are closed. It may call `serve` with another
    port.

    Args:
        port: The port to listen on; 0 for a free port, which is ``port`` of the result.
        addr: The address to listen on. By default only this machine can connect; ``"0.0.0.0"`` listens on all
            IPv4 addresses and ``"::"`` on all IPv4 and IPv6 addresses.
        metrics: The metrics to expose: a `MetricsSystem`, a collector, a `Store` or an `Exposition`.
        certfile: The certificate of the server in PEM, for TLS. A renewed file is used at once.
        keyfile: The private key; by default it is in ``certfile``.
        client_cafile: The certificate authorities of the client certificates, for mutual TLS. By default
            clients need no certificate.
        **options: ``registry``, ``callbacks``, ``bearer_token``, ``basic_auth``, ``path``, ``max_scrapes``
            and ``timeout``: see `EndpointOptions`. The time limit applies to reading a request, to its scrape
            and to sending the response separately.

    Raises:
        InvalidInputError: If an argument is invalid.
        OutputError: If the port is in use or not allowed.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> with serve(0, metrics=MetricsSystem()) as server:
        ...     server.url == f"http://127.0.0.1:{server.port}/metrics"
        True
    """
    check_address(addr, port)
    endpoint = Endpoint(metrics, **options)
    certificates = None
    if certfile is not None:
        certificates = Certificates(certfile, keyfile, client_cafile)
    elif keyfile is not None or client_cafile is not None:
        raise InvalidInputError("keyfile and client_cafile require certfile, the certificate of the server")
    return MetricsServer(listen(addr, port), endpoint, certificates)


class MetricsServer:
    """A running scrape server, which `serve` returns. It is closed at the end of its ``with`` block.

    Args:
        listener: The listening socket.
        endpoint: The metrics.
        certificates: The certificates for TLS; ``None`` for plain HTTP.

    Attributes:
        port: The port that it listens on.
        url: The URL of the metrics for a client on this machine.
    """

    def __init__(
        self, listener: socket.socket, endpoint: Endpoint, certificates: Certificates | None
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._endpoint = endpoint
        self._certificates = certificates
        self.port: int = listener.getsockname()[1]
        self.url = f"{local_url(listener, 'http' if certificates is None else 'https')}{endpoint.path}"
        self._isolation = Isolation()
        self._lock = threading.RLock()  # reentrant: a signal handler may call `close` during `close`
        self._closed = False
        self._connections: dict[Connection, threading.Thread] = {}
        self._awake, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="metrics-server", daemon=True)
        reset_after_fork(self, MetricsServer._reset_after_fork, ForkOrder.STATE)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.url}{' closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it has stopped accepting connections."""
        return self._closed

    def close(self) -> None:
        """Stop listening, give scrapes in progress two seconds to finish, and stop all threads.

        A second call does nothing, except to wait for a call in progress.
        """
        with self._lock:
            self._closed = True
            connections = dict(self._connections)
        self._wake.close()
        for connection in connections:
            connection.close_when_idle()
        _join([self._thread, *connections.values()], _GRACEFUL_CLOSE_SECONDS)
        for connection in connections:
            connection.abort()
        late = _join(connections.values(), _ABORT_SECONDS)
        if late:
            log_event("warning", "scrapes go on after their server was closed", scrapes=late)

    def _run(self) -> None:
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while not self._closed:
            self._selector.select()
            if not self._closed and not self._isolation.call("no connection accepted", self._accept):
                time.sleep(_ACCEPT_RETRY_SECONDS)
        for resource in (self._selector, self._listener, self._awake):
            resource.close()

    def _accept(self) -> bool:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return True  # the client has disconnected already
        try:
            if self._certificates is not None:
                # The thread of the connection makes the handshake, which may block.
                sock = self._certificates.context().wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
        except OSError:
            sock.close()
        else:
            self._start(Connection(sock, self._endpoint))
        return True

    def _start(self, connection: Connection) -> None:
        thread = threading.Thread(
            target=self._serve, args=[connection], name="metrics-server-connection", daemon=True
        )
        with self._lock:
            if self._closed or not self._make_room():
                connection.close()
                return
            self._connections[connection] = thread
        try:
            thread.start()
        except RuntimeError:  # no thread can be started
            self._finish(connection)
            raise

    def _serve(self, connection: Connection) -> None:
        self._isolation.call("connection failed", connection.serve)
        self._finish(connection)

    def _finish(self, connection: Connection) -> None:
        connection.close()
        with self._lock:
            self._connections.pop(connection, None)

    def _make_room(self) -> bool:
        """Return whether a further connection may be open. A waiting one may be closed for it."""
        if len(self._connections) < MAX_CONNECTIONS:
            return True
        waiting = [
            (one.has_scraped, since, number, one)
            for number, one in enumerate(self._connections)
            if not one.is_closing and (since := one.idle_since) is not None
        ]
        if waiting:
            *_, connection = min(waiting)
            connection.close_when_idle()
        return bool(waiting)

    def _reset_after_fork(self) -> None:
        # The sockets belong to the parent. Closing the copies of the child leaves them open there.
        self._lock = threading.RLock()
        self._closed = True
        for close in (
            *(one.close for one in (self._selector, self._listener, self._awake, self._wake)),
            *(one.close for one in self._connections),
        ):
            with suppress(OSError):
                close()
        self._connections = {}


def check_address(addr: str, port: int) -> None:
    """Check where to listen.

    Raises:
        InvalidInputError: If the address or the port is invalid.
    """
    check_port("port", port)
    if not isinstance(addr, str):
        raise InvalidInputError(f"addr={safe_repr(addr)} is not an address: pass a string like '127.0.0.1'")


def local_url(listener: socket.socket, scheme: str = "http") -> str:
    """Return the URL of a listening socket for a client on this machine."""
    address: str = listener.getsockname()[0]
    port: int = listener.getsockname()[1]
    host = _LOOPBACK_OF_ANY.get(address, address)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(addr: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OutputError: If the port is in use or not allowed.
    """
    try:
        if addr == "::" and socket.has_dualstack_ipv6():
            listener = socket.create_server((addr, port), family=socket.AF_INET6, dualstack_ipv6=True)
        else:
            found = socket.getaddrinfo(addr or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            listener = socket.create_server((addr, port), family=found[0][0])
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if isinstance(error, OSError) and number and number > 0 else str(error)
        remedy = ": pass another port, or 0 for a free one" if number == errno.EADDRINUSE else ""
        raise OutputError(f"cannot listen on {safe_repr(addr)}, port {port}: {reason}{remedy}") from error
    # Connections inherit this. Without it, a second write waits up to 40 ms for the acknowledgement of the
    # first. asyncio sets it only for sockets that were created with a protocol number.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _join(threads: Iterable[threading.Thread], seconds: float) -> int:
    """Wait up to ``seconds`` in all for threads to end, and return how many are still running."""
    deadline = time.monotonic() + seconds
    others = [one for one in threads if one is not threading.current_thread()]
    for thread in others:
        if thread.is_alive():
            thread.join(max(deadline - time.monotonic(), 0.0))
    return sum(one.is_alive() for one in others)
