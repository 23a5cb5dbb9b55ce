"""The ASGI application that serves a system: metrics, snapshots, health, the stream and the page."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path

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
    PAGE,
)
from metrics_adapters.http.page import RAW_SECURITY_HEADERS, PageEndpoint, RunDocuments
from metrics_adapters.http.request_runner import RequestRunner, json_response
from metrics_adapters.http.scrape import (
    ALLOWED_METHODS,
    EndpointResponse,
    method_not_allowed,
    text_response,
    unauthorized,
    unavailable,
)
from metrics_adapters.http.sse import StreamEndpoint, query_fields, snapshot_tags
from metrics_adapters.http.types import Message, Receive, Scope, Send, path_in_mount
from metrics_framework.errors import InvalidInputError, SnapshotError, nearest
from metrics_framework.health import mark_own_endpoint
from metrics_framework.log import log_event
from metrics_framework.runtime.event_loops import run_within
from metrics_framework.system import MetricsSystem
from metrics_framework.validation import check_count, check_seconds, check_url_path, is_loopback, safe_repr

_Handler = Callable[[Scope, Mapping[str, str], Receive, Send], Awaitable[None]]


def make_app(
    system: MetricsSystem,
    *,
    endpoints: Iterable[str] = ENDPOINTS,
    prefix: str = "",
    bearer_token: str | None = None,
    basic_auth: tuple[str, str] | None = None,
    allow_origins: Iterable[str] = (),
    allow_hosts: Iterable[str] | None = None,
    max_clients: int = DEFAULT_MAX_CLIENTS,
    buffer: int = DEFAULT_BUFFER_EVENTS,
    heartbeat: float = DEFAULT_HEARTBEAT_SECONDS,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    snapshots: str | Path | None = None,
) -> WebApp:
    """Return an ASGI application that serves a system, on its own or mounted in another application.

    ``/metrics`` is the scrape endpoint of `metrics_adapters.prometheus.make_asgi_app`, ``/snapshot`` a v1
    snapshot, ``/health`` the result of `MetricsSystem.get_system_health` with status 200 or 503,
    ``/stream`` the metrics that change, as server-sent events, and ``/`` a live page for browsers. It runs
    under asyncio and trio and needs no web framework.

    Args:
        system: The system to serve.
        endpoints: Those of ``metrics``, ``snapshot``, ``health``, ``stream`` and ``page`` that are served.
            The page reads the stream, so it needs both.
        prefix: The prefix of the paths, in addition to the path of a mount.
        bearer_token: The token that a request must send; by default none is required. Browsers log in with
            it on the page.
        basic_auth: The ``(user, password)`` that a request must send; with a token too, either is accepted.
        allow_origins: The origins, such as ``https://status.example``, of other sites whose pages may read
            the responses in a browser (CORS); ``"*"`` for all.
        allow_hosts: The host names, such as ``status.example``, that the URL of a request may have, beside
            ``localhost`` and loopback addresses; by default any. Pass ``()`` for a service of this machine
            without credentials: any site could otherwise read it in a browser here, by giving its own name
            the address of this machine (DNS rebinding).
        max_clients: The number of concurrent stream clients. Further ones get status 503.
        buffer: The number of events that are buffered for a slow stream client. Further ones are dropped and
            counted.
        heartbeat: The seconds without an event after which a stream client is sent a comment.
        timeout: The time limit in seconds for a response, and for the client to read it. For a stream client
            it limits the time to read what has been sent.
        snapshots: A folder of snapshots, whose history the page shows.

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
    prefix = prefix.rstrip("/")
    authenticator = Authenticator(bearer_token, basic_auth)
    page = None
    if PAGE in chosen:
        chosen.remove(PAGE)
        page = PageEndpoint(prefix, authenticator, bearer_token, _history(snapshots), timeout)
    return WebApp(
        system,
        {f"{prefix}/{name}": name for name in chosen},
        authenticator,
        _checked_origins(allow_origins),
        None if allow_hosts is None else _checked_hosts(allow_hosts),
        StreamEndpoint(
            system,
            max_clients=max_clients,
            buffer=buffer,
            heartbeat=heartbeat,
            timeout=timeout,
            history=page is not None and page.has_history,
        ),
        page,
        timeout,
    )


def _history(folder: str | Path | None) -> RunDocuments | None:
    if folder is None:
        return None
    from metrics_adapters.page.history import SnapshotHistory  # slow to import

    return SnapshotHistory(folder)


