"""The ASGI application of `make_app` on a uvicorn server in a thread."""

from __future__ import annotations

import logging
import socket
import threading
from heapq import nsmallest
from typing import TYPE_CHECKING, Any, Self, Unpack

from metrics_adapters.http.app import WebApp, make_app
from metrics_adapters.http.options import DEFAULT_MAX_CLIENTS, DEFAULT_TIMEOUT_SECONDS, AppOptions
from metrics_adapters.http.server import check_address, listen, local_url
from metrics_framework.errors import MissingExtraError
from metrics_framework.log import Isolation, log_event
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.system import MetricsSystem

if TYPE_CHECKING:
    import asyncio

    import uvicorn

MAX_OTHER_CONNECTIONS = 100
"""The number of open connections beside those of ``max_clients`` streams.

For a further one, the connection is closed that waits for a request, or for the rest of one, for longest.
"""

MIN_REQUEST_SECONDS = 0.25
"""How long a new connection has to send its request, before it may be closed for another one.

In a burst, up to twice as many connections are therefore open. Otherwise, one that belongs to a scrape would
often be closed before its request was read.
"""

_BACKLOG = 100  # the connections that asyncio accepts before the limit is applied
_MAX_TIMER_SECONDS = 86_400.0
_GRACEFUL_CLOSE_SECONDS = 2  # for responses in progress when the server is closed


def serve_app(
    system: MetricsSystem, port: int, addr: str = "127.0.0.1", **options: Unpack[AppOptions]
) -> AppServer:
    """Serve a system over HTTP in a daemon thread: see `make_app`.

    It needs the extra ``web``. A forked child does not serve.

    Args:
        system: The system to serve.
        port: The port to listen on; 0 for a free port, which is ``port`` of the result.
        addr: The address to listen on. By default only this machine can connect.
        **options: The keyword arguments of `make_app`. On Linux, the connection of a client that does not
            read is closed after twice the ``timeout``.

    Raises:
        InvalidInputError: If an argument is invalid.
        MissingExtraError: If uvicorn is not installed.
        OutputError: If the port is in use or not allowed.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> with serve_app(MetricsSystem(), 0) as server:
        ...     server.url == f"http://127.0.0.1:{server.port}"
        True
    """
    check_address(addr, port)
    server = _server(
        make_app(system, **options),
        max_connections=options.get("max_clients", DEFAULT_MAX_CLIENTS) + MAX_OTHER_CONNECTIONS,
        request_timeout=min(options.get("timeout", DEFAULT_TIMEOUT_SECONDS), _MAX_TIMER_SECONDS),
    )
    listener = listen(addr, port)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Connections inherit it. Without it, the connection of a client that stops reading stays open as long
        # as the client lives. Twice the time lets the application time out first, because it logs the reason.
        timeout = options.get("timeout", DEFAULT_TIMEOUT_SECONDS)
        milliseconds = min(round(2 * timeout * 1000), 2**31 - 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return AppServer(server, listener)


def _server(app: WebApp, max_connections: int, request_timeout: float) -> uvicorn.Server:
    """Return a server.

    uvicorn accepts connections without a limit, never closes one whose first request does not arrive, and
    logs a line for each malformed request, so its protocol is extended.
    """
    try:
        import uvicorn
        from uvicorn.protocols.http.h11_impl import H11Protocol
    except ImportError:
        raise MissingExtraError("serve_app", "web") from None

    # Outside the hierarchy of loggers, so that the level of the application's logger is unchanged.
    errors = logging.Logger("uvicorn.error", logging.ERROR)  # noqa: LOG001
    errors.parent = logging.getLogger("uvicorn.error")

    class Protocol(H11Protocol):
        """Closes connections that wait for a request: after a time limit, or in favour of a new one."""

        _timer: asyncio.TimerHandle | None = None

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.logger = errors
            self.access_log = False  # scrapes are frequent, and requests may contain secrets

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._watch()
            excess = len(self.connections) - max_connections
            if excess > 0:
                waiting = {
                    one._timer.when(): one
                    for one in self.connections
                    if isinstance(one, Protocol) and one._timer is not None
                }
                young = self.loop.time() + request_timeout - MIN_REQUEST_SECONDS
                for when in nsmallest(excess, waiting):
                    if when > young and len(self.connections) <= 2 * max_connections:
                        break
                    waiting[when].transport.abort()
                    self.connections.discard(waiting[when])

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            if self._timer is not None:
                self._timer.cancel()

        def _watch(self) -> None:
            # The timer stays until the body is complete: an application may wait for the rest of it.
            if self.cycle is not None and not (self.cycle.response_complete or self.cycle.more_body):
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
            elif self._timer is None:
                self._timer = self.loop.call_later(request_timeout, self.transport.abort)

    class Server(uvicorn.Server):
        """Ends the streams before it waits for its connections."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.end_streams()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        backlog=_BACKLOG,
        log_config=None,  # leaves the logging of the application unchanged
        timeout_graceful_shutdown=_GRACEFUL_CLOSE_SECONDS,
        server_header=False,
    )
    return Server(config)


class AppServer:
    """A running server, which `serve_app` returns. It is closed at the end of its ``with`` block.

    Args:
        server: The uvicorn server.
        listener: The listening socket.

    Attributes:
        port: The port that it listens on.
        url: Its URL for a client on this machine.
    """

    def __init__(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self._server = server
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self.url = local_url(listener)
        self._isolation = Isolation()
        self._thread = threading.Thread(target=self._run, name="metrics-app", daemon=True)
        reset_after_fork(self, AppServer._reset_after_fork, ForkOrder.STATE)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<AppServer {self.url}{' closed' if self.closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it has stopped accepting connections."""
        return self._server.should_exit or not self._thread.is_alive()

    def close(self) -> None:
        """Stop listening, end all streams, give responses two seconds to finish, and stop the thread.

        A second call does nothing, except to wait for a call in progress.
        """
        self._server.should_exit = True
        if self._thread is not threading.current_thread():
            self._thread.join(2 * _GRACEFUL_CLOSE_SECONDS + 1)
            if self._thread.is_alive():
                log_event("warning", "a server goes on after it was closed", url=self.url)

    def _run(self) -> None:
        self._isolation.call("server failed", lambda: self._server.run([self._listener]), url=self.url)
        self._listener.close()

    def _reset_after_fork(self) -> None:
        # The thread and the port belong to the parent.
        self._server.should_exit = True
        self._listener.close()
