"""The ASGI application: who may ask, for what, and from where."""

from __future__ import annotations

import os
import re
import weakref
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from http import HTTPStatus

from metrics_adapters.http.asgi import ScrapeApp, make_asgi_app
from metrics_adapters.http.asgi_exchange import (
    Message,
    Receive,
    Scope,
    Send,
    headers_of,
    inner_path,
    live,
    send_answer,
)
from metrics_adapters.http.auth import Access
from metrics_adapters.http.event_loop import done_within
from metrics_adapters.http.frames import fields_of, metadata_of
from metrics_adapters.http.requests import Questions, health, snapshot
from metrics_adapters.http.scrape import (
    METHODS,
    TIMEOUT,
    Answer,
    refusal,
    short_answer,
)
from metrics_adapters.http.sse import Streams
from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.log import log_event
from metrics_framework.system import MetricsSystem
from metrics_framework.validation import check_count, check_seconds, check_url_path, safe_repr

ENDPOINTS = ("metrics", "snapshot", "health", "stream")
"""What an application serves by default, each at a path of that name."""

MAX_CLIENTS = 100
"""How many streams there are at a time by default."""

BUFFER = 10_000
"""How many events wait for a client of the stream by default."""

HEARTBEAT = 15.0
"""After how many seconds of silence a client of the stream hears something by default."""

_Handler = Callable[[Scope, Mapping[str, str], Receive, Send], Awaitable[None]]


def make_app(
    system: MetricsSystem,
    *,
    endpoints: Iterable[str] = ENDPOINTS,
    prefix: str = "",
    bearer_token: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    allow_origins: Iterable[str] = (),
    max_clients: int = MAX_CLIENTS,
    buffer: int = BUFFER,
    heartbeat: float = HEARTBEAT,
    timeout: float = TIMEOUT,
) -> WebApp:
    """Return an application that serves a system, alone or mounted in another one.

    ``/metrics`` is what `metrics_adapters.prometheus.make_asgi_app` serves, ``/snapshot`` a v1 snapshot,
    ``/health`` the readings of `MetricsSystem.get_system_health` with the status 200 or 503, and ``/stream``
    every metric that changes, as server-sent events. It runs under asyncio and trio, and needs no framework.

    Args:
        system: What is served.
        endpoints: Which of ``metrics``, ``snapshot``, ``health`` and ``stream``.
        prefix: What their paths begin with, beside the path of a mount.
        bearer_token: What a request has to bear, if anything.
        basic_auth: User and password that a request has to give, if any; with a token too, either will do.
        allow_origins: The origins, like ``https://status.example``, of other sites whose pages may read the
            answers in a browser; ``"*"`` for those of any.
        max_clients: How many clients the stream has at a time; others get the status 503.
        buffer: How many events wait for a client that reads slowly; beyond, they are dropped and counted.
        heartbeat: After how many seconds without an event a client of the stream is sent a comment.
        timeout: How many seconds an answer may take, and how many a client may take to read it; a client of
            the stream, what was sent at once.

    Raises:
        InvalidInputError: If an argument is not what it has to be, or ``metrics`` are to be served of a
            system whose collector has no store.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> app = make_app(MetricsSystem(), bearer_token="s3cret")
    """
    chosen = _checked_endpoints(endpoints)
    if prefix != "":
        check_url_path("prefix", prefix)
    check_count("max_clients", max_clients)
    check_count("buffer", buffer)
    check_seconds("heartbeat", heartbeat)
    check_seconds("timeout", timeout)
    return WebApp(
        system,
        {f"{prefix.rstrip('/')}/{name}": name for name in chosen},
        Access(bearer_token, basic_auth),
        _checked_origins(allow_origins),
        Streams(system, max_clients=max_clients, buffer=buffer, heartbeat=heartbeat, timeout=timeout),
        timeout,
    )


