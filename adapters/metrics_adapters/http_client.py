"""An HTTP client for single requests: one time limit for everything, no redirects, no proxies."""

from __future__ import annotations

import http.client
import io
import re
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import quote

from metrics_framework.errors import ConfigurationError, OutputError, RefusedError
from metrics_framework.export.endpoints import EndpointUrl, Option, seconds_option, text_option

_CHUNK_BYTES = 65_536
_MAX_TEXT_CHARACTERS = 500
"""The length of the quoted beginning of a response."""
_RETRYABLE_STATUSES = {408, 425, 429}
"""The statuses below 500 after which the same request may succeed later."""


@dataclass(frozen=True)
class Address:
    """The address of a request.

    Attributes:
        scheme: ``http`` or ``https``.
        host: The host, without brackets.
        port: The port; ``None`` for the default of the scheme.
        path: The path, encoded.
        tls: How an ``https`` server is verified; by default with the certificate authorities of the system.
    """

    scheme: str
    host: str
    port: int | None
    path: str
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.path}"

    def connection(self, timeout: float) -> http.client.HTTPConnection:
        """Return a connection that is not connected yet."""
        if self.scheme == "https":
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)


@dataclass(frozen=True)
class HttpResponse:
    """The response to a request.

    Attributes:
        status: The status.
        text: The beginning of an error's body as one line for a message; empty for a status below 300.
        location: The target of a redirect without user, password and query; otherwise empty.
    """

    status: int
    text: str
    location: str


def deliver(
    address: Address,
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout: float,
    *,
    what: str,
) -> None:
    """Send a request, and raise unless the status is 2xx. Redirects are not followed.

    Args:
        address: The address.
        method: ``PUT``, ``POST``, ``DELETE``, …
        body: The body of the request.
        headers: All headers except ``Connection`` and ``Content-Length``.
        timeout: The time limit in seconds for the whole exchange.
        what: The beginning of error messages: what could not be done.

    Raises:
        RefusedError: If the server rejects the request. The message quotes its reason.
        OutputError: If the server cannot be reached or fails. A later retry may succeed.
    """
    try:
        response = exchange(address, method, body, headers, timeout)
    except OSError as error:
        raise OutputError(f"{what}: {error}") from error
    if 200 <= response.status < 300:
        return
    message = f"{what}: HTTP status {response.status}"
    if 300 <= response.status < 400:
        target = f" to {response.location}" if response.location else ""
        raise RefusedError(f"{message}, a redirect{target}, which is not followed: change url")
    message += f": {response.text}" if response.text else ""
    if response.status >= 500 or response.status in _RETRYABLE_STATUSES:
        raise OutputError(message)
    raise RefusedError(message)


def basic_authorization(user: str, password: str) -> str:
    """Return the ``Authorization`` header of a user and a password. The user must not contain a colon."""
    secret = f"{user}:{password}".encode(errors="surrogatepass")
    return f"Basic {b64encode(secret).decode()}"


def exchange(
    address: Address, method: str, body: bytes | None, headers: Mapping[str, str], timeout: float
) -> HttpResponse:
    """Send a request and return the response, whatever its status.

    ``urllib.request.urlopen`` is not used: it follows redirects, repeats a POST as a GET, uses the proxies of
    the environment, and applies its time-out to each read separately.

    Args:
        address: The address.
        method: ``PUT``, ``POST``, ``DELETE``, …
        body: The body of the request.
        headers: All headers except ``Connection`` and ``Content-Length``.
        timeout: The time limit in seconds for the whole exchange. It does not cover the name lookup, and
            applies to each address of the host separately when connecting.

    Raises:
        OSError: If there is no response, or it is not HTTP. Its text is suitable for an error message.
    """
    deadline = time.monotonic() + timeout
    connection = address.connection(timeout)
    try:
        connection.connect()
        sock = cast("socket.socket", connection.sock)
        length = {} if body is None else {"Content-Length": str(len(body))}
        # A server may close without reading the body of a rejected request; the response is still readable.
        with suppress(BrokenPipeError, ConnectionResetError):
            chunks = None if body is None else _chunks(body, sock, deadline)
            connection.request(method, address.path, chunks, {**headers, **length, "Connection": "close"})
        readable = cast("socket.socket", _DeadlineFile(sock, deadline))  # only `makefile` is called
        response = http.client.HTTPResponse(readable, method=method)
        response.begin()
        return _read(response)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout:g} s") from error
    except OSError as error:
        raise OSError(error.strerror or str(error) or type(error).__name__) from error
    except http.client.HTTPException as error:
        raise OSError(f"the response is not HTTP ({_line(repr(error))})") from error
    finally:
        connection.close()


