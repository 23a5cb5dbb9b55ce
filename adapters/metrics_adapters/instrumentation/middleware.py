"""ASGI middleware that measures requests and WebSocket connections, for any framework and event loop."""

from __future__ import annotations

from collections.abc import Callable, Collection

from metrics_adapters.http.types import ASGIApp, Message, Receive, Scope, Send
from metrics_adapters.instrumentation.error_types import CANCELLED, error_type_of
from metrics_adapters.instrumentation.meters import InFlight, SafeMeter, SystemOrCollector
from metrics_adapters.instrumentation.routes import UNMATCHED, Route
from metrics_framework.log import Isolation
from metrics_framework.validation import check_name

RouteFunction = Callable[[Scope], str | None]

REQUEST = "http.server.request"
ACTIVE_REQUESTS = "http.server.active_requests"
CONNECTION = "websocket.server.connection"
ACTIVE_CONNECTIONS = "websocket.server.active_connections"

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS_CLASS = "http.response.status_class"
STATUS_CODE = "http.response.status_code"
ACCEPTED = "websocket.accepted"

KNOWN_METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
OTHER_METHOD = "_OTHER"
"""OpenTelemetry's tag for an unknown method."""

CLIENT_DISCONNECT = "client_disconnect"
"""The error type of a client that disconnects before it has received everything."""

NO_RESPONSE, INCOMPLETE_RESPONSE = "no_response", "incomplete_response"
SERVER_ERROR_STATUS = 500
NO_STATUS = "none"
_STATUS_CLASSES = {number: f"{number}xx" for number in range(1, 6)}

_LOST_CONNECTION = 1006
_FAILED_CONNECTION = (1011, 1012, 1013, 1014)  # internal error, service restart, try again later, bad gateway


def method_tag(method: str) -> str:
    """Return the tag of a method."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


def status_class(status: int | None) -> str:
    """Return the class of a status, such as ``2xx``; ``none`` if there was no response."""
    return NO_STATUS if status is None else _STATUS_CLASSES.get(status // 100, "other")


class MetricsMiddleware:
    """Measures each request and each WebSocket connection.

    A request is an operation ``http.server.request``, from its arrival until the last byte of its response is
    passed to the server. Background tasks that run afterwards are not included. The tags are
    ``http.request.method``, ``http.route`` (the template, or ``unmatched`` without a route) and
    ``http.response.status_class``. A status of 500 or more and an exception are failures, and so are a client
    that disconnects (``client_disconnect``) and a cancelled task (``cancelled``).

    A WebSocket connection is an operation ``websocket.server.connection`` until either side closes it, with
    the tags ``http.route`` and ``websocket.accepted``. The gauges ``http.server.active_requests`` (by method)
    and ``websocket.server.active_connections`` count requests in flight. The names are those of
    OpenTelemetry's semantic conventions, if it defines them.

    Args:
        app: The application; with ``add_middleware`` the framework passes it.
        metrics: A system; or a collector, which records the timer ``http.server.request.duration``.
        name: The name of a request's operation.
        route: Returns the route template of a scope that the application has handled, or ``None``; for
            frameworks other than Starlette and FastAPI.
        exclude: Paths that are not measured, such as ``/metrics``, including all paths below them.
        exact_status: Whether to record the tag ``http.response.status_code`` instead of the class.

    Raises:
        InvalidInputError: If an argument is invalid.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> async def app(scope, receive, send): ...
        >>> app = MetricsMiddleware(app, MetricsSystem(), exclude=["/metrics"])
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: SystemOrCollector,
        *,
        name: str = REQUEST,
        route: RouteFunction | None = None,
        exclude: Collection[str] = (),
        exact_status: bool = False,
    ) -> None:
        self.app = app
        self.name = check_name(name)
        self.meter = SafeMeter(metrics)
        self.active_requests = InFlight(metrics, ACTIVE_REQUESTS, "Requests in progress.")
        self.active_connections = InFlight(metrics, ACTIVE_CONNECTIONS, "Open WebSocket connections.")
        self.exact_status = exact_status
        self._route_of = route
        self._exclude = frozenset([exclude] if isinstance(exclude, str) else exclude)
        self._excluded_prefixes = tuple(f"{path.rstrip('/')}/" for path in self._exclude if path.strip("/"))
        self._isolation = Isolation()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI 3. Only HTTP and WebSocket connections are measured."""
        measured = _MEASUREMENTS.get(scope["type"])
        path: str = scope.get("path", "")
        if measured is None or path in self._exclude or path.startswith(self._excluded_prefixes):
            await self.app(scope, receive, send)
            return
        exchange = measured(self, scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        exchange.finish()

    def template(self, scope: Scope, route: Route, status: int | None) -> str:
        """Return the route tag of a request that the application has handled."""
        if self._route_of is None:
            found = self._isolation.call("route not found out", lambda: route.template(status))
        else:
            route_of = self._route_of
            found = self._isolation.call("route not found out", lambda: route_of(scope))
        return found or UNMATCHED


class _ServerRequest:
    """One request and its response."""

    def __init__(self, middleware: MetricsMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._route = Route(scope, middleware.app)
        self._active = {METHOD: method_tag(scope["method"])}
        self._status: int | None = None
        self._has_trailers = False
        self._is_disconnected = False
        self._spent_ns: int | None = None
        self._is_recorded = False
        middleware.active_requests.increment(self._active)
        self._started = middleware.meter.begin(middleware.name, self._active)
        self._since_ns = middleware.meter.now_ns()

    async def receive(self) -> Message:
        """Receive a message, and detect that the client disconnects."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message, and detect the end of the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._has_trailers = message.get("trailers", False)
        try:
            await self._send(message)
        except OSError:
            self._is_disconnected = True
            raise
        if self._is_last(message):
            self._stop()
            if self._status is not None and self._status < SERVER_ERROR_STATUS:
                self._record(None)
            # A server error is recorded later, with its exception if there is one.

    def fail(self, error: BaseException) -> None:
        """Record an exception of the application."""
        error_type = error_type_of(error)
        if self._spent_ns is None and self._is_disconnected:
            error_type = CLIENT_DISCONNECT
        elif self._status is None and error_type != CANCELLED:
            self._status = SERVER_ERROR_STATUS  # the server sends this status
        self._stop()
        self._record(error_type)

    def finish(self) -> None:
        """Record the end of a call of the application."""
        error_type = None
        if self._spent_ns is None:
            if self._is_disconnected:
                error_type = CLIENT_DISCONNECT
            else:
                error_type = NO_RESPONSE if self._status is None else INCOMPLETE_RESPONSE
        elif self._status is not None and self._status >= SERVER_ERROR_STATUS:
            error_type = str(self._status)
        self._stop()
        self._record(error_type)

    def _is_last(self, message: Message) -> bool:
        kind = message["type"]
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        if self._has_trailers or self._spent_ns is not None:
            return False
        if kind in ("http.response.body", "http.response.zerocopysend"):
            return not message.get("more_body", False)
        return bool(kind == "http.response.pathsend")

    def _stop(self) -> None:
        if self._spent_ns is None:
            self._spent_ns = self._middleware.meter.now_ns() - self._since_ns
            self._middleware.active_requests.decrement(self._active)

    def _record(self, error_type: str | None) -> None:
        if self._is_recorded or self._spent_ns is None:
            return
        self._is_recorded = True
        middleware, status = self._middleware, self._status
        tags = {**self._active, ROUTE: middleware.template(self._scope, self._route, status)}
        if middleware.exact_status:
            tags[STATUS_CODE] = NO_STATUS if status is None else str(status)
        else:
            tags[STATUS_CLASS] = status_class(status)
        middleware.meter.end(self._started, middleware.name, tags, self._spent_ns, error_type)


