"""OTLP over HTTP: the official exporter, and how a request ended, which it does not tell."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from metrics_adapters.otlp.client import NOTHING, one_line, quiet, rejected
from metrics_framework.errors import OutputError, RefusedError

_TRY_AGAIN = {408, 425, 429}
"""Statuses below 500 that say nothing against what was sent."""


_MAX_BYTES = 64 * 1024 * 1024
"""How large a message may be before it is compressed, as of the official exporter."""


class HttpClient:
    """Sends by HTTP.

    Args:
        url: Where to, with its path.
        shown: What messages call it; it has no secrets.
        headers: Further headers.
        timeout: Seconds that a message may take.
        gzip: Whether it is compressed.
    """

    def __init__(self, url: str, shown: str, headers: Mapping[str, str], timeout: float, gzip: bool) -> None:
        self._shown = shown
        self._timeout = timeout
        self._is_compressed = gzip
        self._session = _Session()
        self._exporter = OTLPMetricExporter(
            endpoint=url,
            headers=dict(headers),
            timeout=timeout,
            compression=Compression.Gzip if gzip else Compression.NoCompression,
            session=self._session,
        )

    def send(self, message: bytes) -> str:
        """Send a message; see `Client.send`."""
        what = f"cannot export to {self._shown}"
        if len(message) > _MAX_BYTES:
            raise RefusedError(f"{what}: a message of {len(message)} bytes is too large")
        self._session.forget()
        self._session.body = _gzip(message) if self._is_compressed else message
        with quiet():
            self._exporter.export(NOTHING)
        response = self._session.response
        if response is None:
            if self._session.error is None:
                raise OutputError(f"{what}: the official exporter has sent nothing")
            raise OutputError(f"{what}: {_reason(self._session.error, self._timeout)}")
        status = response.status_code
        if 200 <= status < 300:
            return _rejected(response)
        said = f"{what}: the answer is {status}"
        if 300 <= status < 400:  # which the official exporter takes for a success
            raise RefusedError(f"{said}, a redirect; it is not followed, so change the endpoint")
        later = response.headers.get("Retry-After")
        said += f", to be tried again after {one_line(later)}" if later else ""
        if status >= 500 or status in _TRY_AGAIN:
            raise OutputError(said)
        raise RefusedError(said)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Session(requests.Session):
    """Sends a body of ours, and remembers how the last request ended.

    Attributes:
        body: What is sent in place of what it is given.
        response: The answer, if there was one.
        error: Why there was none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.response: requests.Response | None = None
        self.error: Exception | None = None

    def forget(self) -> None:
        self.response = self.error = None

    def request(self, *arguments: Any, **named: Any) -> requests.Response:
        self.forget()
        try:
            self.response = super().request(*arguments, **{**named, "data": self.body})
        except Exception as error:
            self.error = error
            raise
        return self.response


def _gzip(message: bytes) -> bytes:
    # Not gzip.compress, whose highest level takes five times as long to save a tenth.
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    return compressor.compress(message) + compressor.flush()


def _rejected(response: requests.Response) -> str:
    try:
        return rejected(ExportMetricsServiceResponse.FromString(response.content).partial_success)
    except DecodeError:
        return ""  # a receiver that answers in words has taken it all the same


def _reason(error: Exception, timeout: float) -> str:
    """Return why there was no answer, without the URL, which the texts of requests have."""
    if isinstance(error, requests.Timeout | ValueError):  # a ValueError where no time was left
        return f"no answer within {timeout:g} s"
    found = type(error).__name__
    last: BaseException | None = error
    while last is not None:
        if isinstance(last, OSError) and last.strerror:
            found = last.strerror
        last = last.__cause__ or last.__context__
    return found