class _DeadlineFile:
    """A socket whose reads fail after a deadline."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock_and_deadline = sock, deadline

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(*self._sock_and_deadline))


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        _set_timeout(self._socket, self._deadline)
        return self._socket.recv_into(buffer)


def _chunks(body: bytes, sock: socket.socket, deadline: float) -> Iterator[bytes]:
    for start in range(0, len(body), _CHUNK_BYTES):
        _set_timeout(sock, deadline)
        yield body[start : start + _CHUNK_BYTES]


def _set_timeout(sock: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left)


def _read(response: http.client.HTTPResponse) -> HttpResponse:
    text = ""
    if response.status >= 300:
        # The status matters; an incomplete body is quoted as far as it was received.
        with suppress(OSError, http.client.HTTPException):
            text = _line(response.read(4 * _MAX_TEXT_CHARACTERS).decode(errors="replace"))
    location = re.split("[?#]", _line(response.getheader("Location") or ""))[0]
    return HttpResponse(response.status, text, re.sub("//[^/]*@", "//", location))


def _line(text: str) -> str:
    printable = "".join(one if one.isprintable() else " " for one in text)
    line = " ".join(printable.split())
    return line if len(line) <= _MAX_TEXT_CHARACTERS else f"{line[:_MAX_TEXT_CHARACTERS]}…"


# -- endpoints by URL --

HTTP_OPTIONS: Mapping[str, Option] = {
    "timeout": seconds_option(10.0, "Time limit in seconds for a request."),
    "cafile": text_option(None, "File of certificate authorities to trust; those of the system by default."),
}


def address_of(url: EndpointUrl, path: str, query: str = "") -> Address:
    """Return the address of requests.

    Args:
        url: The URL, whose scheme ends in ``http`` or ``https``.
        path: The path, decoded.
        query: The query, encoded.

    Raises:
        ConfigurationError: If there is no host, or the file of certificate authorities is invalid.
    """
    try:
        host = url.host.encode("idna")
    except ValueError:
        host = b""
    if not host or re.search(rb"[\x00-\x20\x7f]", host):
        raise ConfigurationError(f"endpoint {url}: the URL has no host")
    scheme = url.scheme.rpartition("+")[2]
    encoded = quote(path, safe="/~:@!$&'()*+,;=") or "/"
    target = f"{encoded}?{query}" if query else encoded
    return Address(scheme, url.host, url.port, target, _tls(url, scheme))


def plain_address_of(url: EndpointUrl, scheme: str) -> str:
    """Return the URL of requests without credentials and options.

    Raises:
        ConfigurationError: If there is no host.
    """
    if not url.host:
        raise ConfigurationError(f"endpoint {url}: the URL has no host")
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = "" if url.port is None else f":{url.port}"
    return f"{scheme}://{host}{port}{quote(url.path, safe='/~')}"


def authorization_of(url: EndpointUrl, bearer: str = "Bearer") -> dict[str, str]:
    """Return the ``Authorization`` header: a user and a password, or a token if there is only a password."""
    if url.username is None and url.password is None:
        return {}
    if url.username is not None:
        if ":" in url.username:
            raise ConfigurationError(f"endpoint {url}: the user must not contain a colon")
        return {"Authorization": basic_authorization(url.username, url.password or "")}
    return {"Authorization": f"{bearer} {header_value(url, url.password or '')}"}


def header_value(url: EndpointUrl, text: str) -> str:
    """Return a text after checking that it can be the value of a header.

    Raises:
        ConfigurationError: If it cannot.
    """
    if not re.fullmatch(r"[\t\x20-\x7e\xa0-\xff]*", text):
        raise ConfigurationError(f"endpoint {url}: the token must be one line of Latin-1 text")
    return text


def _tls(url: EndpointUrl, scheme: str) -> ssl.SSLContext | None:
    cafile = url.options.get("cafile")
    if cafile is None:
        return None
    if scheme != "https":
        raise ConfigurationError(f"endpoint {url}: cafile requires https")
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise ConfigurationError(f"endpoint {url}: cafile cannot be used: {error}") from None