class WebApp:
    """What `make_app` returns.

    Args:
        system: What is served.
        paths: The endpoint at each path.
        access: Who may ask.
        origins: Whose pages may read the answers.
        streams: What ``stream`` is.
        timeout: How many seconds an answer and its reading may take.
    """

    def __init__(
        self,
        system: MetricsSystem,
        paths: Mapping[str, str],
        access: Access,
        origins: Collection[str],
        streams: Streams,
        timeout: float,
    ) -> None:
        self._system = system
        self._paths = paths
        self._access = access
        self._origins = origins
        self._streams = streams
        self._timeout = timeout
        # Apart: a health check is answered also where many snapshots hang.
        self._snapshots = Questions("snapshot", timeout)
        self._health = Questions("health", timeout)
        self._handlers: dict[str, _Handler] = {
            "snapshot": self._answer_snapshot,
            "health": self._answer_health,
            "stream": streams.respond,
        }
        for path, endpoint in paths.items():
            if endpoint == "metrics":
                self._handlers["metrics"] = _scrapes(make_asgi_app(system, path=path, timeout=timeout))
        _APPS.add(self)

    @property
    def clients(self) -> int:
        """How many clients the stream has."""
        return self._streams.clients

    def end_streams(self) -> None:
        """End all streams, on their event loop, after what waits for their clients, who may come back.

        A server that waits for its connections would wait for them for ever.
        """
        self._streams.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI 3 has it.

        Raises:
            InvalidInputError: If it is of another kind than HTTP, WebSocket, which is refused, and lifespan.
        """
        kind = scope["type"]
        if kind == "http":
            await self._respond(scope, receive, send)
        elif kind == "lifespan":
            await live(receive, send, self.end_streams)
        elif kind == "websocket":
            await send({"type": "websocket.close"})
        else:
            raise InvalidInputError(f"a connection of the type {kind!r} cannot be served")

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = headers_of(scope)
        origin = headers.get("origin")
        send = _with_headers(send, self._common_headers(origin))
        refused = self._refusal(scope, headers)
        if refused is not None:
            await self._send(refused, scope, send)
        else:
            await self._handlers[self._paths[_path(scope)]](scope, headers, receive, send)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Answer | None:
        """Return the answer to a request that is not let in, ``None`` to one that is."""
        method = scope["method"]
        if method == "OPTIONS" and "access-control-request-method" in headers:
            if self._allowed_origin(headers.get("origin")) is not None:
                return _PREFLIGHT
        elif method in METHODS and not self._access.allows(headers.get("authorization")):
            return refusal(self._access)
        if method not in METHODS:
            allowed = ("Allow", ", ".join(METHODS))
            return short_answer(HTTPStatus.METHOD_NOT_ALLOWED, "this can only be read", allowed)
        if _path(scope) not in self._paths:
            return short_answer(HTTPStatus.NOT_FOUND, f"served here: {', '.join(self._paths)}")
        return None

    def _allowed_origin(self, origin: str | None) -> str | None:
        if "*" in self._origins:
            return "*"
        return origin if origin in self._origins else None

    def _common_headers(self, origin: str | None) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-content-type-options", b"nosniff")]
        if self._origins:
            headers.append((b"vary", b"Origin"))
        allowed = self._allowed_origin(origin)
        if allowed is not None:
            headers.append((b"access-control-allow-origin", allowed.encode("latin-1")))
            headers.append((b"access-control-expose-headers", b"Retry-After"))
        return headers

    async def _answer_snapshot(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        try:
            tags = metadata_of(fields_of(scope.get("query_string", b"")))
        except InvalidInputError as error:
            answer = short_answer(HTTPStatus.BAD_REQUEST, str(error))
        else:
            answer = await self._snapshots.ask(partial(snapshot, self._system, tags))
        await self._send(answer, scope, send)

    async def _answer_health(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        await self._send(await self._health.ask(partial(health, self._system)), scope, send)

    async def _send(self, answer: Answer, scope: Scope, send: Send) -> None:
        if not await done_within(self._timeout, lambda: send_answer(answer, scope["method"], send)):
            log_event("warning", "an answer was not read in time", seconds=self._timeout)

    def _begin_in_child(self) -> None:
        for part in (self._streams, self._snapshots, self._health):
            part.begin_anew()


_PREFLIGHT = Answer(
    HTTPStatus.NO_CONTENT,
    [
        ("Access-Control-Allow-Methods", ", ".join(METHODS)),
        ("Access-Control-Allow-Headers", "Authorization, Cache-Control, Last-Event-ID"),
        ("Access-Control-Max-Age", "600"),
    ],
    [],
)


def _path(scope: Scope) -> str:
    return inner_path(scope).rstrip("/")


def _scrapes(app: ScrapeApp) -> _Handler:
    async def scrape(scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return scrape


def _with_headers(send: Send, common: list[tuple[bytes, bytes]]) -> Send:
    """Return what adds headers to an answer, and has nobody keep it."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message["headers"])
            if all(name != b"cache-control" for name, _ in own):
                own.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*own, *common]}
        await send(message)

    return send_with_headers


def _checked_endpoints(endpoints: object) -> list[str]:
    if isinstance(endpoints, str) or not isinstance(endpoints, Iterable):
        raise InvalidInputError(f"endpoints={safe_repr(endpoints)} is no list of endpoints, like {ENDPOINTS}")
    chosen = list(dict.fromkeys(endpoints))
    for name in chosen:
        if name not in ENDPOINTS:
            raise InvalidInputError(f"unknown endpoint {safe_repr(name)}.{nearest(str(name), ENDPOINTS)}")
    if not chosen:
        raise InvalidInputError(
            f"endpoints={safe_repr(endpoints)} is empty; there are {', '.join(ENDPOINTS)}"
        )
    return chosen


def _checked_origins(origins: object) -> frozenset[str]:
    if isinstance(origins, str) or not isinstance(origins, Iterable):
        raise InvalidInputError(
            f"allow_origins={safe_repr(origins)} is no list of origins, like ['https://status.example']"
        )
    checked = frozenset(origins)
    for origin in checked:
        if origin != "*" and not (isinstance(origin, str) and _ORIGIN.fullmatch(origin)):
            raise InvalidInputError(
                f"allow_origins= has {safe_repr(origin)}, which is no origin like 'https://status.example'"
            )
    return checked


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")

_APPS: weakref.WeakSet[WebApp] = weakref.WeakSet()


def _begin_in_child() -> None:
    for app in list(_APPS):
        app._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_in_child)
