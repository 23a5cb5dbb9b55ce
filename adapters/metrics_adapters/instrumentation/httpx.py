"""An httpx transport that measures each request attempt, to the end of the response body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self, cast, overload

from metrics_adapters.instrumentation.meters import InFlight, SafeMeter, SystemOrCollector
from metrics_adapters.instrumentation.middleware import (
    EVENT_STREAM_TYPE,
    METHOD,
    STATUS_CLASS,
    method_tag,
    status_class,
)
from metrics_framework.error_types import CANCELLED, NOT_COUNTED, error_type_of
from metrics_framework.errors import InvalidInputError, MissingExtraError
from metrics_framework.validation import check_name

try:
    import httpx
except ModuleNotFoundError as error:
    raise MissingExtraError("measured_transport", package="httpx") from error

REQUEST = "http.client.request"
ACTIVE_REQUESTS = "http.client.active_requests"
EVENT_STREAM = "http.client.event_stream"
ACTIVE_EVENT_STREAMS = "http.client.active_event_streams"
HOST = "server.address"
CLIENT_ERROR_STATUS = 400


@overload
def measured_transport(
    transport: httpx.AsyncBaseTransport, metrics: SystemOrCollector, *, name: str = REQUEST
) -> httpx.AsyncBaseTransport: ...


@overload
def measured_transport(
    transport: httpx.BaseTransport, metrics: SystemOrCollector, *, name: str = REQUEST
) -> httpx.BaseTransport: ...


def measured_transport(
    transport: httpx.AsyncBaseTransport | httpx.BaseTransport,
    metrics: SystemOrCollector,
    *,
    name: str = REQUEST,
) -> httpx.AsyncBaseTransport | httpx.BaseTransport:
    """Return an httpx transport that measures the requests of another transport.

    Each request is an operation ``http.client.request``, from sending it until its body is read or closed.
    Redirects and retries count separately. The tags are ``http.request.method``, ``server.address`` (the
    host, never the URL) and ``http.response.status_class``. A status of 400 or more is a failure, as
    OpenTelemetry defines it for clients; so are exceptions. Closing a body early is a success. A cancelled
    request is neither: only its duration is recorded, with the status class ``cancelled``. ``ignore`` and
    ``failures`` of the system decide about exceptions, as for `MetricsSystem.measure`. Health ignores a
    status of 400 to 499, which another server decided. The gauge ``http.client.active_requests`` counts the
    requests in flight.

    A response of the type ``text/event-stream`` is an operation ``http.client.event_stream`` with the same
    tags instead, and is counted in the gauge ``http.client.active_event_streams`` while it is open.

    Args:
        transport: The transport of an `httpx.AsyncClient` or `httpx.Client` to wrap.
        metrics: A system; or a collector, which records the timer ``http.client.request.duration``.
        name: The name of the operation.

    Raises:
        InvalidInputError: If an argument is invalid.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> transport = measured_transport(httpx.AsyncHTTPTransport(), MetricsSystem())
        >>> client = httpx.AsyncClient(transport=transport)
    """
    requests = _ClientMetrics(metrics, name)
    if isinstance(transport, httpx.AsyncBaseTransport) and isinstance(transport, httpx.BaseTransport):
        return _Transport(transport, requests)  # such as httpx.MockTransport
    if isinstance(transport, httpx.AsyncBaseTransport):
        return _AsyncTransport(transport, requests)
    if isinstance(transport, httpx.BaseTransport):
        return _SyncTransport(transport, requests)
    raise InvalidInputError(
        f"{transport!r} is not an httpx transport: pass one such as httpx.AsyncHTTPTransport()"
    )


class _ClientMetrics:
    """Records the requests of one transport."""

    def __init__(self, metrics: SystemOrCollector, name: str) -> None:
        self.name = check_name(name)
        self.meter = SafeMeter(metrics)
        self.active = InFlight(metrics, ACTIVE_REQUESTS, "Requests that wait for or read their response.")
        self.active_event_streams = InFlight(metrics, ACTIVE_EVENT_STREAMS, "Open event streams.")


class _ClientRequest:
    """One request. An exception in its ``with`` block ends it."""

    def __init__(self, requests: _ClientMetrics, request: httpx.Request) -> None:
        self._requests = requests
        self._method = {METHOD: method_tag(request.method)}
        self._tags = {**self._method, HOST: request.url.host, STATUS_CLASS: status_class(None)}
        self._operation = requests.name
        self._error_type: str | None = None
        self._has_ended = False
        self._active = requests.active
        self._active.increment(self._method)
        self._started = requests.meter.begin(self._operation, self._tags)
        self._since_ns = requests.meter.now_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            return
        outcome = self._requests.meter.rule.outcome(error)
        if isinstance(error, GeneratorExit) and outcome is None:
            return  # closing the body ends the request
        if error_type_of(error) == CANCELLED:
            self._tags[STATUS_CLASS] = CANCELLED
        if outcome is NOT_COUNTED:
            self.end(CANCELLED, is_counted=False)
        else:
            self.end(outcome)

    def on_response(self, response: httpx.Response) -> None:
        """Keep the status. A response that is already read, such as one from a cache, ends the request."""
        self._tags[STATUS_CLASS] = status_class(response.status_code)
        if response.status_code >= CLIENT_ERROR_STATUS:
            self._error_type = str(response.status_code)
        if response.headers.get("content-type", "").lower().startswith(EVENT_STREAM_TYPE.decode()):
            self._operation = EVENT_STREAM
            self._active.decrement(self._method)
            self._active = self._requests.active_event_streams
            self._active.increment(self._method)
            self._started = self._requests.meter.begin(EVENT_STREAM, self._tags)
        if response.is_closed:
            self.end()

    def end(self, error_type: str | None = None, is_counted: bool = True) -> None:
        """Record the end of the request, once."""
        if self._has_ended:
            return
        self._has_ended = True
        requests = self._requests
        spent_ns = requests.meter.now_ns() - self._since_ns
        self._active.decrement(self._method)
        error_type = error_type or self._error_type
        requests.meter.end(self._started, self._operation, self._tags, spent_ns, error_type, is_counted)


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, request: _ClientRequest) -> None:
        self._stream = stream
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._request:
            async for part in self._stream:
                yield part
        self._request.end()

    async def aclose(self) -> None:
        try:
            with self._request:
                await self._stream.aclose()
        finally:
            self._request.end()


class _SyncBody(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, request: _ClientRequest) -> None:
        self._stream = stream
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        with self._request:
            yield from self._stream
        self._request.end()

    def close(self) -> None:
        try:
            with self._request:
                self._stream.close()
        finally:
            self._request.end()


class _AsyncTransport(httpx.AsyncBaseTransport):
    def __init__(self, transport: httpx.AsyncBaseTransport, requests: _ClientMetrics) -> None:
        self._async_transport = transport
        self._requests = requests

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with _ClientRequest(self._requests, request) as measured:
            response = await self._async_transport.handle_async_request(request)
        measured.on_response(response)
        response.stream = _AsyncBody(cast(httpx.AsyncByteStream, response.stream), measured)
        return response

    async def __aenter__(self) -> Self:
        await self._async_transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._async_transport.__aexit__(exc_type, exc_value, traceback)

    async def aclose(self) -> None:
        await self._async_transport.aclose()


class _SyncTransport(httpx.BaseTransport):
    def __init__(self, transport: httpx.BaseTransport, requests: _ClientMetrics) -> None:
        self._sync_transport = transport
        self._requests = requests

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with _ClientRequest(self._requests, request) as measured:
            response = self._sync_transport.handle_request(request)
        measured.on_response(response)
        response.stream = _SyncBody(cast(httpx.SyncByteStream, response.stream), measured)
        return response

    def __enter__(self) -> Self:
        self._sync_transport.__enter__()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        self._sync_transport.__exit__(exc_type, exc_value, traceback)

    def close(self) -> None:
        self._sync_transport.close()


class _Transport(_AsyncTransport, _SyncTransport):
    def __init__(self, transport: Any, requests: _ClientMetrics) -> None:
        _AsyncTransport.__init__(self, transport, requests)
        _SyncTransport.__init__(self, transport, requests)
