"""ASGI middleware that measures requests and WebSocket connections, for any framework and event loop."""

from __future__ import annotations

from collections.abc import Callable, Collection
from traceback import walk_tb

from metrics_adapters.http.types import ASGIApp, Message, Receive, Scope, Send, path_in_mount
from metrics_adapters.instrumentation.meters import InFlight, SafeMeter, SystemOrCollector
from metrics_adapters.instrumentation.routes import UNMATCHED, Route
from metrics_framework.error_types import CANCELLED, NOT_COUNTED, error_type_of
from metrics_framework.health import CLIENT_DISCONNECT, UNHEALTHY, RequestNotes, request_notes
from metrics_framework.log import Isolation
from metrics_framework.validation import check_name, check_url_path

RouteFunction = Callable[[Scope], str | None]

REQUEST = "http.server.request"
ACTIVE_REQUESTS = "http.server.active_requests"
EVENT_STREAM = "http.server.event_stream"
ACTIVE_EVENT_STREAMS = "http.server.active_event_streams"
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

NO_RESPONSE, INCOMPLETE_RESPONSE = "no_response", "incomplete_response"
SERVER_ERROR_STATUS = 500
UNAVAILABLE_STATUS = 503
EVENT_STREAM_TYPE = b"text/event-stream"
NO_STATUS = "none"
_STATUS_CLASSES = {number: f"{number}xx" for number in range(1, 6)}

_NOTES = "metrics_framework.request_notes"
"""The key of a scope: all middleware of a request shares its notes."""

_LOST_CONNECTION = 1006
_FAILED_CONNECTION = (1011, 1012, 1013, 1014)  # internal error, service restart, try again later, bad gateway


def method_tag(method: str) -> str:
    """Return the tag of a method."""
    return method if method in KNOWN_METHODS else OTHER_METHOD