class WebApp:
    """The application that `make_app` returns.

    Args:
        system: The system to serve.
        paths: The endpoint at each path.
        authenticator: Checks the credentials of requests.
        origins: The origins whose pages may read the responses.
        hosts: The host names of this application beside those of the loopback; ``None`` for any.
        stream: The endpoint ``stream``.
        page: The endpoint ``page``, if it is served.
        timeout: The time limit in seconds for a response, and for the client to read it.
    """

    def __init__(
        self,
        system: MetricsSystem,
        paths: Mapping[str, str],
        authenticator: Authenticator,
        origins: Collection[str],
        hosts: Collection[str] | None,
        stream: StreamEndpoint,
        page: PageEndpoint | None,
        timeout: float,
    ) -> None:
        self._system = system
        self._paths = paths
        self._authenticator = authenticator
        self._origins = origins
        self._hosts = hosts
        self._stream = stream
        self._page = page
        self._timeout = timeout
        # Separate runners: hanging snapshots must not block health checks.
        self._snapshots = RequestRunner("snapshot", timeout)
        self._health = RequestRunner("health", timeout)
        self._handlers: dict[str, _Handler] = {
            "snapshot": self._respond_snapshot,
            "health": self._respond_health,
            "stream": stream.respond,
            PAGE: self._respond_page,
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
        endpoint = self._endpoint(scope)
        if endpoint is not None:
            mark_own_endpoint()
        headers = headers_of(scope)
        send = _with_headers(send, self._common_headers(endpoint, headers.get("origin")))
        rejection = self._rejection(endpoint, scope, headers)
        if rejection is not None:
            await self._send(rejection, scope, send)
        elif endpoint is not None:
            await self._handlers[endpoint](scope, headers, receive, send)

    def _endpoint(self, scope: Scope) -> str | None:
        """Return the endpoint of a request; ``None`` if there is nothing at its path."""
        path = path_in_mount(scope)
        if self._page is not None and self._page.has(path):
            return PAGE
        return self._paths.get(path.rstrip("/"))

    def _rejection(
        self, endpoint: str | None, scope: Scope, headers: Mapping[str, str]
    ) -> EndpointResponse | None:
        """Return the response to a request that is rejected or a preflight; ``None`` if it is accepted."""
        if self._hosts is not None:
            host = _host_of(headers.get("host", ""))
            if host not in self._hosts and not is_loopback(host):
                text = f"the host {safe_repr(host)} is not one of this service: use localhost"
                return text_response(HTTPStatus.MISDIRECTED_REQUEST, text)
        method, path = scope["method"], path_in_mount(scope)
        if (
            method == "OPTIONS"
            and "access-control-request-method" in headers
            and self._allowed_origin(headers.get("origin")) is not None
        ):
            return _PREFLIGHT
        page = self._page
        if page is not None and page.is_login(method, path):
            return None
        if not self._authenticator.accepts(headers.get("authorization")) and not (
            page is not None and page.accepts(path, headers)
        ):
            form = None if page is None else page.login_form_for(scope, path, headers)
            return form or unauthorized(self._authenticator)
        if endpoint == PAGE:
            return None  # it allows other methods
        if method not in ALLOWED_METHODS:
            return method_not_allowed()
        if (
            endpoint == "stream"
            and headers.get("sec-fetch-site") == "cross-site"
            and self._allowed_origin(headers.get("origin")) is None
        ):
            # It could not read the stream, but would occupy its slots.
            return text_response(HTTPStatus.FORBIDDEN, "a page of another site sent this request")
        if endpoint is None:
            paths = [*self._paths, *([] if page is None else [page.root])]
            return text_response(HTTPStatus.NOT_FOUND, f"not found: the paths are {', '.join(paths)}")
        return None

    def _allowed_origin(self, origin: str | None) -> str | None:
        if "*" in self._origins:
            return "*"
        return origin if origin in self._origins else None

    def _common_headers(self, endpoint: str | None, origin: str | None) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-content-type-options", b"nosniff")]
        if self._page is not None and endpoint in (PAGE, None):
            headers += RAW_SECURITY_HEADERS
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

    async def _respond_page(
        self, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        assert self._page is not None
        response = await self._page.respond(scope, path_in_mount(scope), headers, receive)
        await self._send(response, scope, send)

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


def _handler(app: ScrapeApp) -> _Handler:
    async def scrape(scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return scrape


def _with_headers(send: Send, common: list[tuple[bytes, bytes]]) -> Send:
    """Return a ``send`` that adds headers to a response, and by default forbids caching it.

    A header that the response has is left as it is, except ``Vary``, of which it can have several.
    """
    defaults = [*common, (b"cache-control", b"no-store")]

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = list(message["headers"])
            names = {name for name, _ in own} - {b"vary"}
            message = {**message, "headers": [*own, *(each for each in defaults if each[0] not in names)]}
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
    if PAGE in chosen and "stream" not in chosen:
        raise InvalidInputError(
            f"endpoints={safe_repr(endpoints)} has 'page' without 'stream', which the page reads: add it"
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


def _checked_hosts(hosts: object) -> frozenset[str]:
    if isinstance(hosts, str) or not isinstance(hosts, Iterable):
        raise InvalidInputError(
            f"allow_hosts={safe_repr(hosts)} is not a list of host names, such as ['status.example']"
        )
    checked = frozenset(hosts)
    for host in checked:
        if not isinstance(host, str) or not re.fullmatch(r"[^][:]+|[0-9A-Fa-f.]*(:[0-9A-Fa-f.]*){2,}", host):
            raise InvalidInputError(
                f"{safe_repr(host)} in allow_hosts is not a host name, such as 'status.example'"
            )
    return frozenset(host.lower() for host in checked)


def _host_of(header: str) -> str:
    """Return the host in a ``Host`` header, without its port and the brackets of IPv6."""
    match = _HOST.fullmatch(header)
    return "" if match is None else (match[1] or match[2]).lower()


_HOST = re.compile(r"(?:\[([^][]+)\]|([^][:]+))(?::[0-9]*)?")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9.\[\]:_-]+")


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
