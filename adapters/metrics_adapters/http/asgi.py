"""The scrape endpoint as an ASGI application, for Starlette, FastAPI, Django and the like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import partial

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http.scrape import (
    MAX_SCRAPES,
    PATH,
    TIMEOUT,
    Answer,
    Endpoint,
    Request,
    Scrape,
    Start,
    in_thread,
)
from metrics_adapters.http.types import Receive, Scope, Send
from metrics_adapters.prometheus.expositions import Callbacks, Exposable
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.runtime.cooperative import TimeSlice
from metrics_framework.runtime.event_loops import checkpoint, run_within, running_trio


def make_asgi_app(
    metrics: Exposable,
    *,
    registry: CollectorRegistry | None = None,
    callbacks: Callbacks | None = None,
    bearer_token: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    path: str = PATH,
    max_scrapes: int = MAX_SCRAPES,
    timeout: float = TIMEOUT,
) -> ScrapeApp:
    """Return an application that answers a scrape at ``path``, and where it is mounted.

    It renders on the event loop, which goes on in between about every millisecond; the metrics of
    ``registry``, whose collectors may wait for something, are rendered in a thread. It runs under asyncio
    and under trio.

    Args:
        metrics: What is exposed: a `MetricsSystem`, a collector, a `Store` or an `Exposition`.
        registry: A prometheus_client registry whose metrics are appended.
        callbacks: What is called before each scrape; ``metrics.callbacks`` by default, where there are any.
        bearer_token: What a request has to bear, if anything.
        basic_auth: User and password that a request has to give, if any.
        path: Where it answers beside the root of a mount.
        max_scrapes: How many scrapes are answered at the same time; others get the status 503.
        timeout: How many seconds one may take, and how many its client may take to read it. Callbacks and
            ``registry`` are waited for half of it.

    Raises:
        InvalidInputError: If an argument is not what it has to be.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> app = make_asgi_app(MetricsSystem())
    """
    return ScrapeApp(
        Endpoint(
            metrics,
            registry=registry,
            callbacks=callbacks,
            bearer_token=bearer_token,
            basic_auth=basic_auth,
            path=path,
            max_scrapes=max_scrapes,
            timeout=timeout,
        )
    )


class ScrapeApp:
    """What `make_asgi_app` returns; as no function, Starlette's ``Route`` takes it for an application."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI 3 has it.

        Raises:
            InvalidInputError: If it is of another kind than HTTP, WebSocket, which is refused, and lifespan.
        """
        kind = scope["type"]
        if kind == "http":
            await self._respond(scope, send)
        elif kind == "lifespan":
            await live(receive, send)
        elif kind == "websocket":
            await send({"type": "websocket.close"})
        else:
            raise InvalidInputError(f"a connection of the type {kind!r} cannot be served")

    async def _respond(self, scope: Scope, send: Send) -> None:
        request = _request(scope)
        admitted = self._endpoint.admit(request, inner_path(scope).rstrip("/") or self._endpoint.path)
        if isinstance(admitted, Answer):
            await send_answer(admitted, request.method, send)
            return
        with admitted:
            answer = await self._answer(admitted)
            seconds = self._endpoint.timeout
            if not await run_within(seconds, lambda: send_answer(answer, request.method, send)):
                log_event("warning", "a scrape was not read in time", seconds=seconds)

    async def _answer(self, scrape: Scrape) -> Answer:
        for call, seconds in scrape.waiting(self._call_back()):
            await call.wait_async(seconds)
        pace = TimeSlice()
        for _ in scrape.making():
            if pace.is_due():
                await checkpoint()
                pace.begin()
        return scrape.answer

    def _call_back(self) -> Start[object] | None:
        callbacks = self._endpoint.callbacks
        if callbacks is None:
            return None
        collect_async = getattr(callbacks, "collect_async", None)
        return in_thread(callbacks.collect) if collect_async is None else in_task(collect_async)


def _request(scope: Scope) -> Request:
    names = ("authorization", "accept", "accept-encoding", "x-prometheus-scrape-timeout-seconds")
    return Request(scope["method"], *map(headers_of(scope).get, names))


def headers_of(scope: Scope) -> dict[str, str]:
    """Return the headers of a request by their lower-case names; what comes twice is put together."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def inner_path(scope: Scope) -> str:
    """Return the path without that of the mount; by the specification it is in there, but not by all."""
    path: str = scope["path"]
    root = scope.get("root_path", "").rstrip("/")
    inside = path.removeprefix(root)
    return inside if not inside or inside.startswith("/") else path


async def send_answer(answer: Answer, method: str, send: Send) -> None:
    """Send an answer, to ``HEAD`` without its body; a client that is gone is no error."""
    headers = [(name.lower().encode(), value.encode()) for name, value in answer.headers]
    body: Iterable[bytes] = [] if method == "HEAD" else answer.body
    try:
        await send({"type": "http.response.start", "status": answer.status.value, "headers": headers})
        for piece in body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except OSError:
        pass  # the client is gone


async def live(receive: Receive, send: Send, end: Callable[[], None] = lambda: None) -> None:
    """Answer the events of a server's life.

    Args:
        receive: Brings them.
        send: Takes the answers.
        end: Called when the server is at its end.
    """
    while True:
        event = (await receive())["type"]
        if event == "lifespan.shutdown":
            end()
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


def in_task(work: Callable[[], Awaitable[object]]) -> Start[object]:
    """Return what makes a call in a task of its own."""

    def start(future: Future[object]) -> None:
        if (module := running_trio()) is not None:
            module.lowlevel.spawn_system_task(_settled, future, work)
            return
        task = asyncio.ensure_future(work())
        _TASKS.add(task)
        task.add_done_callback(partial(_settle, future))

    return start


_ENDED = "its event loop came to its end"
_TASKS: set[asyncio.Future[object]] = set()  # the event loop itself keeps none of them alive


async def _settled(future: Future[object], work: Callable[[], Awaitable[object]]) -> None:
    try:
        result = await work()
    except Exception as error:  # noqa: BLE001 - who waits is told; it would end the event loop
        future.set_exception(error)
    except BaseException:
        future.set_exception(RuntimeError(_ENDED))
        raise
    else:
        future.set_result(result)


def _settle(future: Future[object], task: asyncio.Future[object]) -> None:
    _TASKS.discard(task)
    if task.cancelled():
        future.set_exception(RuntimeError(_ENDED))
    elif (error := task.exception()) is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())
