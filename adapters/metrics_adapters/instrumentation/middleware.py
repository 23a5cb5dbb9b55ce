"""ASGI middleware that measures what an application serves, in any framework and on any event loop."""

from __future__ import annotations

from collections.abc import Callable, Collection

from metrics_adapters.http.types import ASGIApp, Message, Receive, Scope, Send
from metrics_adapters.instrumentation.error_types import CANCELLED, error_type_of
from metrics_adapters.instrumentation.meters import InFlight, Metrics, SafeMeter
from metrics_adapters.instrumentation.routes import UNMATCHED, Route
from metrics_framework.log import Isolation
from metrics_framework.validation import check_name

RouteOf = Callable[[Scope], str | None]

REQUEST = "http.server.request"
ACTIVE_REQUESTS = "http.server.active_requests"
CONNECTION = "websocket.server.connection"
ACTIVE_CONNECTIONS = "websocket.server.active_connections"

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS_CLASS = "http.response.status_class"
STATUS_CODE = "http.response.status_code"
ACCEPTED = "websocket.accepted"

METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
OTHER_METHOD = "_OTHER"
"""What OpenTelemetry calls a method that is none of the known ones."""

CLIENT_DISCONNECT = "client_disconnect"
"""The error type where the client went away before it had everything."""

NO_RESPONSE, INCOMPLETE_RESPONSE = "no_response", "incomplete_response"
SERVER_ERROR = 500
NO_STATUS = "none"
_STATUS_CLASSES = {number: f"{number}xx" for number in range(1, 6)}

_LOST_CONNECTION = 1006
_FAILED_CONNECTION = (1011, 1012, 1013, 1014)  # an error, a restart, try again later, a bad gateway


def method_tag(method: str) -> str:
    """Return a method as a tag."""
    return method if method in METHODS else OTHER_METHOD


