"""What httpx asks other services for, measured at its transport: each attempt, to the end of its body."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self, cast, overload

import httpx

from metrics_adapters.instrumentation.error_types import error_type_of
from metrics_adapters.instrumentation.meters import InFlight, Metrics, SafeMeter
from metrics_adapters.instrumentation.middleware import METHOD, STATUS_CLASS, method_tag, status_class
from metrics_framework.errors import InvalidInputError
from metrics_framework.validation import check_name

REQUEST = "http.client.request"
ACTIVE_REQUESTS = "http.client.active_requests"
HOST = "server.address"
CLIENT_ERROR = 400


@overload
def measured_transport(
    transport: httpx.AsyncBaseTransport, metrics: Metrics, *, name: str = REQUEST
) -> httpx.AsyncBaseTransport: ...


@overload
def measured_transport(
    transport: httpx.BaseTransport, metrics: Metrics, *, name: str = REQUEST
) -> httpx.BaseTransport: ...


def measured_transport(
    transport: httpx.AsyncBaseTransport | httpx.BaseTransport, metrics: Metrics, *, name: str = REQUEST
) -> httpx.AsyncBaseTransport | httpx.BaseTransport:
    """Return a transport of httpx that measures what goes through another one.

    Each request is an operation ``http.client.request``, from being sent until its body was read or closed;
    a redirect or a retry is another one. Its tags are ``http.request.method``, ``server.address`` (the host,
    never the URL) and ``http.response.status_class``. As OpenTelemetry has it for clients, a status of 400 or
    more is a failure by its number; so is an exception by its name, and ``cancelled``. Not to read a body to
    its end is none. The gauge ``http.client.active_requests`` counts those that are not done.

    Args:
        transport: What sends the requests: of `httpx.AsyncClient` or of `httpx.Client`.
        metrics: A system, or a collector, which gets the timer ``http.client.request.duration``.
        name: What a request is called.

    Raises:
        InvalidInputError: If an argument is not what it has to be.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> transport = measured_transport(httpx.AsyncHTTPTransport(), MetricsSystem())
        >>> client = httpx.AsyncClient(transport=transport)
    """
    requests = _Requests(metrics, name)
    if isinstance(transport, httpx.AsyncBaseTransport) and isinstance(transport, httpx.BaseTransport):
        return _Transport(transport, requests)  # it is both, such as httpx.MockTransport
    if isinstance(transport, httpx.AsyncBaseTransport):
        return _AsyncTransport(transport, requests)
    if isinstance(transport, httpx.BaseTransport):
        return _SyncTransport(transport, requests)
    raise InvalidInputError(f"{transport!r} is no transport of httpx, like httpx.AsyncHTTPTransport()")


class _Requests:
    """Where requests are recorded."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.name = check_name(name)
        self.meter = SafeMeter(metrics)
        self.active = InFlight(metrics, ACTIVE_REQUESTS, "Requests that wait for their response, or read it.")


class _Request:
    """One request; an exception inside of its ``with`` block is its end."""

    def __init__(self, requests: _Requests, request: httpx.Request) -> None:
        self._requests = requests
        self._active = {METHOD: method_tag(request.method)}
        self._tags = {**self._active, HOST: request.url.host, STATUS_CLASS: status_class(None)}
        self._error_type: str | None = None
        self._has_ended = False
        requests.active.up(self._active)
        self._begun = requests.meter.begin(requests.name, self._tags)
        self._since_ns = requests.meter.now_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, GeneratorExit):  # to stop reading is no failure
            self.end(error_type_of(error))

    def answered(self, response: httpx.Response) -> None:
        """Take note of the status; a response that is read already, such as one of a cache, is its end."""
        self._tags[STATUS_CLASS] = status_class(response.status_code)
        if response.status_code >= CLIENT_ERROR:
            self._error_type = str(response.status_code)
        if response.is_closed:
            self.end()

    def end(self, error_type: str | None = None) -> None:
        """Record how it ended, once."""
        if self._has_ended:
            return
        self._has_ended = True
        requests = self._requests
        spent_ns = requests.meter.now_ns() - self._since_ns
        requests.active.down(self._active)
        requests.meter.end(self._begun, requests.name, self._tags, spent_ns, error_type or self._error_type)


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, stream: httpx.AsyncByteStream, request: _Request) -> None:
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
    def __init__(self, stream: httpx.SyncByteStream, request: _Request) -> None:
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
    def __init__(self, transport: httpx.AsyncBaseTransport, requests: _Requests) -> None:
        self._async_transport = transport
        self._requests = requests

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with _Request(self._requests, request) as measured:
            response = await self._async_transport.handle_async_request(request)
        measured.answered(response)
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
    def __init__(self, transport: httpx.BaseTransport, requests: _Requests) -> None:
        self._sync_transport = transport
        self._requests = requests

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with _Request(self._requests, request) as measured:
            response = self._sync_transport.handle_request(request)
        measured.answered(response)
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
    def __init__(self, transport: Any, requests: _Requests) -> None:
        _AsyncTransport.__init__(self, transport, requests)
        _SyncTransport.__init__(self, transport, requests)
