"""The scrape endpoint as a server of its own: a thread that accepts, and a thread for each connection."""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import Self

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http.connection import Conversation
from metrics_adapters.http.scrape import MAX_SCRAPES, PATH, TIMEOUT, Endpoint
from metrics_adapters.http.tls import Certificates, StrPath
from metrics_adapters.prometheus.expositions import Callbacks, Exposable
from metrics_framework.errors import InvalidInputError, OutputError
from metrics_framework.log import Isolation, log_event
from metrics_framework.validation import check_port, safe_repr

MAX_CONNECTIONS = 100
"""How many connections are held at a time; for one more, the one that has waited longest is closed."""

_GRACE_SECONDS = 2.0  # for scrapes that are under way when a server is closed
_CUT_SECONDS = 1.0
_PAUSE_SECONDS = 0.2  # where no connection can be accepted, as there are no more descriptors
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what is there, by where it listens


def serve(
    port: int,
    addr: str = "127.0.0.1",
    *,
    metrics: Exposable,
    registry: CollectorRegistry | None = None,
    callbacks: Callbacks | None = None,
    certfile: StrPath | None = None,
    keyfile: StrPath | None = None,
    client_cafile: StrPath | None = None,
    bearer_token: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    path: str = PATH,
    max_scrapes: int = MAX_SCRAPES,
    timeout: float = TIMEOUT,
) -> MetricsServer:
    """Serve metrics for Prometheus to scrape, in threads that keep no interpreter alive.

    A forked child does not serve: its copies of the sockets are closed. It may serve on a port of its own.

    Args:
        port: Where to listen; 0 for a free port, which ``port`` of the result says.
        addr: The address to listen on, that of this machine alone by default; ``"0.0.0.0"`` for any, and
            ``"::"`` for any of IPv6 too.
        metrics: What is exposed: a `MetricsSystem`, a collector, a `Store` or an `Exposition`.
        registry: A prometheus_client registry whose metrics are appended.
        callbacks: What is called before each scrape; ``metrics.callbacks`` by default, where there are any.
        certfile: The server's certificate in PEM, for TLS. Renewed files are used at once.
        keyfile: Its key; by default it is in ``certfile`` too.
        client_cafile: Who signs the certificates that clients have to have; none are asked for by default.
        bearer_token: What a request has to bear, if anything.
        basic_auth: User and password that a request has to give, if any.
        path: Where the metrics are.
        max_scrapes: How many scrapes are answered at the same time; others get the status 503.
        timeout: How many seconds a request, its scrape and its answer may take, each. Callbacks and
            ``registry`` are waited for half of it.

    Raises:
        InvalidInputError: If an argument is not what it has to be.
        OutputError: If the port is in use or not allowed.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> with serve(0, metrics=MetricsSystem()) as server:
        ...     server.url == f"http://127.0.0.1:{server.port}/metrics"
        True
    """
    check_address(addr, port)
    endpoint = Endpoint(
        metrics,
        registry=registry,
        callbacks=callbacks,
        bearer_token=bearer_token,
        basic_auth=basic_auth,
        path=path,
        max_scrapes=max_scrapes,
        timeout=timeout,
    )
    certificates = None
    if certfile is not None:
        certificates = Certificates(certfile, keyfile, client_cafile)
    elif keyfile is not None or client_cafile is not None:
        raise InvalidInputError("keyfile= and client_cafile= need certfile=, the server's own certificate")
    return MetricsServer(listen(addr, port), endpoint, certificates)


