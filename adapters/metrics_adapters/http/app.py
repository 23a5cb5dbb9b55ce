"""The ASGI application that serves a system: metrics, snapshots, health and the stream of events."""

from __future__ import annotations

import re
import threading
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from metrics_adapters.http.asgi import (
    ScrapeApp,
    headers_of,
    make_asgi_app,
    send_response,
    serve_lifespan,
    unsupported_scope,
)
from metrics_adapters.http.auth import Authenticator
from metrics_adapters.http.options import (
    DEFAULT_BUFFER_EVENTS,
    DEFAULT_HEARTBEAT_SECONDS,
    DEFAULT_MAX_CLIENTS,
    DEFAULT_TIMEOUT_SECONDS,
    ENDPOINTS,
)
from metrics_adapters.http.scrape import (
    ALLOWED_METHODS,
    EndpointResponse,
    TimedCall,
    in_thread,
    method_not_allowed,
    text_response,
    unauthorized,
    unavailable,
)
from metrics_adapters.http.sse import StreamEndpoint, query_fields, snapshot_tags
from metrics_adapters.http.types import Message, Receive, Scope, Send, path_in_mount
from metrics_framework.errors import InvalidInputError, SnapshotError, nearest
from metrics_framework.health import mark_own_endpoint
from metrics_framework.log import Isolation, log_event
from metrics_framework.runtime.event_loops import run_within
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.runtime.strict_json import to_json_text
from metrics_framework.system import MetricsSystem
from metrics_framework.validation import check_count, check_seconds, check_url_path, safe_repr

MAX_CONCURRENT_REQUESTS = 10
"""The number of concurrent requests for a snapshot, and for the health."""

_Handler = Callable[[Scope, Mapping[str, str], Receive, Send], Awaitable[None]]


