"""What all endpoints that speak HTTP have in common: options, credentials, an address."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from urllib.parse import quote

from metrics_adapters.http_exchange import Address, basic_authorization
from metrics_framework.endpoints import EndpointUrl, Option, seconds_option, text_option
from metrics_framework.errors import ConfigurationError

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
