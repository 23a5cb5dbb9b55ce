"""The scrape endpoint as an ASGI application, for Starlette, FastAPI, Django and the like."""

from __future__ import annotations

from prometheus_client.registry import CollectorRegistry

from metrics_adapters.http import event_loop
from metrics_adapters.http.asgi_exchange import (
    Receive,
    Scope,
    Send,
    headers_of,
    inner_path,
    live,
    send_answer,
)
from metrics_adapters.http.scrape import (
    MAX_SCRAPES,
    PATH,
    TIMEOUT,
    Answer,
    Endpoint,
    Request,
    Scrape,
)
from metrics_adapters.http.shared_call import Start, in_thread
from metrics_adapters.prometheus.expositions import Exposable
from metrics_framework.capabilities import AsyncCallbacks, Callbacks
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.runtime.cooperative import TimeSlice


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
            if not await event_loop.done_within(seconds, lambda: send_answer(answer, request.method, send)):
                log_event("warning", "a scrape was not read in time", seconds=seconds)

    async def _answer(self, scrape: Scrape) -> Answer:
        for future, seconds in scrape.waiting(self._call_back()):
            await event_loop.wait(future, seconds)
        pace = TimeSlice()
        for _ in scrape.making():
            if pace.is_due():
                await event_loop.checkpoint()
                pace.begin()
        return scrape.answer

    def _call_back(self) -> Start[object] | None:
        callbacks = self._endpoint.callbacks
        if callbacks is None:
            return None
        if isinstance(callbacks, AsyncCallbacks):
            return event_loop.in_task(callbacks.collect_async)
        return in_thread(callbacks.collect)


def _request(scope: Scope) -> Request:
    names = ("authorization", "accept", "accept-encoding", "x-prometheus-scrape-timeout-seconds")
    return Request(scope["method"], *map(headers_of(scope).get, names))