def make_app(
    system: MetricsSystem,
    *,
    endpoints: Iterable[str] = ENDPOINTS,
    prefix: str = "",
    bearer_token: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    allow_origins: Iterable[str] = (),
    max_clients: int = DEFAULT_MAX_CLIENTS,
    buffer: int = DEFAULT_BUFFER_EVENTS,
    heartbeat: float = DEFAULT_HEARTBEAT_SECONDS,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
) -> WebApp:
    """Return an ASGI application that serves a system, on its own or mounted in another application.

    ``/metrics`` is the scrape endpoint of `metrics_adapters.prometheus.make_asgi_app`, ``/snapshot`` a v1
    snapshot, ``/health`` the result of `MetricsSystem.get_system_health` with status 200 or 503, and
    ``/stream`` the metrics that change, as server-sent events. It runs under asyncio and trio and needs no
    web framework.

    Args:
        system: The system to serve.
        endpoints: Those of ``metrics``, ``snapshot``, ``health`` and ``stream`` that are served.
        prefix: The prefix of the paths, in addition to the path of a mount.
        bearer_token: The token that a request must send; by default none is required.
        basic_auth: The ``(user, password)`` that a request must send; with a token too, either is accepted.
        allow_origins: The origins, such as ``https://status.example``, of other sites whose pages may read
            the responses in a browser (CORS); ``"*"`` for all.
        max_clients: The number of concurrent stream clients. Further ones get status 503.
        buffer: The number of events that are buffered for a slow stream client. Further ones are dropped and
            counted.
        heartbeat: The seconds without an event after which a stream client is sent a comment.
        timeout: The time limit in seconds for a response, and for the client to read it. For a stream client
            it limits the time to read what has been sent.

    Raises:
        InvalidInputError: If an argument is invalid, or ``metrics`` is served and the system's collector has
            no store.

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
        Authenticator(bearer_token, basic_auth),
        _checked_origins(allow_origins),
        StreamEndpoint(system, max_clients=max_clients, buffer=buffer, heartbeat=heartbeat, timeout=timeout),
        timeout,
    )


class WebApp:
    """The application that `make_app` returns.

    Args:
        system: The system to serve.
        paths: The endpoint at each path.
        authenticator: Checks the credentials of requests.
        origins: The origins whose pages may read the responses.
        stream: The endpoint ``stream``.
        timeout: The time limit in seconds for a response, and for the client to read it.
    """

    def __init__(
        self,
        system: MetricsSystem,
        paths: Mapping[str, str],
        authenticator: Authenticator,
        origins: Collection[str],
        stream: StreamEndpoint,
        timeout: float,
    ) -> None:
        self._system = system
        self._paths = paths
        self._authenticator = authenticator
        self._origins = origins
        self._stream = stream
        self._timeout = timeout
        # Separate runners: hanging snapshots must not block health checks.
        self._snapshots = RequestRunner("snapshot", timeout)
        self._health = RequestRunner("health", timeout)
        self._handlers: dict[str, _Handler] = {
            "snapshot": self._respond_snapshot,
            "health": self._respond_health,
            "stream": stream.respond,
        }
        for path, endpoint in paths.items():
            if endpoint == "metrics":
                self._handlers["metrics"] = _handler(make_asgi_app(system, path=path, timeout=timeout))

    @property
    def clients(self) -> int:
        """The number of stream clients."""
        return self._stream.clients

    def end_streams(self) -> None:
        """End all streams once their buffered events are sent. Call it on their event loop.

        A server that shuts down waits for its connections, and a stream does not end by itself. Clients may
        reconnect.
        """
        self._stream.end()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request or the lifespan events of ASGI 3. WebSocket connections are rejected.

        Raises:
            InvalidInputError: If the scope has another type.
        """
        kind = scope["type"]
        if kind == "http":
            await self._respond(scope, receive, send)
        elif kind == "lifespan":
            await serve_lifespan(receive, send, self.end_streams)
        elif kind == "websocket":
            mark_own_endpoint()
            await send({"type": "websocket.close"})
        else:
            raise unsupported_scope(kind)

    async def _respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _path(scope) in self._paths:
            mark_own_endpoint()
        headers = headers_of(scope)
        origin = headers.get("origin")
        send = _with_headers(send, self._common_headers(origin))
        rejection = self._rejection(scope, headers)
        if rejection is not None:
            await self._send(rejection, scope, send)
        else:
            await self._handlers[self._paths[_path(scope)]](scope, headers, receive, send)

    def _rejection(self, scope: Scope, headers: Mapping[str, str]) -> EndpointResponse | None:
        """Return the response to a request that is rejected or a preflight; ``None`` if it is accepted."""
        method = scope["method"]
        if method == "OPTIONS" and "access-control-request-method" in headers:
            if self._allowed_origin(headers.get("origin")) is not None:
                return _PREFLIGHT
        elif method in ALLOWED_METHODS and not self._authenticator.accepts(headers.get("authorization")):
            return unauthorized(self._authenticator)
        if method not in ALLOWED_METHODS:
            return method_not_allowed()
        if _path(scope) not in self._paths:
            return text_response(HTTPStatus.NOT_FOUND, f"not found: the paths are {', '.join(self._paths)}")
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

    async def _respond_snapshot(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        try:
            tags = snapshot_tags(query_fields(scope.get("query_string", b"")))
        except InvalidInputError as error:
            response = text_response(HTTPStatus.BAD_REQUEST, str(error))
        else:
            response = await self._snapshots.run(partial(snapshot_response, self._system, tags))
        await self._send(response, scope, send)

    async def _respond_health(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        await self._send(await self._health.run(partial(health_response, self._system)), scope, send)

    async def _send(self, response: EndpointResponse, scope: Scope, send: Send) -> None:
        if not await run_within(self._timeout, lambda: send_response(response, scope["method"], send)):
            log_event("warning", "an answer was not read in time", seconds=self._timeout)


_PREFLIGHT = EndpointResponse(
    HTTPStatus.NO_CONTENT,
    [
        ("Access-Control-Allow-Methods", ", ".join(ALLOWED_METHODS)),
        ("Access-Control-Allow-Headers", "Authorization, Cache-Control, Last-Event-ID"),
        ("Access-Control-Max-Age", "600"),
    ],
    [],
)


def _path(scope: Scope) -> str:
    return path_in_mount(scope).rstrip("/")


def _handler(app: ScrapeApp) -> _Handler:
    async def scrape(scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return scrape


def _with_headers(send: Send, common: list[tuple[bytes, bytes]]) -> Send:
    """Return a ``send`` that adds headers to a response and forbids caching it."""

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
        raise InvalidInputError(
            f"endpoints={safe_repr(endpoints)} is not a list: pass some of {', '.join(ENDPOINTS)}"
        )
    chosen = list(dict.fromkeys(endpoints))
    for name in chosen:
        if name not in ENDPOINTS:
            raise InvalidInputError(f"unknown endpoint {safe_repr(name)}.{nearest(str(name), ENDPOINTS)}")
    if not chosen:
        raise InvalidInputError(
            f"endpoints={safe_repr(endpoints)} is empty: pass some of {', '.join(ENDPOINTS)}"
        )
    return chosen


def _quoted(origin: object) -> str:
    """Return an origin for a message. It is a URL, but contains a secret only if it has a user."""
    return repr(origin) if isinstance(origin, str) and "@" not in origin else safe_repr(origin)


def _checked_origins(origins: object) -> frozenset[str]:
    if isinstance(origins, str) or not isinstance(origins, Iterable):
        raise InvalidInputError(
            f"allow_origins={_quoted(origins)} is not a list of origins, such as ['https://status.example']"
        )
    checked = frozenset(origins)
    for origin in checked:
        if origin != "*" and not (isinstance(origin, str) and _ORIGIN.fullmatch(origin)):
            raise InvalidInputError(
                f"{_quoted(origin)} in allow_origins is not an origin, such as 'https://status.example'"
            )
    return checked


_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")


class RequestRunner:
    """Runs requests of one kind in threads, so that a slow or hanging system does not block the event loop.

    Args:
        kind: The kind of request, for the log and the responses.
        timeout: How many seconds a client waits for a response.
    """

    def __init__(self, kind: str, timeout: float) -> None:
        self._kind = kind
        self._timeout = timeout
        self._isolation = Isolation()
        self.reset()
        reset_after_fork(self, RequestRunner.reset, ForkOrder.LOCKS)

    def reset(self) -> None:
        """Free all slots: in a forked child, the threads that hold them do not exist."""
        self._slots = threading.BoundedSemaphore(MAX_CONCURRENT_REQUESTS)

    async def run(self, respond: Callable[[], EndpointResponse]) -> EndpointResponse:
        """Return the response of a function, or an error response."""
        slots = self._slots
        if not slots.acquire(blocking=False):
            return unavailable(f"too many concurrent {self._kind} requests")
        call = TimedCall[EndpointResponse](self._timeout)
        # A slot is freed when its thread ends, not at the time-out: it limits the number of hanging threads.
        call.future.add_done_callback(lambda _: slots.release())
        try:
            in_thread(respond)(call.future)
        except RuntimeError as error:  # no thread can be started
            call.future.set_exception(error)
        await call.wait_async()
        if not call.future.done():
            self._isolation.call(f"{self._kind} not answered", call.outcome)
            return unavailable(f"{self._kind} timed out after {self._timeout:g} seconds")
        failed = text_response(HTTPStatus.INTERNAL_SERVER_ERROR, f"{self._kind} failed: see the log")
        return self._isolation.call(f"{self._kind} not answered", call.outcome) or failed


def health_response(system: MetricsSystem) -> EndpointResponse:
    """Return the health of a system: status 200 if it is healthy, else 503."""
    health = system.get_system_health()
    return json_response(HTTPStatus.OK if health["healthy"] else HTTPStatus.SERVICE_UNAVAILABLE, health)


def snapshot_response(system: MetricsSystem, tags: Mapping[str, str]) -> EndpointResponse:
    """Return a snapshot: status 200, 400 if a tag is invalid, or 503 if nothing has been recorded yet.

    Args:
        system: The system.
        tags: The tags of the snapshot's metadata.
    """
    try:
        snapshot, _ = system.build_snapshot(tags=tags)
    except SnapshotError as error:
        if any(violation.startswith("metadata.tags") for violation in error.violations):
            return text_response(HTTPStatus.BAD_REQUEST, str(error))
        return unavailable(f"no snapshot is available yet: {error}")
    return json_response(HTTPStatus.OK, snapshot.to_dict())


def json_response(status: HTTPStatus, data: Any) -> EndpointResponse:
    """Return a response in JSON that must not be cached."""
    body = to_json_text(data).encode() + b"\n"
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
    ]
    return EndpointResponse(status, headers, [body])
