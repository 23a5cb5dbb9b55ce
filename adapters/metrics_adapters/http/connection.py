"""One connection to the scrape server: HTTP/1.1 with limits of time and size.

Requests are parsed by `http.server` of the standard library. The connection is our own, because maintained
servers answer no scrape while many slow clients are connected, or limit neither threads nor time, and would
be a dependency of every application that is scraped. h11 only parses.

Measured in November 2026 in one run on two busy cores, with default settings and 1 024 descriptors allowed:
the CPU time of a scrape of 1 000 series, and how many of 20 scrapes were answered within a second beside
1 200 clients that send nothing, or a byte every half second, and connect again when they are closed.

====================  ========  ====  ====  ===========================================
server                CPU time  idle  slow  at that time
====================  ========  ====  ====  ===========================================
this one              0.53 ms   20    18    107 descriptors, 112 threads
wsgiref with threads  0.81 ms   20    20    262 threads: one for each connection
waitress 3.0          0.81 ms   0     0     100 connections, each for up to two minutes
cheroot 11.1          0.89 ms   0     0     its ten threads wait for clients
uvicorn 0.54, h11     1.27 ms   0     0     all descriptors, also the application's
hypercorn 0.18        1.59 ms   20    0     all descriptors, also the application's
====================  ========  ====  ====  ===========================================

`serve_app` limits the connections of uvicorn for this reason.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import threading
import time
from contextlib import suppress
from email.message import Message
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from urllib.parse import urlsplit

from metrics_adapters.http.scrape import CHUNK_BYTES, Endpoint, EndpointResponse, ScrapeRequest, text_response

MAX_REQUEST_BYTES = 1 << 16

IDLE_SECONDS = 120.0
"""How long a connection is kept open for the next scrape."""

MAX_SOCKET_TIMEOUT_SECONDS = 86_400.0
"""A socket rejects time-outs of more than 24 days."""

_DRAIN_SECONDS = 1.0
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_HINT = '<!doctype html><title>Metrics</title><p>The metrics are at <a href="{0}">{0}</a>.\n'


class RequestTooLongError(Exception):
    """The request is longer than `MAX_REQUEST_BYTES`."""


class BareReturnError(Exception):
    """A line contains a carriage return, which some parsers take for its end."""


class _Lines(io.BufferedReader):
    """The lines of a request."""

    def readline(self, size: int | None = -1, /) -> bytes:
        """Return a line with its end.

        Raises:
            BareReturnError: If it contains a carriage return before its end. `email.parser` would split it
                there, and proxies would not.
        """
        line = super().readline(size)
        if line.find(b"\r") not in (-1, len(line) - 2):
            raise BareReturnError
        return line


class DeadlineSocket(io.RawIOBase):
    """A socket as a file, whose reads and writes fail after a deadline, however slow the peer is.

    Args:
        sock: The socket, plain or TLS.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._deadline = 0.0
        self._bytes_left = 0

    def set_limits(self, seconds: float, size: int = MAX_REQUEST_BYTES) -> None:
        """Limit the following reads and writes to ``seconds`` in all, and the reads to ``size`` bytes."""
        self._deadline = time.monotonic() + seconds
        self._bytes_left = size

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read some bytes.

        Raises:
            TimeoutError: If none arrive before the deadline.
            RequestTooLongError: If they exceed the size limit.
        """
        self._set_timeout()
        number = self._sock.recv_into(buffer)
        self._bytes_left -= number
        if self._bytes_left < 0:
            raise RequestTooLongError
        return number

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Write all bytes.

        Raises:
            TimeoutError: If the peer does not read them before the deadline.
        """
        view = memoryview(data)
        while view:
            self._set_timeout()
            view = view[self._sock.send(view[:CHUNK_BYTES]) :]
        return len(data)

    def _set_timeout(self) -> None:
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._sock.settimeout(min(seconds, MAX_SOCKET_TIMEOUT_SECONDS))