class _WebSocketConnection:
    """One WebSocket connection."""

    def __init__(self, middleware: MetricsMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._route = Route(scope, middleware.app)
        self._is_accepted = False
        self._has_ended = False
        middleware.active_connections.increment({})
        self._started = middleware.meter.begin(CONNECTION, {})
        self._since_ns = middleware.meter.now_ns()

    async def receive(self) -> Message:
        """Receive a message, and detect that the client closes the connection."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._end(_error_type_of_code(message.get("code")))
        return message

    async def send(self, message: Message) -> None:
        """Send a message, and detect that the connection is accepted, closed or lost."""
        try:
            await self._send(message)
        except OSError:
            self._end(CLIENT_DISCONNECT)
            raise
        if message["type"] == "websocket.accept":
            self._is_accepted = True
        elif message["type"] == "websocket.close":
            self._end(_error_type_of_code(message.get("code")))

    def fail(self, error: BaseException) -> None:
        """Record an exception of the application."""
        self._end(error_type_of(error))

    def finish(self) -> None:
        """Record the end of a call of the application."""
        self._end(None)

    def _end(self, error_type: str | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        middleware = self._middleware
        spent_ns = middleware.meter.now_ns() - self._since_ns
        middleware.active_connections.decrement({})
        tags = {
            ROUTE: middleware.template(self._scope, self._route, None),
            ACCEPTED: "true" if self._is_accepted else "false",
        }
        middleware.meter.end(self._started, CONNECTION, tags, spent_ns, error_type)


_MEASUREMENTS: dict[str, type[_ServerRequest | _WebSocketConnection]] = {
    "http": _ServerRequest,
    "websocket": _WebSocketConnection,
}


def _error_type_of_code(code: int | None) -> str | None:
    """Return the error type of a close code; ``None`` for a success."""
    if code == _LOST_CONNECTION:
        return CLIENT_DISCONNECT
    return str(code) if code in _FAILED_CONNECTION else None