def status_class(status: int | None) -> str:
    """Return the class of a status, such as ``2xx``."""
    return NO_STATUS if status is None else _STATUS_CLASSES.get(status // 100, "other")


class MetricsMiddleware:
    """Measures each request and each WebSocket connection.

    A request is an operation ``http.server.request``, from its arrival until the last byte of its response
    was handed to the server: what runs in the background afterwards is no part of it. Its tags are
    ``http.request.method``, ``http.route`` (the template, ``unmatched`` where there is no route) and
    ``http.response.status_class``. A status of 500 or more and an exception are failures; so are, by names of
    their own, a client that went away (``client_disconnect``) and a task that was ``cancelled``.

    A WebSocket connection is an operation ``websocket.server.connection`` until either side closes it, with
    the tags ``http.route`` and ``websocket.accepted``. Gauges ``http.server.active_requests`` (by method) and
    ``websocket.server.active_connections`` count what is in flight. Names are those of OpenTelemetry where it
    has some.

    Args:
        app: The application; with ``add_middleware`` the framework passes it.
        metrics: A system, or a collector, which gets the timer ``http.server.request.duration``.
        name: What a request is called.
        route: Returns the template for a scope that the application has dealt with, or ``None``; for
            frameworks whose routes are not those of Starlette and FastAPI.
        exclude: Paths that are not measured, such as ``/metrics``, nor what is below them.
        exact_status: Whether the tag is ``http.response.status_code``, each one, instead of the class.

    Raises:
        InvalidInputError: If an argument breaks its rule.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> async def app(scope, receive, send): ...
        >>> app = MetricsMiddleware(app, MetricsSystem(), exclude=["/metrics"])
    """

    def __init__(
        self,
        app: ASGIApp,
        metrics: Metrics,
        *,
        name: str = REQUEST,
        route: RouteOf | None = None,
        exclude: Collection[str] = (),
        exact_status: bool = False,
    ) -> None:
        self.app = app
        self.name = check_name(name)
        self.meter = SafeMeter(metrics)
        self.active_requests = InFlight(metrics, ACTIVE_REQUESTS, "Requests that are being answered.")
        self.active_connections = InFlight(
            metrics, ACTIVE_CONNECTIONS, "WebSocket connections that are open."
        )
        self.exact_status = exact_status
        self._route_of = route
        self._exclude = frozenset([exclude] if isinstance(exclude, str) else exclude)
        self._below = tuple(f"{path.rstrip('/')}/" for path in self._exclude if path.strip("/"))
        self._isolation = Isolation()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI 3 has it; what is neither HTTP nor WebSocket passes through."""
        measured = _MEASURED.get(scope["type"])
        path: str = scope.get("path", "")
        if measured is None or path in self._exclude or path.startswith(self._below):
            await self.app(scope, receive, send)
            return
        exchange = measured(self, scope, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        exchange.leave()

    def template(self, scope: Scope, route: Route, status: int | None) -> str:
        """Return the route of what was dealt with, as a tag."""
        if self._route_of is None:
            found = self._isolation.call("route not found out", lambda: route.template(status))
        else:
            route_of = self._route_of
            found = self._isolation.call("route not found out", lambda: route_of(scope))
        return found or UNMATCHED


class _Request:
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
        self._is_gone = False
        self._spent_ns: int | None = None
        self._is_recorded = False
        middleware.active_requests.up(self._active)
        self._begun = middleware.meter.begin(middleware.name, self._active)
        self._since_ns = middleware.meter.now_ns()

    async def receive(self) -> Message:
        """Receive, and notice when the client goes away."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_gone = True
        return message

    async def send(self, message: Message) -> None:
        """Send, and notice the end of the response."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._has_trailers = message.get("trailers", False)
        try:
            await self._send(message)
        except OSError:
            self._is_gone = True
            raise
        if self._is_last(message):
            self._stop()
            if self._status is not None and self._status < SERVER_ERROR:
                self._record(None)
            # The exception behind a server error comes after it, where there is one.

    def fail(self, error: BaseException) -> None:
        """End with what the application raised."""
        error_type = error_type_of(error)
        if self._spent_ns is None and self._is_gone:
            error_type = CLIENT_DISCONNECT
        elif self._status is None and error_type != CANCELLED:
            self._status = SERVER_ERROR  # which the server answers
        self._stop()
        self._record(error_type)

    def leave(self) -> None:
        """End, as the application has come to its end."""
        error_type = None
        if self._spent_ns is None:
            if self._is_gone:
                error_type = CLIENT_DISCONNECT
            else:
                error_type = NO_RESPONSE if self._status is None else INCOMPLETE_RESPONSE
        elif self._status is not None and self._status >= SERVER_ERROR:
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
            self._middleware.active_requests.down(self._active)

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
        middleware.meter.end(self._begun, middleware.name, tags, self._spent_ns, error_type)


class _Connection:
    """One WebSocket connection."""

    def __init__(self, middleware: MetricsMiddleware, scope: Scope, receive: Receive, send: Send) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._route = Route(scope, middleware.app)
        self._is_accepted = False
        self._has_ended = False
        middleware.active_connections.up({})
        self._begun = middleware.meter.begin(CONNECTION, {})
        self._since_ns = middleware.meter.now_ns()

    async def receive(self) -> Message:
        """Receive, and notice when the client closes the connection."""
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._end(_error_type_of_code(message.get("code")))
        return message

    async def send(self, message: Message) -> None:
        """Send, and notice when the application accepts or closes the connection, or finds it lost."""
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
        """End with what the application raised."""
        self._end(error_type_of(error))

    def leave(self) -> None:
        """End, as the application has come to its end."""
        self._end(None)

    def _end(self, error_type: str | None) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        middleware = self._middleware
        spent_ns = middleware.meter.now_ns() - self._since_ns
        middleware.active_connections.down({})
        tags = {
            ROUTE: middleware.template(self._scope, self._route, None),
            ACCEPTED: "true" if self._is_accepted else "false",
        }
        middleware.meter.end(self._begun, CONNECTION, tags, spent_ns, error_type)


_MEASURED: dict[str, type[_Request | _Connection]] = {"http": _Request, "websocket": _Connection}


def _error_type_of_code(code: int | None) -> str | None:
    """Return how a connection that was closed with a code has failed, if it has."""
    if code == _LOST_CONNECTION:
        return CLIENT_DISCONNECT
    return str(code) if code in _FAILED_CONNECTION else None