class Connection(BaseHTTPRequestHandler):
    """Serves the requests of one connection, one after the other.

    Args:
        sock: The socket. `serve` makes the TLS handshake.
        endpoint: The metrics.

    Attributes:
        idle_since: When it started to wait for a request, which may have arrived in part; ``None`` while it
            responds.
        has_scraped: Whether it has sent a successful response.
        is_closing: Whether it closes before the next request.
    """

    protocol_version = default_request_version = "HTTP/1.1"

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        # The constructor of the base class is not called: it would serve all requests before it returned.
        self._sock = sock
        self._endpoint = endpoint
        self._deadline_socket = DeadlineSocket(sock)
        self._idle_timeout = endpoint.timeout
        self.rfile = self._incoming = _Lines(self._deadline_socket)
        self.wfile = self._deadline_socket  # type: ignore[assignment]
        self.idle_since: float | None = time.monotonic()
        self.is_closing = False
        self.has_scraped = False
        self._lock = threading.Lock()  # a request is either served, or its connection was idle when it closed

    def serve(self) -> None:
        """Serve all requests, and close the connection."""
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.settimeout(min(self._endpoint.timeout, MAX_SOCKET_TIMEOUT_SECONDS))
                self._sock.do_handshake()
            self.handle()
            self._drain()
        except OSError:
            pass  # the peer has disconnected, is too slow, or does not use TLS
        finally:
            self.abort()  # a forked child may have a copy of the socket
            self.close()

    def close_when_idle(self) -> None:
        """Close the connection before the next request: at once if it is idle."""
        with self._lock:
            self.is_closing = True
            if self.idle_since is not None:
                self.abort()

    def abort(self) -> None:
        """Shut the connection down at once, from any thread."""
        with suppress(OSError):
            # Not the method of a TLS socket, which would let another thread continue without TLS.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket. No thread may be serving it."""
        self._sock.close()

    def handle_one_request(self) -> None:
        """Wait for a request and serve it."""
        self.close_connection = True
        self.command, self.requestline, self.request_version = "", "", self.protocol_version
        self._deadline_socket.set_limits(self._idle_timeout)
        self.idle_since = time.monotonic()
        if self.is_closing or not self._incoming.peek(1):
            return
        self._deadline_socket.set_limits(self._endpoint.timeout)
        self._idle_timeout = IDLE_SECONDS
        try:
            self.raw_requestline = self.rfile.readline()
            if not self.parse_request():
                return
        except RequestTooLongError:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        except BareReturnError:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        with self._lock:
            if self.is_closing:
                return
            self.idle_since = None
        try:
            _, _, path, query, _ = urlsplit(self.path)  # a proxy may ask for a whole URL
        except ValueError:
            path = query = ""
        if self.headers.defects or not path or _is_ambiguous(self.headers):
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0":
            self.close_connection = True  # a body follows, which is not read
        self._respond(path, query)

    def _respond(self, path: str, query: str) -> None:
        admitted = self._endpoint.admit(_request(self.command, self.headers, query), path)
        if not isinstance(admitted, EndpointResponse):
            admitted.abort = self.abort
            with admitted:
                self._send(admitted.run())
        elif admitted.status is HTTPStatus.NOT_FOUND and path == "/":
            self._send(_hint(self._endpoint.path))
        else:
            self._send(admitted)

    def _send(self, response: EndpointResponse) -> None:
        self._deadline_socket.set_limits(self._endpoint.timeout)
        self.send_response(response.status)
        for name, value in response.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            for chunk in response.body:
                self._deadline_socket.write(chunk)
        self.has_scraped = self.has_scraped or response.status is HTTPStatus.OK

    def _drain(self) -> None:
        # If unread data arrives at a closed connection, the peer is reset and may lose the response.
        self.idle_since = end = time.monotonic() + _DRAIN_SECONDS
        socket.socket.shutdown(self._sock, socket.SHUT_WR)
        while (seconds := end - time.monotonic()) > 0:
            self._sock.settimeout(seconds)
            if not socket.socket.recv(self._sock, CHUNK_BYTES):
                return

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Send the phrase of the status, and close: the text of the base class would quote the request."""
        self.close_connection = True
        self._send(text_response(HTTPStatus(code), HTTPStatus(code).phrase))

    def version_string(self) -> str:
        """Return the value of ``Server``, without a version that would help an attacker."""
        return "metrics-framework"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: scrapes are frequent, and requests may contain secrets."""


def _is_ambiguous(headers: Message) -> bool:
    """Return whether a proxy may read the headers differently: repeated ones, or invalid values."""
    repeated = any(
        len(headers.get_all(name, [])) > 1 for name in ("Host", "Content-Length", "Transfer-Encoding")
    )
    length = headers.get("Content-Length", "0")
    return (
        repeated
        or not re.fullmatch("[0-9]+", length.strip(" \t"))
        or any(_CONTROL.search(str(value)) for value in headers.values())
    )


def _request(method: str, headers: Message, query: str) -> ScrapeRequest:
    def value(name: str) -> str | None:
        values = headers.get_all(name)
        return None if values is None else ", ".join(map(str, values))

    return ScrapeRequest(
        method,
        value("Authorization"),
        value("Accept"),
        value("Accept-Encoding"),
        value("X-Prometheus-Scrape-Timeout-Seconds"),
        query,
    )


def _hint(path: str) -> EndpointResponse:
    body = _HINT.format(escape(path)).encode()
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
    return EndpointResponse(HTTPStatus.OK, headers, [body])
