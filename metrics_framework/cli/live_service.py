"""Reads the stream, the health and the snapshots of a service in threads, and reconnects."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from metrics_framework.cli.live_metrics import LiveMetrics, LiveView
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError, OutputError, RefusedError
from metrics_framework.export.endpoints import Secrets

RETRY_SECONDS = 2.0
"""The pause before the stream is connected again; the stream itself recommends it."""

SNAPSHOT_SECONDS = 15.0
"""The time between snapshots, which show series without records."""

_REQUEST_SECONDS = 5.0
_SILENCE_SECONDS = 60.0  # without a heartbeat, which a service sends every 15 seconds
_MAX_EVENT_BYTES = 1 << 20
_MAX_DOCUMENT_BYTES = 8 << 20
_READ_BYTES = 1 << 16
_MAX_REASON_CHARACTERS = 200
_STATUS_REMEDIES = {
    401: "unauthorized: pass the token of the service in METRICS_TOKEN or with --token",
    403: "forbidden: pass a token that may read the metrics",
    404: "not found: serve the system with metrics_adapters.asgi, and pass the URL with its prefix",
}


class ServiceUrl:
    """The URL of a service.

    Args:
        text: Its base URL, or that of its stream, with the filters of the stream if it has a query.

    Raises:
        InvalidInputError: If it is not such a URL. The message quotes no password.

    Attributes:
        base: The URL without user, password and query.
        query: The query of the stream.
        credentials: The user and the password, if there are any.
    """

    def __init__(self, text: str) -> None:
        hint = "pass the URL of the service, such as http://127.0.0.1:8000/internal"
        try:
            parts = urlsplit(text if "://" in text else f"http://{text}")
            host, port = parts.hostname, parts.port
        except ValueError:
            raise InvalidInputError(f"the URL is malformed: {hint}") from None
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        if parts.scheme not in ("http", "https") or not host or any(one <= " " for one in shown):
            raise InvalidInputError(f"{shown!r} is not a URL with http or https: {hint}")
        if not shown.isascii():
            raise InvalidInputError(f"{shown!r} has characters that a URL must encode: {hint}")
        self.is_https = parts.scheme == "https"
        self.host, self.port = host, port
        self.path = parts.path.rstrip("/").removesuffix("/stream")
        self.base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self.path}"
        self.query = parts.query
        self.credentials = None if parts.username is None else (parts.username, parts.password or "")


class _Exchange(NamedTuple):
    """A request that was sent, and its response."""

    sock: socket.socket
    response: http.client.HTTPResponse

    def close(self) -> None:
        self.response.close()
        self.sock.close()


class ServiceReader:
    """Reads a service until it is closed.

    Args:
        url: The URL of the service.
        token: The bearer token, if it requires one.
        interval: The seconds between requests for its health.
        clock: Tells the time of events.

    Attributes:
        refusal: Why the service cannot be read any more, such as a token that it does not accept.
    """

    def __init__(
        self, url: ServiceUrl, token: str | None, interval: float, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._url = url
        self._headers = {"User-Agent": "metrics-framework top"}
        secrets = [token] if token else []
        if token:
            if not (token.isascii() and token.isprintable()):
                raise InvalidInputError("the token is not one line of printable ASCII characters")
            self._headers["Authorization"] = f"Bearer {token}"
        elif url.credentials is not None:
            pair = ":".join(url.credentials).encode()
            secrets += [url.credentials[1], pair.decode()]
            self._headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        self._secrets = Secrets(secrets)
        self._cannot_connect = f"cannot connect to {url.base}: "
        self._interval = interval
        self._clock = clock
        self._metrics = LiveMetrics()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._stream: _Exchange | None = None
        self._epoch = b""  # identifies the process that responds
        self._is_snapshot_due = False
        self._threads: list[threading.Thread] = []
        self.refusal = ""

    def view(self) -> LiveView:
        """Return the current numbers."""
        with self._lock:
            return self._metrics.view(self._now())

    def start(self) -> None:
        """Connect, and read in threads from now on.

        Raises:
            OutputError: If the service does not respond, or does not accept the request.
        """
        self._read_snapshot()
        stream = self._open_stream()
        for target in (lambda: self._follow(stream), self._poll):
            thread = threading.Thread(target=target, name="metrics-top", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Disconnect, and wait briefly for the threads."""
        self._closed.set()
        stream = self._stream
        if stream is not None:
            with suppress(OSError):
                stream.sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
        for thread in self._threads:
            thread.join(0.5)

    def _now(self) -> float:
        return self._clock.monotonic_ns() / 1e9

    # -- requests ------------------------------------------------------------------------------------------

    def _request(self, path: str) -> _Exchange:
        """Send a request, and return the response before its body is read."""
        url = self._url
        kind = http.client.HTTPSConnection if url.is_https else http.client.HTTPConnection
        connection = kind(url.host, url.port, timeout=_REQUEST_SECONDS)
        try:
            connection.connect()
            sock: socket.socket = connection.sock  # which the connection forgets if the response ends with it
            connection.request("GET", f"{url.path}{path}", headers=self._headers)
            return _Exchange(sock, connection.getresponse())
        except BaseException:
            connection.close()
            raise

    @contextmanager
    def _document(self, path: str) -> Iterator[tuple[int, Any]]:
        """Yield the status and the JSON of a response; ``None`` if it is not JSON."""
        exchange = self._request(path)
        try:
            content = exchange.response.read(_MAX_DOCUMENT_BYTES)
            try:
                document = json.loads(content)
            except (ValueError, RecursionError):
                document = None
            yield exchange.response.status, document
        finally:
            exchange.close()

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {_REQUEST_SECONDS:.0f} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted: {error.verify_message}"
        if isinstance(error, http.client.HTTPException):
            return "the answer is not HTTP"
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return self._secrets.redact(reason)[:_MAX_REASON_CHARACTERS]

    def _open_stream(self) -> _Exchange:
        path = f"/stream?{self._url.query}" if self._url.query else "/stream"
        try:
            exchange = self._request(path)
        except (OSError, http.client.HTTPException) as error:
            raise OutputError(f"{self._cannot_connect}{self._reason(error)}") from None
        try:
            self._check(exchange.response)
            exchange.sock.settimeout(_SILENCE_SECONDS)
        except BaseException:
            exchange.close()
            raise
        self._stream = exchange
        with self._lock:
            self._metrics.connected(self._now())
        return exchange

    def _check(self, response: http.client.HTTPResponse) -> None:
        what = f"{self._url.base}/stream: HTTP status {response.status}"
        if response.status == 200:
            content_type = (response.getheader("Content-Type") or "").lower()
            if not content_type.startswith("text/event-stream"):
                raise RefusedError(f"{self._url.base}/stream: the answer is not a stream of events")
            return
        if 300 <= response.status < 400:
            raise RefusedError(f"{what}, a redirect, which is not followed: pass the URL of its target")
        if response.status in _STATUS_REMEDIES:
            raise RefusedError(f"{what}, {_STATUS_REMEDIES[response.status]}")
        text = ""
        with suppress(OSError, http.client.HTTPException):
            text = self._secrets.redact(response.read(4 * _MAX_REASON_CHARACTERS).decode(errors="replace"))
        reason = f": {' '.join(text.split())[:_MAX_REASON_CHARACTERS]}" if text.strip() else ""
        kind = (
            RefusedError if response.status < 500 and response.status not in (408, 425, 429) else OutputError
        )
        raise kind(f"{what}{reason}")

    # -- the stream ----------------------------------------------------------------------------------------

    def _follow(self, stream: _Exchange | None) -> None:
        """Read the stream, and connect it again whenever it ends."""
        while not self._closed.is_set():
            problem = "the stream has ended"
            try:
                if stream is None:
                    stream = self._open_stream()
                self._read_events(stream.response)
            except RefusedError as error:
                # A proxy may respond with 404 while the service restarts.
                if "HTTP status 401" in str(error) or "HTTP status 403" in str(error):
                    self.refusal = str(error)
                problem = str(error)
            except OutputError as error:
                problem = str(error).removeprefix(self._cannot_connect)
            except (OSError, http.client.HTTPException) as error:
                problem = self._reason(error)
            if stream is not None:
                stream.close()
            self._stream = stream = None
            with self._lock:
                self._metrics.disconnected(problem, self._now())
            if self.refusal:
                return
            self._closed.wait(RETRY_SECONDS)

    def _read_events(self, stream: http.client.HTTPResponse) -> None:
        buffer = b""
        is_skipping = False  # the rest of an event that is too long
        while not self._closed.is_set():
            chunk = stream.read1(_READ_BYTES)
            if not chunk:
                return
            *events, buffer = (buffer + chunk).split(b"\n\n")
            if is_skipping and events:
                del events[0]
                is_skipping = False
            if len(buffer) > _MAX_EVENT_BYTES:
                # The last byte may be the first half of the separator.
                buffer = buffer[-1:]
                if not is_skipping:
                    is_skipping = True
                    events.append(b"event: metric\ndata: null")
            with self._lock:
                now = self._now()
                self._metrics.received(now)
                for event in events:
                    self._add(event, now)

    def _add(self, event: bytes, now: float) -> None:
        kind, data = b"", b""
        for line in event.split(b"\n"):
            if line.startswith(b"event: "):
                kind = line[7:]
            elif line.startswith(b"data: "):
                data = line[6:]
            elif line.startswith(b"id: "):
                self._compare_epoch(line.rpartition(b"-")[2])
        if kind not in (b"metric", b"dropped"):
            return
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        if kind == b"metric":
            self._metrics.add_event(content, now)
        else:
            self._metrics.add_dropped(content)

    def _compare_epoch(self, epoch: bytes) -> None:
        if epoch != self._epoch:
            if self._epoch:
                self._metrics.restarted()
                self._is_snapshot_due = True
            self._epoch = epoch

    # -- health and snapshots ------------------------------------------------------------------------------

    def _poll(self) -> None:
        """Read the health at every interval, and a snapshot from time to time."""
        is_served = True
        next_snapshot = self._now() + SNAPSHOT_SECONDS
        while not self._closed.is_set():
            if is_served:
                is_served = self._read_health()
            if self._is_snapshot_due or self._now() >= next_snapshot:
                self._is_snapshot_due = False
                self._read_snapshot()
                next_snapshot = self._now() + SNAPSHOT_SECONDS
            self._closed.wait(self._interval)

    def _read_health(self) -> bool:
        """Read the health, and return whether the service serves it."""
        try:
            with self._document("/health") as (status, document), self._lock:
                if isinstance(document, dict) and "healthy" in document:
                    self._metrics.set_health(document, self._now())
                return status != 404
        except (OSError, http.client.HTTPException) as error:
            with self._lock:
                self._metrics.health_failed(self._reason(error))
            return True

    def _read_snapshot(self) -> None:
        # Without one, the series appear with their first record.
        with suppress(OSError, http.client.HTTPException), self._document("/snapshot") as (status, document):
            if status == 200:
                with self._lock:
                    self._metrics.add_snapshot(document)
