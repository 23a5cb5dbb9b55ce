"""The application as a server of its own, on uvicorn in a thread."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Self, TypedDict, Unpack

from metrics_adapters.http.app import WebApp, make_app
from metrics_adapters.http.scrape import TIMEOUT
from metrics_adapters.http.server import check_address, listen, url_of
from metrics_framework.errors import MissingExtraError
from metrics_framework.log import Isolation, log_event
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.system import MetricsSystem

if TYPE_CHECKING:
    import uvicorn

_GRACE_SECONDS = 2  # for answers that are under way when a server is closed


def serve_app(
    system: MetricsSystem,
    port: int,
    addr: str = "127.0.0.1",
    *,
    timeout: float = TIMEOUT,
    **options: Unpack[Options],
) -> AppServer:
    """Serve a system by `make_app`, in a thread that keeps no interpreter alive.

    It needs the extra ``web``. A forked child does not serve.

    Args:
        system: What is served.
        port: Where to listen; 0 for a free port, which ``port`` of the result says.
        addr: The address to listen on, that of this machine alone by default.
        timeout: How many seconds an answer may take, and how many a client may take to read it; where the
            system can (Linux), the connection of one that does not is broken after twice as many.
        **options: The other arguments of `make_app`.

    Raises:
        InvalidInputError: If an argument is not what it has to be.
        MissingExtraError: If uvicorn is not installed.
        OutputError: If the port is in use or not allowed.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> with serve_app(MetricsSystem(), 0) as server:
        ...     server.url == f"http://127.0.0.1:{server.port}"
        True
    """
    check_address(addr, port)
    app = make_app(system, timeout=timeout, **options)
    server = _server(app)
    listener = listen(addr, port)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Connections take it over. Without it, one whose client reads no more stays as long as that lives; it
        # is twice the time, so that the application, which knows more, is usually the first to give it up.
        milliseconds = min(round(2 * timeout * 1000), 2**31 - 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return AppServer(server, listener)


def _server(app: WebApp) -> uvicorn.Server:
    try:
        import uvicorn
    except ImportError:
        raise MissingExtraError("serve_app", "web") from None

    class Server(uvicorn.Server):
        """Ends the streams before it waits for its connections."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.end_streams()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        ws="none",
        log_config=None,  # the application's own logging is to stay what it is
        timeout_graceful_shutdown=_GRACE_SECONDS,
        server_header=False,
    )
    return Server(config)


class Options(TypedDict, total=False):
    """The arguments of `make_app` that `serve_app` passes on."""

    endpoints: Iterable[str]
    prefix: str
    bearer_token: str | None
    basic_auth: tuple[str, str] | None
    allow_origins: Iterable[str]
    max_clients: int
    buffer: int
    heartbeat: float


class AppServer:
    """A running server; as a context manager it is closed at the end. `serve_app` makes one.

    Args:
        server: What serves.
        listener: Where it accepts connections.

    Attributes:
        port: Where it listens.
        url: Its address, for a client on this machine.
    """

    def __init__(self, server: uvicorn.Server, listener: socket.socket) -> None:
        self._server = server
        self._listener = listener
        self.port: int = listener.getsockname()[1]
        self.url = url_of(listener)
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
        """Whether it takes no more connections."""
        return self._server.should_exit or not self._thread.is_alive()

    def close(self) -> None:
        """Stop listening, end all streams, let answers end for two seconds, and end the thread.

        Calling it again does nothing, and waits where another thread is at it.
        """
        self._server.should_exit = True
        if self._thread is not threading.current_thread():
            self._thread.join(2 * _GRACE_SECONDS + 1)
            if self._thread.is_alive():
                log_event("warning", "a server goes on after it was closed", url=self.url)

    def _run(self) -> None:
        self._isolation.call("server failed", lambda: self._server.run([self._listener]), url=self.url)
        self._listener.close()

    def _reset_after_fork(self) -> None:
        # The thread is the parent's, and so is the port.
        self._server.should_exit = True
        self._listener.close()
