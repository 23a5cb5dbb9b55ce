"""The scrape endpoint as an ASGI application, for Starlette, FastAPI, Django and the like."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import Unpack

from metrics_adapters.http.options import EndpointOptions
from metrics_adapters.http.scrape import Endpoint, EndpointResponse, Scrape, ScrapeRequest, Start, in_thread
from metrics_adapters.http.types import Receive, Scope, Send, path_in_mount
from metrics_adapters.prometheus.targets import Target
from metrics_framework.capabilities import AsyncCallbacks
from metrics_framework.errors import InvalidInputError
from metrics_framework.health import mark_own_endpoint
from metrics_framework.log import log_event
from metrics_framework.runtime.cooperative import TimeSlice
from metrics_framework.runtime.event_loops import checkpoint, run_within, running_trio
from metrics_framework.validation import safe_repr


def make_asgi_app(metrics: Target, **options: Unpack[EndpointOptions]) -> ScrapeApp:
    """Return an ASGI application that serves the metrics at ``path`` and at the root of a mount.

    It renders on the event loop and yields to other tasks about every millisecond. The metrics of
    ``registry`` are rendered in a thread, because its collectors may block. It runs under asyncio and trio.

    Args:
        metrics: The metrics to expose: a `MetricsSystem`, a collector, a `Store` or an `Exposition`.
        **options: ``registry``, ``callbacks``, ``bearer_token``, ``basic_auth``, ``path``, ``max_scrapes``
            and ``timeout``: see `EndpointOptions`.

    Raises:
        InvalidInputError: If an argument is invalid.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> app = make_asgi_app(MetricsSystem())
    """
    return ScrapeApp(Endpoint(metrics, **options))


class ScrapeApp:
    """The application that `make_asgi_app` returns.

    It is an object, because Starlette's ``Route`` would take a function for a request handler.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request or the lifespan events of ASGI 3. WebSocket connections are rejected.

        Raises:
            InvalidInputError: If the scope has another type.
        """
        kind = scope["type"]
        if kind == "http":
            await self._respond(scope, send)
        elif kind == "lifespan":
            await serve_lifespan(receive, send)
        elif kind == "websocket":
            mark_own_endpoint()
            await send({"type": "websocket.close"})
        else:
            raise unsupported_scope(kind)

    async def _respond(self, scope: Scope, send: Send) -> None:
        request = _request(scope)
        admitted = self._endpoint.admit(request, path_in_mount(scope).rstrip("/") or self._endpoint.path)
        if isinstance(admitted, EndpointResponse):
            await send_response(admitted, request.method, send)
            return
        with admitted:
            response = await self._run(admitted)
            begin = time.monotonic()
            in_time = await run_within(
                self._endpoint.timeout,
                lambda: send_response(response, request.method, send),
                partial(setattr, admitted, "abort"),
            )
            if not in_time:
                seconds = round(time.monotonic() - begin, 1)
                log_event("warning", "a scrape was not read in time", seconds=seconds)

    async def _run(self, scrape: Scrape) -> EndpointResponse:
        for call, seconds in scrape.pending_calls(self._callback_start()):
            await call.wait_async(seconds)
        time_slice = TimeSlice()
        for _ in scrape.render():
            if time_slice.is_due():
                await checkpoint()
                time_slice.begin()
        return scrape.response

    def _callback_start(self) -> Start[object] | None:
        callbacks = self._endpoint.callbacks
        if callbacks is None:
            return None
        if isinstance(callbacks, AsyncCallbacks):
            return in_task(callbacks.collect_async)
        return in_thread(callbacks.collect)


def _request(scope: Scope) -> ScrapeRequest:
    headers = headers_of(scope)
    return ScrapeRequest(
        scope["method"],
        headers.get("authorization"),
        headers.get("accept"),
        headers.get("accept-encoding"),
        headers.get("x-prometheus-scrape-timeout-seconds"),
        scope.get("query_string", b"").decode("latin-1"),
    )


# -- shared by the ASGI applications --


def unsupported_scope(kind: object) -> InvalidInputError:
    """Return the error for a scope that is not ``http``, ``lifespan`` or ``websocket``."""
    return InvalidInputError(f"scope type {kind!r} is not supported: only http, lifespan and websocket are")


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request by their lower-case names. Repeated headers are joined with commas.

    Cookies are joined with semicolons, because HTTP/2 sends each in a header of its own (RFC 9113, 8.2.3).
    """
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        separator = "; " if name == "cookie" else ", "
        headers[name] = f"{headers[name]}{separator}{value}" if name in headers else value
    return headers


async def send_response(response: EndpointResponse, method: str, send: Send) -> None:
    """Send a response, without its body for ``HEAD``. A client that has disconnected is not an error."""
    headers = [(name.lower().encode(), value.encode()) for name, value in response.headers]
    body: Iterable[bytes] = [] if method == "HEAD" else response.body
    try:
        await send({"type": "http.response.start", "status": response.status.value, "headers": headers})
        for chunk in body:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except OSError:
        pass  # the client has disconnected


async def serve_lifespan(
    receive: Receive, send: Send, on_shutdown: Callable[[], None] = lambda: None
) -> None:
    """Answer the lifespan events of the server until it shuts down."""
    while True:
        event = (await receive())["type"]
        if event == "lifespan.shutdown":
            on_shutdown()
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


# -- calls in a task --


def in_task(function: Callable[[], Awaitable[object]]) -> Start[object]:
    """Return a starter that runs an async function in a task of its own on the running event loop."""

    def start(future: Future[object]) -> None:
        if (trio := running_trio()) is not None:
            trio.lowlevel.spawn_system_task(_run_on_trio, future, function)
            return
        task = asyncio.ensure_future(_isolated(function))
        _TASKS.add(task)
        task.add_done_callback(partial(_settle, future))

    return start


_LOOP_STOPPED = "the event loop stopped"
_TASKS: set[asyncio.Future[object]] = set()  # keeps the tasks alive: the event loop holds weak references


async def _isolated(function: Callable[[], Awaitable[object]]) -> object:
    try:
        return await function()
    except SystemExit as error:  # it would end the event loop
        raise RuntimeError(safe_repr(error)) from error


async def _run_on_trio(future: Future[object], function: Callable[[], Awaitable[object]]) -> None:
    try:
        result = await _isolated(function)
    except Exception as error:  # noqa: BLE001 - passed on to the waiters; it would crash the event loop
        future.set_exception(error)
    except BaseException:
        future.set_exception(RuntimeError(_LOOP_STOPPED))
        raise
    else:
        future.set_result(result)


def _settle(future: Future[object], task: asyncio.Future[object]) -> None:
    _TASKS.discard(task)
    if task.cancelled():
        future.set_exception(RuntimeError(_LOOP_STOPPED))
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