class MetricsServer:
    """A running server; as a context manager it is closed at the end. `serve` makes one.

    Args:
        listener: Where it accepts connections.
        endpoint: What is scraped.
        certificates: For TLS, if anything.

    Attributes:
        port: Where it listens.
        url: Where the metrics are, for a client on this machine.
    """

    def __init__(
        self, listener: socket.socket, endpoint: Endpoint, certificates: Certificates | None
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._endpoint = endpoint
        self._certificates = certificates
        self.port: int = listener.getsockname()[1]
        self.url = f"{url_of(listener, 'http' if certificates is None else 'https')}{endpoint.path}"
        self._isolation = Isolation()
        self._lock = threading.RLock()  # a signal handler may close in the middle of a close
        self._closed = False
        self._conversations: dict[Conversation, threading.Thread] = {}
        self._awake, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._run, name="metrics-server", daemon=True)
        _SERVERS.add(self)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<MetricsServer {self.url}{' closed' if self._closed else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether it takes no more connections."""
        return self._closed

    def close(self) -> None:
        """Stop listening, let scrapes that are under way be answered for two seconds, and end all threads.

        Calling it again does nothing, and waits where another thread is at it.
        """
        with self._lock:
            self._closed = True
            conversations = dict(self._conversations)
        self._wake.close()
        for conversation in conversations:
            conversation.leave()
        _join([self._thread, *conversations.values()], _GRACE_SECONDS)
        for conversation in conversations:
            conversation.cut()
        late = _join(conversations.values(), _CUT_SECONDS)
        if late:
            log_event("warning", "scrapes go on after their server was closed", scrapes=late)

    def _run(self) -> None:
        self._selector.register(self._awake, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        while not self._closed:
            self._selector.select()
            if not self._closed and not self._isolation.call("no connection accepted", self._accept):
                time.sleep(_PAUSE_SECONDS)
        for resource in (self._selector, self._listener, self._awake):
            resource.close()

    def _accept(self) -> bool:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return True  # who came has gone again
        try:
            if self._certificates is not None:
                # The handshake is for the connection's own thread.
                sock = self._certificates.context().wrap_socket(
                    sock, server_side=True, do_handshake_on_connect=False
                )
        except OSError:
            sock.close()
        else:
            self._begin(Conversation(sock, self._endpoint))
        return True

    def _begin(self, conversation: Conversation) -> None:
        thread = threading.Thread(
            target=self._talk, args=[conversation], name="metrics-server-connection", daemon=True
        )
        with self._lock:
            if self._closed or not self._make_room():
                conversation.close()
                return
            self._conversations[conversation] = thread
        try:
            thread.start()
        except RuntimeError:  # no more threads to be had
            self._end(conversation)
            raise

    def _talk(self, conversation: Conversation) -> None:
        self._isolation.call("connection failed", conversation.talk)
        self._end(conversation)

    def _end(self, conversation: Conversation) -> None:
        conversation.close()
        with self._lock:
            self._conversations.pop(conversation, None)

    def _make_room(self) -> bool:
        """Return whether one more connection may be held; for it, another one may be told to leave."""
        if len(self._conversations) < MAX_CONNECTIONS:
            return True
        waiting = {
            since: one
            for one in list(self._conversations)
            if not one.leaving and (since := one.waiting_since) is not None
        }
        if waiting:
            waiting[min(waiting)].leave()
        return bool(waiting)

    def _begin_in_child(self) -> None:
        # The sockets are the parent's: there they stay open, and are closed when it says so.
        self._lock = threading.RLock()
        self._closed = True
        for close in (
            *(one.close for one in (self._selector, self._listener, self._awake, self._wake)),
            *(one.close for one in self._conversations),
        ):
            with suppress(OSError):
                close()
        self._conversations = {}


def check_address(addr: str, port: int) -> None:
    """Check where to listen.

    Raises:
        InvalidInputError: If it is no address, or no port.
    """
    check_port("port", port)
    if not isinstance(addr, str):
        raise InvalidInputError(f"addr={safe_repr(addr)} is not an address: pass a string like '127.0.0.1'")


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Return the address of a socket that listens, for a client on this machine."""
    address: str = listener.getsockname()[0]
    port: int = listener.getsockname()[1]
    host = _ANY.get(address, address)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def listen(addr: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        OutputError: If that is refused; the message says what to do.
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
        remedy = "; pass another port, or 0 for a free one" if number == errno.EADDRINUSE else ""
        raise OutputError(f"cannot listen on {safe_repr(addr)}, port {port}: {reason}{remedy}") from error
    # Its connections have it from here; without it, a second write waits up to 40 ms for the first to be
    # acknowledged. asyncio would see to it only for sockets that were made with a protocol's number.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _join(threads: Iterable[threading.Thread], seconds: float) -> int:
    """Wait for threads to end, for so many seconds in all, and return how many have not."""
    end = time.monotonic() + seconds
    others = [one for one in threads if one is not threading.current_thread()]
    for thread in others:
        if thread.is_alive():
            thread.join(max(end - time.monotonic(), 0.0))
    return sum(one.is_alive() for one in others)


_SERVERS: weakref.WeakSet[MetricsServer] = weakref.WeakSet()


def _begin_in_child() -> None:
    for server in list(_SERVERS):
        server._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
