"""One connection to the scrape server: HTTP/1.1 within limits of time and size."""

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

from metrics_adapters.http.scrape import PIECE, Answer, Endpoint, Request, short_answer

MAX_REQUEST = 1 << 16
"""How many bytes a request may have."""

IDLE_SECONDS = 120.0
"""How long a connection is kept for the next scrape."""

_LINGER_SECONDS = 1.0
_HINT = '<!doctype html><title>Metrics</title><p>The metrics are at <a href="{0}">{0}</a>.\n'


class RequestTooLongError(Exception):
    """A request has more bytes than it may have."""


class Wire(io.RawIOBase):
    """A socket as a file, whose reads and writes end at a moment that is set, however slow the other side is.

    Args:
        sock: The socket; may be one of TLS.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._end = 0.0
        self._allowed = 0

    def allow(self, seconds: float, size: int = MAX_REQUEST) -> None:
        """Let what follows take so many seconds, and read so many bytes."""
        self._end = time.monotonic() + seconds
        self._allowed = size

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read some bytes.

        Raises:
            TimeoutError: If none come in time.
            RequestTooLongError: If they are too many.
        """
        self._set_timeout()
        number = self._sock.recv_into(buffer)
        self._allowed -= number
        if self._allowed < 0:
            raise RequestTooLongError
        return number

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]
        """Write all bytes.

        Raises:
            TimeoutError: If they are not taken in time.
        """
        view = memoryview(data)
        while view:
            self._set_timeout()
            view = view[self._sock.send(view[:PIECE]) :]
        return len(data)

    def _set_timeout(self) -> None:
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError
        self._sock.settimeout(seconds)


class Conversation(BaseHTTPRequestHandler):
    """Answers the requests of one connection, one after the other.

    Args:
        sock: The connection; its TLS handshake is made here.
        endpoint: What is scraped.

    Attributes:
        waiting_since: Since when it waits for a request, ``None`` while it answers one.
        leaving: Whether it ends before the next request.
    """

    protocol_version = default_request_version = "HTTP/1.1"

    def __init__(self, sock: socket.socket, endpoint: Endpoint) -> None:
        # Not that of the base, which would answer everything before it returned.
        self._sock = sock
        self._endpoint = endpoint
        self._wire = Wire(sock)
        self._patience = endpoint.timeout
        self.rfile = self._incoming = io.BufferedReader(self._wire)
        self.wfile = self._wire  # type: ignore[assignment]
        self.waiting_since: float | None = time.monotonic()
        self.leaving = False

    def talk(self) -> None:
        """Answer what comes, and close the connection."""
        try:
            if isinstance(self._sock, ssl.SSLSocket):
                self._sock.settimeout(self._endpoint.timeout)
                self._sock.do_handshake()
            self.handle()
            self._linger()
        except OSError:
            pass  # the other side is gone, too slow, or speaks no TLS
        finally:
            self.cut()  # a forked child may have a copy of the socket
            self.close()

    def leave(self) -> None:
        """End before the next request; at once where that is waited for."""
        self.leaving = True
        if self.waiting_since is not None:
            self.cut()

    def cut(self) -> None:
        """End at once, from any thread."""
        with suppress(OSError):
            # The plain socket's method: that of TLS would let another thread go on without TLS.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket, where there is no thread that talks."""
        self._sock.close()

    def handle_one_request(self) -> None:
        """Wait for a request and answer it."""
        self.close_connection = True
        self.command, self.requestline, self.request_version = "", "", self.protocol_version
        self._wire.allow(self._patience)
        self.waiting_since = time.monotonic()
        if self.leaving or not self._incoming.peek(1):
            return
        self.waiting_since = None
        self._wire.allow(self._endpoint.timeout)
        self._patience = IDLE_SECONDS
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
            self.close_connection = True  # what follows is a body, which nobody reads, and no request
        self._respond(path)

    def _respond(self, path: str) -> None:
        admitted = self._endpoint.admit(_request(self.command, self.headers), path)
        if not isinstance(admitted, Answer):
            with admitted:
                self._send(admitted.run())
        elif admitted.status is HTTPStatus.NOT_FOUND and path == "/":
            self._send(_hint(self._endpoint.path))
        else:
            self._send(admitted)

    def _send(self, answer: Answer) -> None:
        self._wire.allow(self._endpoint.timeout)
        self.send_response(answer.status)
        for name, value in answer.headers:
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            for piece in answer.body:
                self._wire.write(piece)

    def _linger(self) -> None:
        # Closed while something unread comes in, a connection takes the answer from the other side.
        self.waiting_since = end = time.monotonic() + _LINGER_SECONDS
        socket.socket.shutdown(self._sock, socket.SHUT_WR)
        while (seconds := end - time.monotonic()) > 0:
            self._sock.settimeout(seconds)
            if not socket.socket.recv(self._sock, PIECE):
                return

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer by what the status says, and close: the base's words quote the request."""
        self.close_connection = True
        self._send(short_answer(HTTPStatus(code), HTTPStatus(code).phrase))

    def version_string(self) -> str:
        """Return what ``Server`` says: no version, which is nobody's business."""
        return "metrics-framework"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: scrapes are many, and requests may hold secrets."""


def _request(method: str, headers: Message) -> Request:
    def value(name: str) -> str | None:
        values = headers.get_all(name)
        return None if values is None else ", ".join(map(str, values))

    return Request(
        method,
        value("Authorization"),
        value("Accept"),
        value("Accept-Encoding"),
        value("X-Prometheus-Scrape-Timeout-Seconds"),
    )


def _hint(path: str) -> Answer:
    body = _HINT.format(escape(path)).encode()
    headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
    return Answer(HTTPStatus.OK, headers, [body])
