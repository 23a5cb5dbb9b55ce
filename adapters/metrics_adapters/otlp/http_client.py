"""OTLP over HTTP: the official exporter, with our own HTTP client in place of the package requests."""

from __future__ import annotations

import math
import ssl
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from metrics_adapters.http_client import (
    Address,
    HttpResponse,
    Proxy,
    basic_authorization,
    exchange,
    split_url,
)
from metrics_adapters.otlp.client import EXPORTER_SECONDS, NOTHING, UnavailableError, rejected, silenced
from metrics_framework.errors import OutputError, RefusedError
from metrics_framework.export.endpoints import Secrets

_RETRYABLE = {408, 425, 429}
"""Statuses below 500 after which the same message may be accepted."""

_RETRIED = {408, 429, 502, 503, 504}
"""Statuses after which the same export tries again, as OTLP says."""

_MAX_BYTES = 64 * 1024 * 1024
"""The largest message before compression; the limit of the official exporter."""

_MAX_RESPONSE_BYTES = 64 * 1024
"""The most bytes that are read of a response. More than that is not the response to a message."""


class HttpClient:
    """Sends by HTTP.

    Args:
        url: The URL of the receiver, with its path.
        shown: Its name in messages, without secrets.
        headers: Further headers.
        gzip: Whether messages are compressed.
        secrets: Removed from what the receiver sends.
    """

    def __init__(
        self,
        url: str,
        shown: str,
        headers: Mapping[str, str],
        gzip: bool,
        secrets: Secrets,
    ) -> None:
        self._shown = shown
        self._secrets = secrets
        self._is_compressed = gzip
        self._session = _Session()
        self._exporter = OTLPMetricExporter(
            endpoint=url,
            headers=dict(headers),
            timeout=EXPORTER_SECONDS,
            compression=Compression.Gzip if gzip else Compression.NoCompression,
            session=self._session,
        )

    def send(self, message: bytes, seconds: float) -> str:
        """Send a message; see `Client.send`."""
        what = f"cannot export to {self._shown}"
        if len(message) > _MAX_BYTES:
            raise RefusedError(f"{what}: the message has {len(message)} bytes, more than {_MAX_BYTES}")
        self._session.prepare(_gzip(message) if self._is_compressed else message, seconds)
        with silenced():
            self._exporter.export(NOTHING)
        response = self._session.answer
        if response is None:
            if self._session.error is None:
                raise OutputError(f"{what}: the official exporter sent nothing")
            raise UnavailableError(f"{what}: {self._session.error}")
        if 200 <= response.status < 300:
            return _rejected(response.body, self._secrets)
        reason = f"{what}: the response is {response.status}"
        if 300 <= response.status < 400:
            raise RefusedError(f"{reason}, a redirect, which is not followed: change the endpoint")
        later = response.retry_after
        reason += f", Retry-After: {later}" if later else ""
        if response.status in _RETRIED:
            raise UnavailableError(reason, _seconds(later))
        if response.status >= 500 or response.status in _RETRYABLE:
            raise OutputError(reason)
        raise RefusedError(reason)

    def close(self) -> None:
        """Do nothing: each message has a connection of its own."""


class _Session(requests.Session):
    """Sends a body of ours within our deadline, and keeps the response.

    The package requests applies its time-out to each read, so that a receiver that answers a byte at a time
    would block the export for ever. The official exporter always gets a success, so that it does not retry.

    Attributes:
        answer: The last response, or ``None`` after an error.
        error: Why there is no response, without the URL, or ``None``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answer: HttpResponse | None = None
        self.error: str | None = None
        self._body = b""
        self._seconds = 0.0

    def prepare(self, body: bytes, seconds: float) -> None:
        """Set the body of the next request and its time limit."""
        self.answer = self.error = None
        self._body, self._seconds = body, seconds

    def request(self, method: str | bytes, url: str | bytes, **named: Any) -> requests.Response:  # type: ignore[override]
        headers = {**self.headers, **(named.get("headers") or {})}
        sent = {
            str(name): _text(value)
            for name, value in headers.items()
            if name.lower() not in ("connection", "accept-encoding", "content-length")
        }
        try:
            # The proxies and certificates of the arguments, this session and the environment.
            settings = self.merge_environment_settings(
                _text(url), {}, None, named.get("verify"), named.get("cert")
            )
            self.answer = exchange(
                _address(_text(url), settings),
                _text(method),
                self._body,
                sent,
                self._seconds,
                max_body=_MAX_RESPONSE_BYTES,
            )
        except OSError as error:
            self.error = error.strerror or str(error)
        accepted = requests.Response()
        accepted.status_code = 200
        return accepted


def _address(url: str, settings: Mapping[str, Any]) -> Address:
    """Return the address of a URL.

    Args:
        url: The URL.
        settings: ``verify``, ``cert`` and ``proxies``, as in the package requests.
    """
    parts = urlsplit(url)
    verify, certificate = settings["verify"], settings["cert"]
    tls = None
    if parts.scheme == "https":
        tls = ssl.create_default_context(cafile=verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH)
        if verify is False:
            tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        if certificate:
            tls.load_cert_chain(*((certificate,) if isinstance(certificate, str) else certificate))
    path = parts._replace(scheme="", netloc="").geturl() or "/"
    proxy = requests.utils.select_proxy(url, settings["proxies"])
    return Address(
        parts.scheme,
        parts.hostname or "",
        parts.port,
        path,
        tls,
        _proxy(proxy) if proxy else None,
        Secrets([unquote(parts.path), unquote(parts.query)]),
    )


def _proxy(url: str) -> Proxy:
    parts = split_url(url if "://" in url else f"http://{url}")
    if parts is None or parts.scheme != "http" or not parts.hostname:  # not quoted: it may have a password
        raise OSError("the proxy of the environment is not supported: set one like http://proxy:3128")
    headers = {}
    if parts.username is not None:
        secret = basic_authorization(unquote(parts.username), unquote(parts.password or ""))
        headers["Proxy-Authorization"] = secret
    return Proxy(parts.hostname, parts.port or 80, headers)


def _gzip(message: bytes) -> bytes:
    # The highest level of gzip.compress takes five times as long and saves a tenth.
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    return compressor.compress(message) + compressor.flush()


def _rejected(body: bytes, secrets: Secrets) -> str:
    try:
        return rejected(ExportMetricsServiceResponse.FromString(body).partial_success, secrets)
    except DecodeError:
        return ""  # a receiver that responds with a text has accepted the message


def _seconds(retry_after: str) -> float | None:
    try:
        seconds = float(retry_after)
    except ValueError:  # empty, or a date, which needs the clock of the receiver
        return None
    return None if math.isnan(seconds) else seconds


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
