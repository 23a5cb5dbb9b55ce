"""One connection to the scrape server: HTTP/1.1 with limits of time and size."""

from __future__ import annotations

import io
import socket
import ssl
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

_DRAIN_SECONDS = 1.0
_HINT = '<!doctype html><title>Metrics</title><p>The metrics are at <a href="{0}">{0}</a>.\n'


class RequestTooLongError(Exception):
    """The request is longer than `MAX_REQUEST_BYTES`."""


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
        self._sock.settimeout(seconds)


class Connection(BaseHTTPRequestHandler):
    """Serves the requests of one connection, one after the other.

    Args:
        sock: The socket. `serve` makes the TLS handshake.
        endpoint: The metrics.

    Attributes:
        idle_since: When it started to wait for a request; ``None`` during a request.
        is_closing: Whether it closes before the next request.
    """

    protocol_version = default_request_version = "HTTP/1.1"

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        # The constructor of the base class is not called: it would serve all requests before it returned.
        self._sock = sock
        self._endpoint = endpoint
        self._deadline_socket = DeadlineSocket(sock)
        self._idle_timeout = endpoint.timeout
        self.rfile = self._incoming = io.BufferedReader(self._deadline_socket)
        self.wfile = self._deadline_socket  # type: ignore[assignment]
        self.idle_since: float | None = time.monotonic()
        self.is_closing = False

    def serve(self) -> None:
        """Serve all requests, and close the connection."""
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.settimeout(self._endpoint.timeout)
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
        self.idle_since = None
        self._deadline_socket.set_limits(self._endpoint.timeout)
        self._idle_timeout = IDLE_SECONDS
        try:
            self.raw_requestline = self.rfile.readline()
            if not self.parse_request():
                return
        except RequestTooLongError:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        try:
            path = urlsplit(self.path).path  # a proxy may ask for a whole URL
        except ValueError:
            path = ""
        if self.headers.defects or not path:
            self.send_error(HTTPStatus.BAD_REQUEST)
            return
        if "Transfer-Encoding" in self.headers or self.headers.get("Content-Length", "0") != "0":
            self.close_connection = True  # a body follows, which is not read
        self._respond(path)

    def _respond(self, path: str) -> None:
        admitted = self._endpoint.admit(_request(self.command, self.headers), path)
        if not isinstance(admitted, EndpointResponse):
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


def _request(method: str, headers: Message) -> ScrapeRequest:
    def value(name: str) -> str | None:
        values = headers.get_all(name)
        return None if values is None else ", ".join(map(str, values))

    return ScrapeRequest(
        method,
        value("Authorization"),
        value("Accept"),
        value("Accept-Encoding"),
        value("X-Prometheus-Scrape-Timeout-Seconds"),
    )


def _hint(path: str) -> EndpointResponse:
    body = _HINT.format(escape(path)).encode()
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
    return EndpointResponse(HTTPStatus.OK, headers, [body])