def status_class(status: int | None) -> str:
    """Return the class of a status, such as ``2xx``; ``none`` if there was no response."""
    return NO_STATUS if status is None else _STATUS_CLASSES.get(status // 100, "other")


class MetricsMiddleware:
    """Measures each request, each event stream and each WebSocket connection.

    A request is an operation ``http.server.request``, from its arrival until the last byte of its response is
    passed to the server. Background tasks that run afterwards are not included. The tags are
    ``http.request.method``, ``http.route`` (the template, or ``unmatched`` without a route) and
    ``http.response.status_class``. A status of 500 or more and an exception are failures. A request whose
    client disconnects and one whose task is cancelled are neither successes nor failures: only their duration
    is recorded, with ``client_disconnect`` or ``cancelled`` in place of the status. ``ignore`` and
    ``failures`` of the system decide about exceptions that the application raises, as for
    `MetricsSystem.measure`; a request that is answered with a status of 500 or more is a failure in any case.
    The endpoints of this library, such as those of `metrics_adapters.asgi.make_app`, are not measured.

    An event stream, which is a response of the type ``text/event-stream``, is an operation
    ``http.server.event_stream`` instead, with the same tags, because its duration says nothing about the
    latency of the service. A client that disconnects is its usual end, not a failure.

    A WebSocket connection is an operation ``websocket.server.connection`` until either side closes it, with
    the tags ``http.route`` and ``websocket.accepted``. The gauges ``http.server.active_requests``,
    ``http.server.active_event_streams`` (both by method) and ``websocket.server.active_connections`` count
    what is in progress. The names are those of
    OpenTelemetry's semantic conventions, if it defines them.

    Args:
        app: The application; with ``add_middleware`` the framework passes it.
        metrics: A system; or a collector, which records the timer ``http.server.request.duration``.
        name: The name of a request's operation.
        route: Returns the route template of a scope that the application has handled, or ``None``; for
            frameworks other than Starlette and FastAPI.
        exclude: Paths that are not measured, such as ``/healthz``, including all paths below them. They do
            not contain the root path of the server or of a mount.
        exact_status: Whether to record the tag ``http.response.status_code`` instead of the class.

    Raises:
        InvalidInputError: If an argument is invalid.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> async def app(scope, receive, send): ...
        >>> app = MetricsMiddleware(app, MetricsSystem(), exclude=["/healthz"])
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
        self.active_event_streams = InFlight(metrics, ACTIVE_EVENT_STREAMS, "Open event streams.")
        self.active_connections = InFlight(metrics, ACTIVE_CONNECTIONS, "Open WebSocket connections.")
        self.exact_status = exact_status
        self._route_of = route
        exclude = [exclude] if isinstance(exclude, str) else exclude
        paths = [check_url_path("exclude", path) for path in exclude]
        self._excluded = frozenset(path.rstrip("/") or "/" for path in paths)
        self._excluded_prefixes = tuple(f"{path}/" for path in self._excluded if path != "/")
        self._isolation = Isolation()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection of ASGI 3. Only HTTP and WebSocket connections are measured."""
        measured = _MEASUREMENTS.get(scope["type"])
        if measured is None or self._is_excluded(scope):
            await self.app(scope, receive, send)
            return
        notes: RequestNotes = scope.setdefault(_NOTES, RequestNotes())
        outer = request_notes.get()
        request_notes.set(notes)
        exchange = measured(self, scope, receive, send, notes)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        finally:
            request_notes.set(outer)
            notes.on_own_endpoint.clear()  # a reference cycle
        exchange.finish()

    def _is_excluded(self, scope: Scope) -> bool:
        if not self._excluded:
            return False
        path = path_in_mount(scope) or "/"
        return path in self._excluded or path.startswith(self._excluded_prefixes)

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

    def __init__(
        self, middleware: MetricsMiddleware, scope: Scope, receive: Receive, send: Send, notes: RequestNotes
    ) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._notes = notes
        self._route = Route(scope, middleware.app)
        self._method = {METHOD: method_tag(scope["method"])}
        self._operation = middleware.name
        self._status: int | None = None
        self._has_trailers = False
        self._missing_bytes: int | None = None
        self._is_disconnected = False
        self._is_complete = False
        self._spent_ns: int | None = None
        self._is_recorded = False
        self._active: InFlight | None = middleware.active_requests
        self._active.increment(self._method)
        notes.on_own_endpoint.append(lambda: self._count_in(None))
        self._started = middleware.meter.begin(self._operation, self._method)
        self._since_ns = middleware.meter.now_ns()

    async def receive(self) -> Message:
        """Receive a message, and detect that the client disconnects."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Send a message, and detect the kind and the end of the response."""
        if message["type"] == "http.response.start":
            self._start_response(message)
        try:
            await self._send(message)
        except OSError:
            self._is_disconnected = True
            raise
        if self._missing_bytes is not None:
            self._missing_bytes -= len(message.get("body", b""))
        if self._is_last(message):
            self._is_complete = not self._is_disconnected
            self._stop()
            if self._is_whole(message) and self._status is not None and self._status < SERVER_ERROR_STATUS:
                self._record(None)
            # Others are recorded later, with their exception if there is one.

    def fail(self, error: BaseException) -> None:
        """Record an exception of the application."""
        is_server_error = self._status is not None and self._status >= SERVER_ERROR_STATUS
        if self._is_complete and not is_server_error and not _is_interrupted(error):
            self.finish()  # the client has received everything
            return
        self._stop()
        if self._is_disconnected:
            self._record(CLIENT_DISCONNECT)
            return
        if self._status is None and error_type_of(error) != CANCELLED:
            self._status = SERVER_ERROR_STATUS  # the server sends this status
        outcome = self._middleware.meter.rule.outcome(error)
        if outcome is NOT_COUNTED:
            self._record(CANCELLED, is_counted=False)
        elif outcome is None and self._status is not None and self._status >= SERVER_ERROR_STATUS:
            self._record(str(self._status))  # whatever the exception is, the client gets an error
        else:
            self._record(outcome)

    def finish(self) -> None:
        """Record the end of a call of the application."""
        error_type = None
        if not self._is_complete:
            if self._is_disconnected:
                error_type = CLIENT_DISCONNECT
            else:
                error_type = NO_RESPONSE if self._status is None else INCOMPLETE_RESPONSE
        elif self._status == UNAVAILABLE_STATUS and self._notes.has_read_health:
            error_type = UNHEALTHY
        elif self._status is not None and self._status >= SERVER_ERROR_STATUS:
            error_type = str(self._status)
        self._stop()
        self._record(error_type)

    def _start_response(self, message: Message) -> None:
        self._status = message["status"]
        self._has_trailers = message.get("trailers", False)
        for name, value in message.get("headers", ()):
            lower = name.lower()
            if lower == b"content-length":
                if value.isdigit() and self._method[METHOD] != "HEAD":
                    self._missing_bytes = int(value)
            elif lower == b"content-type" and value.lower().startswith(EVENT_STREAM_TYPE):
                self._become_event_stream()

    def _become_event_stream(self) -> None:
        if not self._notes.is_own_endpoint:
            middleware = self._middleware
            self._count_in(middleware.active_event_streams)
            self._operation = EVENT_STREAM
            self._started = middleware.meter.begin(EVENT_STREAM, self._method)

    def _count_in(self, gauge: InFlight | None) -> None:
        """Count this request in a gauge, and no longer in the previous one."""
        if self._active is not None:
            self._active.decrement(self._method)
        self._active = gauge
        if gauge is not None:
            gauge.increment(self._method)

    def _is_last(self, message: Message) -> bool:
        kind = message["type"]
        if kind == "http.response.trailers":
            return not message.get("more_trailers", False)
        if self._has_trailers or self._spent_ns is not None:
            return False
        if kind in ("http.response.body", "http.response.zerocopysend"):
            return not message.get("more_body", False)
        return bool(kind == "http.response.pathsend")

    def _is_whole(self, message: Message) -> bool:
        """Return whether the last message shows that the response is whole.

        If an application behind Starlette's ``BaseHTTPMiddleware`` raises in the middle of a response, that
        middleware ends the response and raises the exception afterwards. Only a length tells before.
        """
        if self._is_disconnected:
            return False
        if message["type"] != "http.response.body" or self._method[METHOD] == "HEAD":
            return True
        return self._missing_bytes is not None and self._missing_bytes <= 0

    def _stop(self) -> None:
        if self._spent_ns is None:
            self._spent_ns = self._middleware.meter.now_ns() - self._since_ns
            self._count_in(None)

    def _record(self, error_type: str | None, is_counted: bool = True) -> None:
        if self._is_recorded or self._spent_ns is None:
            return
        self._is_recorded = True
        if self._notes.is_own_endpoint:
            return
        middleware, status = self._middleware, self._status
        if self._operation == EVENT_STREAM and error_type == CLIENT_DISCONNECT:
            error_type = None  # the usual end
        is_counted = is_counted and error_type != CLIENT_DISCONNECT
        tags = {**self._method, ROUTE: middleware.template(self._scope, self._route, status)}
        if error_type in (CANCELLED, CLIENT_DISCONNECT):
            tags[STATUS_CODE if middleware.exact_status else STATUS_CLASS] = error_type
        elif middleware.exact_status:
            tags[STATUS_CODE] = NO_STATUS if status is None else str(status)
        else:
            tags[STATUS_CLASS] = status_class(status)
        middleware.meter.end(self._started, self._operation, tags, self._spent_ns, error_type, is_counted)


class _WebSocketConnection:
    """One WebSocket connection."""

    def __init__(
        self, middleware: MetricsMiddleware, scope: Scope, receive: Receive, send: Send, notes: RequestNotes
    ) -> None:
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._notes = notes
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
        outcome = self._middleware.meter.rule.outcome(error)
        if outcome is NOT_COUNTED:
            self._end(CANCELLED, is_counted=False)
        else:
            self._end(outcome)

    def finish(self) -> None:
        """Record the end of a call of the application."""
        self._end(None)

    def _end(self, error_type: str | None, is_counted: bool = True) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        middleware = self._middleware
        spent_ns = middleware.meter.now_ns() - self._since_ns
        middleware.active_connections.decrement({})
        if self._notes.is_own_endpoint:
            return
        tags = {
            ROUTE: middleware.template(self._scope, self._route, None),
            ACCEPTED: "true" if self._is_accepted else "false",
        }
        is_counted = is_counted and error_type != CLIENT_DISCONNECT
        middleware.meter.end(self._started, CONNECTION, tags, spent_ns, error_type, is_counted)


_MEASUREMENTS: dict[str, type[_ServerRequest | _WebSocketConnection]] = {
    "http": _ServerRequest,
    "websocket": _WebSocketConnection,
}


def _is_interrupted(error: BaseException) -> bool:
    """Return whether an exception interrupted a response that Starlette's ``BaseHTTPMiddleware`` then ended.

    Otherwise it is of code that ran after the response. A background task also passes that middleware.
    """
    modules = {frame.f_globals.get("__name__") for frame, _ in walk_tb(error.__traceback__)}
    return "starlette.middleware.base" in modules and "starlette.background" not in modules


def _error_type_of_code(code: int | None) -> str | None:
    """Return the error type of a close code; ``None`` for a success."""
    if code == _LOST_CONNECTION:
        return CLIENT_DISCONNECT
    return str(code) if code in _FAILED_CONNECTION else None
