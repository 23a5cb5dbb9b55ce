"""The scrape endpoint behind every transport: the server, ASGI and WSGI."""

from __future__ import annotations

import math
import threading
import time
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from http import HTTPStatus
from typing import Any, Generic, NamedTuple, Self, TypeVar
from urllib.parse import parse_qs

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http.auth import Authenticator
from metrics_adapters.http.negotiation import choose_format, wants_gzip
from metrics_adapters.http.options import DEFAULT_MAX_SCRAPES, DEFAULT_PATH, DEFAULT_TIMEOUT_SECONDS
from metrics_adapters.prometheus.targets import Target, callbacks_of, exposition_of
from metrics_framework.capabilities import Callbacks
from metrics_framework.errors import InvalidInputError
from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format
from metrics_framework.health import mark_own_endpoint
from metrics_framework.log import Isolation
from metrics_framework.runtime.cooperative import cooperatively, yield_gil
from metrics_framework.runtime.event_loops import Notifier
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.validation import check_count, check_seconds, check_url_path, safe_repr

CHUNK_BYTES = 1 << 16
"""The size of a chunk of a body. Compressing one takes about a quarter of a millisecond."""

ALLOWED_METHODS = ("GET", "HEAD")

MAX_QUERY_FIELDS = 1_000
"""The number of fields in the query of a scrape, such as ``name[]``."""

MIN_READING_SECONDS = 1.0
"""How long a client may read its response while all slots are taken.

After that, the one that has been reading for longest is disconnected for a new scrape. Ten clients that do
not read would otherwise deny all scrapes until the time-out, if a response does not fit into the buffers of
a socket, which hold up to 4 MB on Linux.
"""

_WAITING_SHARE = 0.5  # of the time-out, for callbacks and the registry; the rest is for rendering
_YIELDING_SHARE = 0.2  # of the time-out: busy threads may hold the GIL for milliseconds at each yield
_COMPRESSION_LEVEL = 1  # compresses 27 times; level 6 compresses 38 times and takes twice the time
_GZIP_WBITS = 16 + zlib.MAX_WBITS

T = TypeVar("T")

Start = Callable[["Future[T]"], None]
"""Starts a call whose result or exception goes to the future."""


class ScrapeRequest(NamedTuple):
    """The method of a request, its query and its headers, ``None`` for those that were not sent.

    Attributes:
        method: ``GET`` and so on.
        authorization: ``Authorization``.
        accept: ``Accept``.
        accept_encoding: ``Accept-Encoding``.
        scrape_timeout: ``X-Prometheus-Scrape-Timeout-Seconds``, after which Prometheus stops waiting.
        query: The query of the URL, percent-encoded.
    """

    method: str
    authorization: str | None = None
    accept: str | None = None
    accept_encoding: str | None = None
    scrape_timeout: str | None = None
    query: str = ""

    def __repr__(self) -> str:
        return f"<ScrapeRequest {self.method}>"  # without credentials


class EndpointResponse(NamedTuple):
    """A response: the status, the headers and the chunks of the body."""

    status: HTTPStatus
    headers: list[tuple[str, str]]
    body: Iterable[bytes]


def text_response(status: HTTPStatus, text: str, *headers: tuple[str, str]) -> EndpointResponse:
    """Return a response with one line of text."""
    body = f"{text}\n".encode()
    own = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    return EndpointResponse(status, [*own, *headers], [body])


def unauthorized(authenticator: Authenticator) -> EndpointResponse:
    """Return the response to a request without accepted credentials."""
    challenges = [("WWW-Authenticate", challenge) for challenge in authenticator.challenges]
    return text_response(HTTPStatus.UNAUTHORIZED, "missing or invalid credentials", *challenges)


