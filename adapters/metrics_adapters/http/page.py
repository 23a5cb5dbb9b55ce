"""The endpoint of the live page: its files, login, chart library and history, and their headers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import quote

from metrics_adapters.http.auth import Authenticator
from metrics_adapters.http.negotiation import wants_gzip
from metrics_adapters.http.request_runner import RequestRunner, json_response
from metrics_adapters.http.scrape import (
    ALLOWED_METHODS,
    EndpointResponse,
    method_not_allowed,
    text_response,
    unavailable,
)
from metrics_adapters.http.sse import query_fields
from metrics_adapters.http.types import Receive, Scope
from metrics_adapters.page.files import INDEX, LOGIN, LoginForm, PageFile, page_document, page_files
from metrics_adapters.page.login import Sessions, is_from_other_site, token_of
from metrics_adapters.page.vega import ChartLibrary, chart_library
from metrics_framework.errors import InvalidInputError, MissingExtraError, OutputError, nearest
from metrics_framework.runtime.event_loops import run_within
from metrics_framework.validation import safe_repr

MAX_BODY_BYTES = 4096
"""The largest body of a login."""

FORM_SECONDS = 2.0
"""How long the body of a login is waited for. Browsers send it with the headers."""

MAX_COMPARISONS = 2
"""The number of comparisons of runs that are computed concurrently."""

CHART_LIBRARY = "assets/vega.js"


def _policy(*style_sources: str) -> str:
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            " ".join(("style-src 'self'", *style_sources)),
            "img-src 'self' data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    )


SECURITY_HEADERS = (
    ("Content-Security-Policy", _policy()),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    (
        "Permissions-Policy",
        "camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
    ("X-Frame-Options", "DENY"),
)
"""The headers of every response of the page; see OWASP's Secure Headers Project.

