"""An HTTP client for single requests: one time limit for everything, and no redirects."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, cast
from urllib.parse import SplitResult, quote, urlsplit

from metrics_framework.errors import ConfigurationError, OutputError, RefusedError
from metrics_framework.export.endpoints import EndpointUrl, Option, Secrets, seconds_option, text_option
from metrics_framework.runtime.deadline import Deadline, DeadlineReader, chunks, connect, send, start_tls

_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_TEXT_CHARACTERS = 500
"""The length of the quoted beginning of a response."""
_MAX_READ_BYTES = 8_192
"""How much of an error's body is read."""
_PUBLIC_HEADERS = {"accept", "content-encoding", "content-type"}
_RETRYABLE_STATUSES = {408, 425, 429}
"""The statuses below 500 after which the same request may succeed later."""


class Proxy(NamedTuple):
    """An HTTP proxy.

    Attributes:
        host: The host, without brackets.
        port: The port.
        headers: The headers for the proxy, such as ``Proxy-Authorization``.
    """

    host: str
    port: int
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<Proxy {self.host}:{self.port}>"


@dataclass(frozen=True)
class Address:
    """The address of a request.

    Attributes:
        scheme: ``http`` or ``https``.
        host: The host, without brackets.
        port: The port; ``None`` for the default of the scheme.
        path: The path and query, encoded.
        tls: How an ``https`` server is verified; by default with the certificate authorities of the system.
        proxy: The proxy that connects to the host, if any.
        secrets: The secrets of its path and query, and of the URL that it was created from.
    """

    scheme: str
    host: str
    port: int | None
    path: str = field(repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)
    proxy: Proxy | None = field(default=None, repr=False)
    secrets: Secrets = field(default_factory=Secrets, repr=False, compare=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def number(self) -> int:
        """The number of the port."""
        return _DEFAULT_PORTS[self.scheme] if self.port is None else self.port


@dataclass(frozen=True)
class HttpResponse:
    """The response to a request.

    Attributes:
        status: The status.
        text: The beginning of an error's body as one line for a message; empty for a status below 300.
        location: The target of a redirect without its query; otherwise empty.
        body: The beginning of the body of a success.
        retry_after: The header ``Retry-After`` as one line, or an empty string.

    The texts contain no secret of the request, even if the server echoes it.
    """

    status: int
    text: str
    location: str
    body: bytes = b""
    retry_after: str = ""


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
        RefusedError: If the server rejects the request. The message quotes its reason, without the secrets of
            the address and without the values of headers, which a server may echo.
        OutputError: If the server cannot be reached or fails. A later retry may succeed.
    """
    response, reason = None, ""
    try:
        response = exchange(address, method, body, headers, timeout)
    except OSError as error:
        reason = str(error)
    if response is None:  # raised here, because the context of an error may contain what a server echoed
        raise OutputError(f"{what}: {reason}")
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


def header_secrets(headers: Mapping[str, str]) -> Secrets:
    """Return the values of headers as secrets, with the user and the password of basic authentication."""
    texts = []
    for name, value in headers.items():
        if name.lower() in _PUBLIC_HEADERS:
            continue
        scheme, _, credentials = value.partition(" ")
        texts.append(credentials if name.lower() == "authorization" and credentials else value)
        if scheme.lower() == "basic":
            with suppress(ValueError):
                texts.append(b64decode(credentials).decode())
    return Secrets(texts)


def exchange(
    address: Address,
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout: float,
    *,
    max_body: int = 0,
) -> HttpResponse:
    """Send a request and return the response, whatever its status.

    ``urllib.request.urlopen`` is not used: it follows redirects, repeats a POST as a GET, uses the proxies of
    the environment, and applies its time-out to each read separately.

    Args:
        address: The address.
        method: ``PUT``, ``POST``, ``DELETE``, …
        body: The body of the request.
        headers: All headers except ``Connection`` and ``Content-Length``.
        timeout: The time limit in seconds for the whole exchange: name lookup, connection, TLS, request and
            response. In the export of a system, its deadline applies too.
        max_body: The most bytes that are read of the body of a success.

    Raises:
        OSError: If there is no response, or it is not HTTP. Its text is suitable for an error message.
    """
    deadline = Deadline(timeout)
    sock: socket.socket | None = None
    secrets = address.secrets | header_secrets(headers)
    if address.proxy is not None:
        secrets |= header_secrets(address.proxy.headers)
    try:
        sock = _connect(address, deadline)
        connection = http.client.HTTPConnection(address.host, address.number)
        connection.sock = sock
        connection.default_port = _DEFAULT_PORTS[address.scheme]  # which the header "Host" leaves out
        length = {} if body is None else {"Content-Length": str(len(body))}
        # A server may close without reading the body of a rejected request; the response is still readable.
        with suppress(BrokenPipeError, ConnectionResetError):
            content = None if body is None else chunks(sock, body, deadline)
            connection.request(
                method, _target(address), content, {**headers, **length, "Connection": "close"}
            )
        return _read(_response(sock, deadline, method), max_body, secrets)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {deadline}") from error
    except OSError as error:
        raise OSError(error.strerror or str(error) or type(error).__name__) from error
    except http.client.HTTPException as error:
        raise OSError(f"the response is not HTTP ({_line(secrets.redact(repr(error)))})") from error
    finally:
        if sock is not None:
            sock.close()


def _connect(address: Address, deadline: Deadline) -> socket.socket:
    proxy = address.proxy
    host, port = (address.host, address.number) if proxy is None else (proxy.host, proxy.port)
    sock = connect(host, port, deadline)
    try:
        if address.scheme == "https":
            if proxy is not None:
                _open_tunnel(sock, address, proxy, deadline)
            sock = start_tls(sock, address.tls or _default_tls(), address.host, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


def _default_tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _open_tunnel(sock: socket.socket, address: Address, proxy: Proxy, deadline: Deadline) -> None:
    host = f"[{address.host}]" if ":" in address.host else address.host
    lines = [
        f"CONNECT {host}:{address.number} HTTP/1.1",
        f"Host: {host}:{address.number}",
        *(f"{name}: {value}" for name, value in proxy.headers.items()),
    ]
    send(sock, "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1"), deadline)
    response = _response(sock, deadline, "CONNECT")
    if not 200 <= response.status < 300:
        reason = _line(header_secrets(proxy.headers).redact(response.reason))
        raise OSError(f"the proxy responds with {response.status} {reason}")


def _target(address: Address) -> str:
    """Return the target of a request, which is a whole URL for a proxy that does not open a tunnel."""
    if address.proxy is None or address.scheme == "https":
        return address.path
    return f"{address}{address.path}"


def _response(sock: socket.socket, deadline: Deadline, method: str) -> http.client.HTTPResponse:
    readable = cast("socket.socket", DeadlineReader(sock, deadline))  # only `makefile` is called
    response = http.client.HTTPResponse(readable, method=method)
    response.begin()
    return response


def _read(response: http.client.HTTPResponse, max_body: int, secrets: Secrets) -> HttpResponse:
    text, body = "", b""
    if response.status >= 300:
        # The status matters; an incomplete body is quoted as far as it was received.
        with suppress(OSError, http.client.HTTPException):
            content = response.read(_MAX_READ_BYTES)
            if len(content) == _MAX_READ_BYTES:  # its end may be a part of a secret
                content = content[: max(_MAX_READ_BYTES - secrets.max_length, 0)]
            text = _line(secrets.redact(content.decode(errors="replace")))
    elif max_body:
        body = response.read(max_body)
    location = re.split("[?#]", secrets.redact(response.getheader("Location") or ""))[0]
    return HttpResponse(
        response.status,
        text,
        re.sub("//[^/]*@", "//", _line(location)),
        body,
        _line(secrets.redact(response.getheader("Retry-After") or "")),
    )


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
    return Address(scheme, url.host, url.port, target, _tls(url, scheme), secrets=url.secrets)


def split_url(url: object) -> SplitResult | None:
    """Return the parts of a URL; ``None`` if its host or port is malformed.

    It raises nothing, because the errors of `urlsplit` quote a part that may be a password.
    """
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        _ = (parts.hostname or "").encode("idna"), parts.port
    except ValueError:
        return None
    return parts


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
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        raise ConfigurationError(f"endpoint {url}: cafile cannot be used: {error}") from None