def method_not_allowed() -> EndpointResponse:
    """Return the response to a method other than ``GET`` and ``HEAD``."""
    allow = ("Allow", ", ".join(ALLOWED_METHODS))
    return text_response(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD are allowed", allow)


def unavailable(text: str, retry_seconds: float = 1) -> EndpointResponse:
    """Return the response to a request that the client should retry later."""
    return text_response(HTTPStatus.SERVICE_UNAVAILABLE, text, ("Retry-After", str(round(retry_seconds))))


_FAILED = text_response(HTTPStatus.INTERNAL_SERVER_ERROR, "the metrics could not be rendered: see the log")


class TimedCall(Generic[T]):
    """A call in progress.

    Args:
        timeout: How many seconds its waiters should wait, from now.

    Attributes:
        future: Receives the result.
    """

    def __init__(self, timeout: float) -> None:
        self.future: Future[T] = Future()
        self.future.set_running_or_notify_cancel()  # so that no waiter can cancel it
        self._finished = Notifier()
        self.future.add_done_callback(lambda _: self._finished.notify())
        self._until = time.monotonic() + timeout

    def wait(self, seconds: float) -> None:
        """Block this thread until the call finishes or ``seconds`` have passed."""
        self._finished.wait(self.future.done, seconds)

    async def wait_async(self, seconds: float | None = None) -> None:
        """Wait in a task until the call finishes or ``seconds``, by default its own time-out, have passed."""
        await self._finished.wait_async(self.future.done, self.seconds_left() if seconds is None else seconds)

    def seconds_left(self) -> float:
        """Return the remaining seconds before the time-out."""
        return max(self._until - time.monotonic(), 0.0)

    def outcome(self) -> T:
        """Return the result, or raise the exception of the call.

        Raises:
            TimeoutError: If the call has not finished yet.
        """
        if not self.future.done():
            raise TimeoutError("the call timed out")
        return self.future.result()


class TooManyCallsError(RuntimeError):
    """A call was not started, because too many are in progress."""


class SharedCalls(Generic[T]):
    """Makes one call at a time for each key. Callers that arrive during the call of their key share it.

    A hanging call therefore blocks one thread, however many callers there are, and each caller waits only for
    the rest of the call's time-out.

    Args:
        timeout: How many seconds callers wait, from the start of the call.
        max_calls: The number of concurrent calls with different keys. Further ones fail at once.
    """

    def __init__(self, timeout: float, max_calls: int = 1) -> None:
        self._timeout = timeout
        self._max_calls = max_calls
        self.reset()
        reset_after_fork(self, SharedCalls.reset, ForkOrder.LOCKS)

    def reset(self) -> None:
        """Forget the calls in progress: in a forked child their threads do not exist."""
        self._lock = threading.Lock()
        self._calls: dict[Hashable, TimedCall[T]] = {}

    def call(self, start: Start[T], key: Hashable = None) -> TimedCall[T]:
        """Return the call of a key that is in progress, or start a new one."""
        with self._lock:
            call = self._calls.get(key)
            if call is None or call.future.done():
                call = TimedCall(self._timeout)
                if key not in self._calls and len(self._calls) >= self._max_calls:
                    call.future.set_exception(
                        TooManyCallsError(f"{self._max_calls} calls are in progress already")
                    )
                    return call
                self._calls[key] = call
                call.future.add_done_callback(partial(self._forget, key))
                try:
                    start(call.future)
                except Exception as error:  # noqa: BLE001 - for example, no thread can be started
                    call.future.set_exception(error)
            return call

    def _forget(self, key: Hashable, done: Future[T]) -> None:
        call = self._calls.get(key)
        if call is not None and call.future is done:
            self._calls.pop(key, None)  # the result may be large


def in_thread(function: Callable[[], T]) -> Start[T]:
    """Return a starter that runs a function in a daemon thread of its own."""

    def start(future: Future[T]) -> None:
        threading.Thread(target=settle, args=(future, function), name="metrics-scrape", daemon=True).start()

    return start


def settle(future: Future[T], function: Callable[[], T]) -> None:
    """Run a function in this thread, and pass its result or exception to a future."""
    try:
        with cooperatively():
            result = function()
    except Exception as error:  # noqa: BLE001 - passed on to the waiters
        future.set_exception(error)
    except BaseException as error:  # noqa: BLE001 - it would end the waiters, which isolate an Exception
        future.set_exception(RuntimeError(safe_repr(error)))
    else:
        future.set_result(result)


class Endpoint:
    """Metrics that can be scraped. Thread-safe.

    Args:
        metrics: The metrics to expose: see `exposition_of`.
        registry, callbacks, bearer_token, basic_auth, path, max_scrapes, timeout: See `EndpointOptions`.

    Raises:
        InvalidInputError: If an argument is invalid.
    """

    def __init__(
        self,
        metrics: Target,
        *,
        registry: CollectorRegistry | None = None,
        callbacks: Callbacks | None = None,
        bearer_token: str | None = None,
        basic_auth: tuple[str, str] | None = None,
        path: str = DEFAULT_PATH,
        max_scrapes: int = DEFAULT_MAX_SCRAPES,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> None:
        check_url_path("path", path)
        check_count("max_scrapes", max_scrapes)
        check_seconds("timeout", timeout)
        self.exposition = exposition_of(metrics, registry)
        self.callbacks = callbacks_of(metrics, callbacks)
        self.path = path
        self.timeout = timeout
        self.isolation = Isolation()
        self._authenticator = Authenticator(bearer_token, basic_auth)
        self._max_scrapes = max_scrapes
        self._callback_calls = SharedCalls[object](timeout * _WAITING_SHARE)
        self._registry_calls = SharedCalls[bytes](timeout * _WAITING_SHARE, max_scrapes)
        self.reset()
        reset_after_fork(self, Endpoint.reset, ForkOrder.LOCKS)

    def reset(self) -> None:
        """Free all slots: in a forked child, the scrapes that hold them run in the parent."""
        self._lock = threading.Lock()
        self._scrapes: dict[Scrape, None] = {}  # those that hold a slot

    def admit(self, request: ScrapeRequest, path: str) -> Scrape | EndpointResponse:
        """Return the scrape for a request, or the response to a request that is rejected.

        A scrape occupies a slot and frees it at the end of its ``with`` block at the latest.

        Args:
            request: The request.
            path: Its path, without the path of a mount.
        """
        is_found = path.rstrip("/") == self.path.rstrip("/")
        if is_found:
            mark_own_endpoint()
        if not self._authenticator.accepts(request.authorization):
            return unauthorized(self._authenticator)
        if request.method not in ALLOWED_METHODS:
            return method_not_allowed()
        if not is_found:
            return text_response(HTTPStatus.NOT_FOUND, f"not found: the metrics are at {self.path}")
        try:
            names = selected_names(request.query)
        except InvalidInputError as error:
            return text_response(HTTPStatus.BAD_REQUEST, str(error))
        scrape = Scrape(self, request, names)
        with self._lock:
            if len(self._scrapes) >= self._max_scrapes and not self._abort_slowest():
                return unavailable("too many concurrent scrapes")
            self._scrapes[scrape] = None
        return scrape

    def release(self, scrape: Scrape) -> bool:
        """Free the slot of a scrape, and return whether it had one."""
        return self._scrapes.pop(scrape, self) is None

    def _abort_slowest(self) -> bool:
        """Abort the scrape that has been sent for longest, if that is too long. The lock is held."""
        now = time.monotonic()
        sent = {one.sent_since: one for one in list(self._scrapes) if one.sent_since is not None}
        since = min(sent, default=now)
        if now - since < MIN_READING_SECONDS:
            return False
        if self.release(sent[since]):
            sent[since].abort()
        return True

    def call_callbacks(self, start: Start[object]) -> TimedCall[object]:
        """Start calling the callbacks, or share the call in progress."""
        return self._callback_calls.call(start)

    def render_registry(
        self, format: Format, escaping: Escaping, names: frozenset[str] | None
    ) -> TimedCall[bytes] | None:
        """Start rendering the registry, or share the call in progress. ``None`` if there is no registry."""
        if self.exposition.registry is None:
            return None
        render = partial(self.exposition.registry_text, format, escaping, names)
        return self._registry_calls.call(in_thread(render), (format, escaping, names))


def selected_names(query: str) -> frozenset[str] | None:
    """Return the names that a query selects by ``name[]``; ``None`` if it has no such field with a name.

    Raises:
        InvalidInputError: If it has too many fields.

    Example:
        >>> sorted(selected_names("name[]=http_requests_total&name%5B%5D=up"))
        ['http_requests_total', 'up']
    """
    try:
        fields = parse_qs(query, max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        raise InvalidInputError(f"the query has more than {MAX_QUERY_FIELDS} fields") from None
    return frozenset(fields["name[]"]) if "name[]" in fields else None


class Scrape:
    """One scrape, from its admission to the end of its response.

    Nothing is sent before everything is rendered, so a failed scrape is an error and never a part of the
    metrics.

    Args:
        endpoint: The metrics.
        request: The request.
        names: The exposed names of the families to render; ``None`` for all.

    Attributes:
        response: The response, once `render` is exhausted.
        seconds: The time limit.
        sent_since: When the client began to read the response; ``None`` until then.
        abort: Called from any thread if another scrape takes the slot. It stops sending.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        request: ScrapeRequest,
        names: frozenset[str] | None,
    ) -> None:
        self._endpoint = endpoint
        self._names = names
        self._format, self._escaping, self._content_type = choose_format(request.accept)
        self._gzip = wants_gzip(request.accept_encoding)
        self._is_head = request.method == "HEAD"
        self._callback_call: TimedCall[object] | None = None
        self._registry_call: TimedCall[bytes] | None = None
        self.response = _FAILED
        self.seconds = min(endpoint.timeout, _parse_timeout(request.scrape_timeout))
        self._started = time.monotonic()
        self.sent_since: float | None = None
        self.abort: Callable[[], object] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._endpoint.release(self)

    def run(self) -> EndpointResponse:
        """Return the response. This blocks the thread."""
        callbacks = self._endpoint.callbacks
        for call, seconds in self.pending_calls(None if callbacks is None else in_thread(callbacks.collect)):
            call.wait(seconds)
        yield_until = time.monotonic() + self.seconds * _YIELDING_SHARE
        with cooperatively():
            for _ in self.render():
                if time.monotonic() < yield_until:
                    yield_gil()
        return self.response

    def pending_calls(self, start_callbacks: Start[object] | None) -> Iterator[tuple[TimedCall[Any], float]]:
        """Start the callbacks and the registry, and yield each call with the seconds to wait for it.

        Args:
            start_callbacks: Starts the callbacks, if there are any.
        """
        if self._is_head:
            return
        self._registry_call = self._endpoint.render_registry(self._format, self._escaping, self._names)
        if start_callbacks is not None:
            self._callback_call = self._endpoint.call_callbacks(start_callbacks)
        for call in (self._callback_call, self._registry_call):
            if call is not None:
                yield call, self._seconds_for(call)

    def render(self) -> Iterator[None]:
        """Render the response. It yields about every millisecond, so that other tasks can run."""
        body, error = _Body(self._gzip), None
        try:
            if not self._is_head:
                for text in self._text():
                    body.add(text[:CHUNK_BYTES])
                    yield  # for an empty text too: producing it took time
                    for start in range(CHUNK_BYTES, len(text), CHUNK_BYTES):
                        body.add(text[start : start + CHUNK_BYTES])
                        yield
                    self._check_time()
        except Exception as raised:  # noqa: BLE001 - the endpoint must survive it
            error = raised
        rendered = self._endpoint.isolation.call("scrape failed", partial(self._build, body, error))
        self.response = rendered or _FAILED

    def _text(self) -> Iterator[bytes]:
        isolate = self._endpoint.isolation.call
        if self._callback_call is not None:
            isolate("callbacks failed; gauges are scraped as they are", self._callback_call.outcome)
        registry_text = None
        if self._registry_call is not None:
            event = "registry failed; metrics are scraped without it"
            registry_text = isolate(event, self._registry_call.outcome)
        return self._endpoint.exposition.chunks(
            self._format, self._escaping, self._names, registry_text=registry_text or b""
        )

    def _build(self, body: _Body, error: Exception | None) -> EndpointResponse:
        if error is not None:
            raise error
        chunks = body.finish()
        headers = [("Content-Type", self._content_type), ("Cache-Control", "no-store")]
        if self._gzip:
            headers.append(("Content-Encoding", "gzip"))
        if self._is_head:  # nothing was rendered, so the length is unknown
            self._endpoint.release(self)
            return EndpointResponse(HTTPStatus.OK, headers, [])
        headers.append(("Content-Length", str(sum(map(len, chunks)))))
        return EndpointResponse(HTTPStatus.OK, headers, self._send_body(chunks))

    def _send_body(self, chunks: list[bytes]) -> Iterator[bytes]:
        self.sent_since = time.monotonic()
        yield from chunks[:-1]
        # A client that has received the whole response may scrape again at once and must find the slot free.
        self._endpoint.release(self)
        yield from chunks[-1:]

    def _seconds_for(self, call: TimedCall[Any]) -> float:
        own = self._started + self.seconds * _WAITING_SHARE - time.monotonic()
        return max(min(call.seconds_left(), own), 0.0)

    def _check_time(self) -> None:
        if time.monotonic() > self._started + self.seconds:
            raise TimeoutError(f"the scrape took more than {self.seconds} seconds")


class _Body:
    """Joins small texts into chunks, and compresses them if requested."""

    def __init__(self, gzip: bool) -> None:
        self._compressor = zlib.compressobj(_COMPRESSION_LEVEL, zlib.DEFLATED, _GZIP_WBITS) if gzip else None
        self._chunks: list[bytes] = []
        self._pending: list[bytes] = []
        self._pending_bytes = 0

    def add(self, data: bytes) -> None:
        if self._compressor is not None:
            data = self._compressor.compress(data)
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= CHUNK_BYTES:
            self._join()

    def finish(self) -> list[bytes]:
        if self._compressor is not None:
            self._pending.append(self._compressor.flush())
        self._join()
        return self._chunks

    def _join(self) -> None:
        self._chunks.append(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0


def _parse_timeout(header: str | None) -> float:
    """Return the seconds that a header states; infinity if it is missing or invalid."""
    try:
        seconds = float(header or "inf")
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf
