"""One HTTP request and its answer: within a time limit, to the address that was named and to no other."""

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

_PIECE = 65_536
_MAX_TEXT = 500
"""How many characters of an answer are quoted."""
_TRY_AGAIN = {408, 425, 429}
"""Statuses below 500 that say nothing against what was sent."""


@dataclass(frozen=True)
class Address:
    """Where a request goes.

    Attributes:
        scheme: ``http`` or ``https``.
        host: The host, without brackets.
        port: The port, or ``None`` for the scheme's.
        path: The path, encoded.
        tls: How an ``https`` server is checked; by the system's authorities by default.
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
        """Return a connection that is not open yet."""
        if self.scheme == "https":
            return http.client.HTTPSConnection(self.host, self.port, timeout=timeout, context=self.tls)
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: The status.
        text: The beginning of the body in one line, fit for a message; empty where all is well.
        location: Where a redirect leads, without user, password and query; else empty.
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
    """Send a request, and raise unless it was taken; redirects are not followed.

    Args:
        address: Where it goes.
        method: ``PUT``, ``POST``, ``DELETE``, …
        body: What is sent.
        headers: All headers but those of the connection and the length.
        timeout: Seconds that all of it may take.
        what: What could not be done, for messages: it begins them.

    Raises:
        RefusedError: If the server will not have it; the message quotes why.
        OutputError: If the server is not to be reached or fails: try again later.
    """
    try:
        answer = exchange(address, method, body, headers, timeout)
    except OSError as error:
        raise OutputError(f"{what}: {error}") from error
    if 200 <= answer.status < 300:
        return
    message = f"{what}: the answer is {answer.status}"
    if 300 <= answer.status < 400:
        target = f" to {answer.location}" if answer.location else ""
        raise RefusedError(f"{message}, a redirect{target}; it is not followed, so change url")
    message += f": {answer.text}" if answer.text else ""
    if answer.status >= 500 or answer.status in _TRY_AGAIN:
        raise OutputError(message)
    raise RefusedError(message)


def basic_authorization(user: str, password: str) -> str:
    """Return the header ``Authorization`` of a user without a colon and a password."""
    secret = f"{user}:{password}".encode(errors="surrogatepass")
    return f"Basic {b64encode(secret).decode()}"


def exchange(
    address: Address, method: str, body: bytes | None, headers: Mapping[str, str], timeout: float
) -> Answer:
    """Send a request and return what comes back, whatever its status.

    The standard library's ``urlopen`` would follow redirects, repeat a POST as a GET, ask proxies of the
    environment, and wait anew for each byte of an answer.

    Args:
        address: Where it goes.
        method: ``PUT``, ``POST``, ``DELETE``, …
        body: What is sent.
        headers: All headers but those of the connection and the length.
        timeout: Seconds that all of it may take. A host of several addresses may take longer to connect to,
            and looking it up has a limit of the system's own.

    Raises:
        OSError: If there is no answer, or no HTTP; its text is fit for a message.
    """
    end = time.monotonic() + timeout
    connection = address.connection(timeout)
    try:
        connection.connect()
        connected = cast("socket.socket", connection.sock)
        length = {} if body is None else {"Content-Length": str(len(body))}
        # A server that refuses may close before it has read all; its answer is there to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            pieces = None if body is None else _pieces(body, connected, end)
            connection.request(method, address.path, pieces, {**headers, **length, "Connection": "close"})
        # Only `makefile` of a socket is asked for.
        response = http.client.HTTPResponse(cast("socket.socket", _Limited(connected, end)), method=method)
        response.begin()
        return _read(response)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {timeout:g} s") from error
    except OSError as error:
        raise OSError(error.strerror or str(error) or type(error).__name__) from error
    except http.client.HTTPException as error:
        raise OSError(f"the answer is no HTTP ({_line(repr(error))})") from error
    finally:
        connection.close()


class _Limited:
    """A socket that is read until a moment."""

    def __init__(self, connected: socket.socket, end: float) -> None:
        self._arguments = connected, end

    def makefile(self, mode: Literal["rb"]) -> io.BufferedReader:
        return io.BufferedReader(_Reader(*self._arguments))


class _Reader(io.RawIOBase):
    def __init__(self, connected: socket.socket, end: float) -> None:
        self._socket = connected
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        _limit(self._socket, self._end)
        return self._socket.recv_into(buffer)


def _pieces(body: bytes, connected: socket.socket, end: float) -> Iterator[bytes]:
    for start in range(0, len(body), _PIECE):
        _limit(connected, end)
        yield body[start : start + _PIECE]


def _limit(connected: socket.socket, end: float) -> None:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connected.settimeout(left)


def _read(response: http.client.HTTPResponse) -> Answer:
    text = ""
    if response.status >= 300:
        # The status is the answer; a body that breaks off adds what it can.
        with suppress(OSError, http.client.HTTPException):
            text = _line(response.read(4 * _MAX_TEXT).decode(errors="replace"))
    location = re.split("[?#]", _line(response.getheader("Location") or ""))[0]
    return Answer(response.status, text, re.sub("//[^/]*@", "//", location))


def _line(text: str) -> str:
    printable = "".join(one if one.isprintable() else " " for one in text)
    line = " ".join(printable.split())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


# -- endpoints by URL --

HTTP_OPTIONS: Mapping[str, Option] = {
    "timeout": seconds_option(10.0, "Seconds after which a request is given up."),
    "cafile": text_option(None, "Who signs the server's certificate, a file; the system's authorities else."),
}


def address_of(url: EndpointUrl, path: str, query: str = "") -> Address:
    """Return where requests go.

    Args:
        url: The URL, whose scheme ends in ``http`` or ``https``.
        path: The path, decoded.
        query: The query, encoded.

    Raises:
        ConfigurationError: If there is no host, or the file of authorities cannot be used.
    """
    try:
        host = url.host.encode("idna")
    except ValueError:
        host = b""
    if not host or re.search(rb"[\x00-\x20\x7f]", host):
        raise ConfigurationError(f"endpoint {url}: it names no host")
    scheme = url.scheme.rpartition("+")[2]
    encoded = quote(path, safe="/~:@!$&'()*+,;=") or "/"
    target = f"{encoded}?{query}" if query else encoded
    return Address(scheme, url.host, url.port, target, _tls(url, scheme))


def plain_address_of(url: EndpointUrl, scheme: str) -> str:
    """Return where requests go as a URL without credentials and options.

    Raises:
        ConfigurationError: If there is no host.
    """
    if not url.host:
        raise ConfigurationError(f"endpoint {url}: it names no host")
    host = f"[{url.host}]" if ":" in url.host else url.host
    port = "" if url.port is None else f":{url.port}"
    return f"{scheme}://{host}{port}{quote(url.path, safe='/~')}"


def authorization_of(url: EndpointUrl, bearer: str = "Bearer") -> dict[str, str]:
    """Return the header of the credentials: a user and a password, or a token, which is a password alone."""
    if url.username is None and url.password is None:
        return {}
    if url.username is not None:
        if ":" in url.username:
            raise ConfigurationError(f"endpoint {url}: a user has no colon")
        return {"Authorization": basic_authorization(url.username, url.password or "")}
    return {"Authorization": f"{bearer} {header_value(url, url.password or '')}"}


def header_value(url: EndpointUrl, text: str) -> str:
    """Return a text that may be the value of a header.

    Raises:
        ConfigurationError: If it may not.
    """
    if not re.fullmatch(r"[\t\x20-\x7e\xa0-\xff]*", text):
        raise ConfigurationError(f"endpoint {url}: the token is not a line of Latin-1 text")
    return text


def _tls(url: EndpointUrl, scheme: str) -> ssl.SSLContext | None:
    cafile = url.options.get("cafile")
    if cafile is None:
        return None
    if scheme != "https":
        raise ConfigurationError(f"endpoint {url}: cafile is of use for https only")
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise ConfigurationError(f"endpoint {url}: cafile cannot be used: {error}") from None