``X-Content-Type-Options`` is a header of all responses. ``Strict-Transport-Security`` concerns a whole host,
so it is left to the TLS proxy.
"""

RAW_SECURITY_HEADERS = [(name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS]

# Under `no-referrer`, browsers send `Origin: null` with a form, so that its origin could not be checked. Like
# it, this policy tells other sites nothing.
_FORM_REFERRER = ("Referrer-Policy", "same-origin")
_PATH_CHARACTERS = "!$&'()*+,;=:@"  # which browsers do not encode in the path of a URL
_HTML = ("Content-Type", "text/html; charset=utf-8")


class RunDocuments(Protocol):
    """The documents of a history of runs, such as a `SnapshotHistory`. They are made in threads."""

    def runs(self) -> dict[str, Any]:
        """Return the document of all runs."""
        ...

    def compare(self, baseline: str, current: str, /) -> dict[str, Any]:
        """Return the document of the comparison of two runs.

        Raises:
            InvalidInputError: If no run has an id.
            MissingExtraError: If a package for comparisons is not installed.
        """
        ...


class PageEndpoint:
    """The live page of one application, and the sessions of its browsers.

    Args:
        prefix: The path of the page without its final slash.
        authenticator: Checks the credentials of requests.
        token: The bearer token; without one there is no login.
        history: The history of runs, if there is one.
        timeout: The time limit in seconds for a request and its response.
        library: The chart library.
    """

    def __init__(
        self,
        prefix: str,
        authenticator: Authenticator,
        token: str | None,
        history: RunDocuments | None,
        timeout: float,
        library: ChartLibrary | None = None,
    ) -> None:
        self.root = f"{prefix}/"
        """The path of the page, without that of a mount."""
        self._authenticator = authenticator
        self._sessions = None if token is None else Sessions(token)
        self._form = LoginForm()
        self.has_history = history is not None
        """Whether there is a history of runs."""
        self._requests = {
            "history": RequestRunner("history", timeout),
            "history/compare": RequestRunner("comparison", timeout, MAX_COMPARISONS),
        }
        self._form_seconds = min(timeout / 2, FORM_SECONDS)  # the server closes it at the time-out
        self._library = chart_library() if library is None else library
        self._files = {
            "": page_document(has_login=self._sessions is not None),
            **{f"assets/{name}": file for name, file in page_files().items() if name not in (INDEX, LOGIN)},
        }
        self._actions = {"login": self._log_in, "logout": self._log_out} if self._sessions else {}
        self._reads: dict[str, Callable[[Mapping[str, str]], Any]] = {}
        if history is not None:
            self._reads = {"history": partial(_runs, history), "history/compare": partial(_compare, history)}

    def has(self, path: str) -> bool:
        """Return whether a path, without that of the mount, belongs to the page."""
        name = self._name(path)
        return (
            name is None or name == CHART_LIBRARY or name in {**self._files, **self._actions, **self._reads}
        )

    def _name(self, path: str) -> str | None:
        """Return a path relative to that of the page; ``None`` for the page without its slash."""
        if path == self.root[:-1]:
            return None
        return path.removeprefix(self.root) if path.startswith(self.root) else f"/{path}"

    # -- access --------------------------------------------------------------------------------------------

    def is_login(self, method: str, path: str) -> bool:
        """Return whether a request is a login, which needs no other credentials."""
        return self._sessions is not None and method == "POST" and self._name(path) == "login"

    def accepts(self, path: str, headers: Mapping[str, str]) -> bool:
        """Return whether a request has a session and comes from the page itself.

        Browsers add a cookie to the requests of other pages, too, such as those on other ports of this host.
        Only the document may be opened from elsewhere, because other pages cannot read it.

        Args:
            path: The path of the request, without that of the mount.
            headers: Its headers.
        """
        if self._sessions is None or not self._sessions.accepts(headers.get("cookie")):
            return False
        opens_document = headers.get("sec-fetch-dest") == "document" and self._name(path) in ("", None)
        return opens_document or not is_from_other_site(headers)

    def login_form_for(self, scope: Scope, path: str, headers: Mapping[str, str]) -> EndpointResponse | None:
        """Return the login form, if a browser requests the document; else ``None``."""
        name = self._name(path)
        if self._sessions is None or name not in ("", None) or "text/html" not in headers.get("accept", ""):
            return None
        return self._login_form(
            HTTPStatus.UNAUTHORIZED, challenges=self._authenticator.challenges, folder=_folder(scope, name)
        )

    def _login_form(
        self,
        status: HTTPStatus,
        *headers: tuple[str, str],
        error: str = "",
        challenges: list[str] | None = None,
        folder: str = "",
    ) -> EndpointResponse:
        body = self._form.document(error, folder)
        return EndpointResponse(
            status,
            [
                _HTML,
                ("Content-Length", str(len(body))),
                ("Content-Security-Policy", _policy(*self._form.style_sources)),
                _FORM_REFERRER,
                *(("WWW-Authenticate", challenge) for challenge in challenges or ()),
                *headers,
            ],
            [body],
        )

    # -- requests ------------------------------------------------------------------------------------------

    async def respond(
        self, scope: Scope, path: str, headers: Mapping[str, str], receive: Receive
    ) -> EndpointResponse:
        """Return the response to a request with accepted credentials, or to a login.

        Args:
            scope: The request.
            path: Its path, without that of the mount. The page has it.
            headers: Its headers.
            receive: Returns the parts of its body.
        """
        name = self._name(path)
        action = self._actions.get(name or "")
        if action is not None:
            if scope["method"] != "POST":
                allow = ("Allow", "POST")
                return text_response(HTTPStatus.METHOD_NOT_ALLOWED, "only POST is allowed", allow)
            if is_from_other_site(headers):
                return text_response(HTTPStatus.FORBIDDEN, "a page of another origin sent this request")
            return await action(scope, receive)
        if scope["method"] not in ALLOWED_METHODS:
            return method_not_allowed()
        if name is None:
            return text_response(
                HTTPStatus.PERMANENT_REDIRECT, "the page is at ./", ("Location", _folder(scope, name))
            )
        if name in self._reads:
            return await self._read(name, scope)
        if name == CHART_LIBRARY:
            return self._chart_library(headers)
        if name == "":
            self._prepare_library()
        return file_response(self._files[name], headers, is_document=name == "")

    async def _log_in(self, scope: Scope, receive: Receive) -> EndpointResponse:
        assert self._sessions is not None
        body = bytearray()
        if not await run_within(self._form_seconds, partial(_read_body, receive, body)):
            text = f"no form arrived in {self._form_seconds:g} seconds"
            return text_response(HTTPStatus.REQUEST_TIMEOUT, text)
        if len(body) > MAX_BODY_BYTES:
            return text_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the form has more than {MAX_BODY_BYTES} bytes"
            )
        # Wrong tokens are not limited: others could lock users out, and a long token cannot be guessed.
        if self._authenticator.accepts_token(token_of(bytes(body))):
            return self._to_page(self._sessions.create(), scope)
        # Without the challenge of basic authentication, for which a browser would open its dialog.
        bearer = [each for each in self._authenticator.challenges if each.startswith("Bearer")]
        return self._login_form(
            HTTPStatus.UNAUTHORIZED, error="This is not the token of the service.", challenges=bearer
        )

    async def _log_out(self, scope: Scope, receive: Receive) -> EndpointResponse:
        return self._to_page("", scope)

    def _to_page(self, session: str, scope: Scope) -> EndpointResponse:
        assert self._sessions is not None
        cookie = self._sessions.set_cookie(session, secure=scope.get("scheme") == "https")
        return EndpointResponse(
            HTTPStatus.SEE_OTHER, [("Location", "./"), ("Set-Cookie", cookie), ("Content-Length", "0")], []
        )

    async def _read(self, name: str, scope: Scope) -> EndpointResponse:
        try:
            fields = dict(query_fields(scope.get("query_string", b"")))
        except InvalidInputError as error:
            return text_response(HTTPStatus.BAD_REQUEST, str(error))
        read = partial(_history_response, self._reads[name], fields)
        return await self._requests[name].run(read, key=tuple(sorted(fields.items())))

    def _chart_library(self, headers: Mapping[str, str]) -> EndpointResponse:
        try:
            script = self._library.script()
        except MissingExtraError as error:
            return text_response(HTTPStatus.NOT_IMPLEMENTED, str(error))
        except OutputError as error:
            # Without Retry-After, by which the page would wait for it.
            return text_response(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
        if script is None:
            return unavailable("the chart library is being prepared")
        return file_response(script, headers)

    def _prepare_library(self) -> None:
        with suppress(MissingExtraError, OutputError):  # the response to the request for it has the reason
            self._library.script()


def file_response(
    file: PageFile, headers: Mapping[str, str], *, is_document: bool = False
) -> EndpointResponse:
    """Return a file, compressed if the client accepts it, or status 304 if the client has it.

    Args:
        file: The file.
        headers: The headers of the request.
        is_document: Whether it is a document, which no cache keeps. A cache asks each time whether another
            file has changed.
    """
    compressed = wants_gzip(headers.get("accept-encoding"))
    tag = f'"{file.digest}{"-gzip" if compressed else ""}"'
    common = [("Vary", "Accept-Encoding")]
    if is_document:
        common.append(_FORM_REFERRER)
    else:
        common += [("ETag", tag), ("Cache-Control", "no-cache")]
        known = [each.strip().removeprefix("W/") for each in headers.get("if-none-match", "").split(",")]
        if tag in known or "*" in known:
            return EndpointResponse(HTTPStatus.NOT_MODIFIED, common, [])
    body = file.compressed if compressed else file.content
    own = [("Content-Type", file.content_type), ("Content-Length", str(len(body)))]
    if compressed:
        own.append(("Content-Encoding", "gzip"))
    return EndpointResponse(HTTPStatus.OK, [*own, *common], [body])


def _folder(scope: Scope, name: str | None) -> str:
    """Return the path of the page relative to the URL of a request, which may lack the final slash."""
    return "" if name is not None else f"./{quote(scope['path'].rpartition('/')[2], safe=_PATH_CHARACTERS)}/"


async def _read_body(receive: Receive, body: bytearray) -> None:
    """Read a body, up to the first part that makes it too long. If it breaks off, it is empty."""
    more = True
    while more and len(body) <= MAX_BODY_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            body.clear()
        body += message.get("body", b"")
        more = message.get("more_body", False)


def _runs(history: RunDocuments, fields: Mapping[str, str]) -> dict[str, Any]:
    _check_fields(fields)
    return history.runs()


def _compare(history: RunDocuments, fields: Mapping[str, str]) -> dict[str, Any]:
    _check_fields(fields, "baseline", "current")
    return history.compare(fields["baseline"], fields["current"])


def _check_fields(fields: Mapping[str, str], *names: str) -> None:
    for field in fields:
        if field not in names:
            raise InvalidInputError(f"unknown field {safe_repr(field)}.{nearest(field, names)}")
    for name in names:
        if name not in fields:
            raise InvalidInputError(f"the query has no {name}: pass {name}=RUN_ID")


def _history_response(
    read: Callable[[Mapping[str, str]], Any], fields: Mapping[str, str]
) -> EndpointResponse:
    try:
        return json_response(HTTPStatus.OK, read(fields))
    except InvalidInputError as error:
        return text_response(HTTPStatus.BAD_REQUEST, str(error))
    except MissingExtraError as error:
        return text_response(HTTPStatus.NOT_IMPLEMENTED, str(error))
