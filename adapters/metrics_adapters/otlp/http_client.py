"""OTLP over HTTP, through the official exporter, and the response that it does not return."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse

from metrics_adapters.otlp.client import NOTHING, one_line, rejected, silenced
from metrics_framework.errors import OutputError, RefusedError

_RETRYABLE = {408, 425, 429}
"""Statuses below 500 after which the same message may be accepted."""

_MAX_BYTES = 64 * 1024 * 1024
"""The largest message before compression; the limit of the official exporter."""


class HttpClient:
    """Sends by HTTP.

    Args:
        url: The URL of the receiver, with its path.
        shown: Its name in messages, without secrets.
        headers: Further headers.
        timeout: The time limit of a message in seconds.
        gzip: Whether messages are compressed.
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
            raise RefusedError(f"{what}: the message has {len(message)} bytes, more than {_MAX_BYTES}")
        self._session.reset()
        self._session.body = _gzip(message) if self._is_compressed else message
        with silenced():
            self._exporter.export(NOTHING)
        response = self._session.response
        if response is None:
            if self._session.error is None:
                raise OutputError(f"{what}: the official exporter sent nothing")
            raise OutputError(f"{what}: {_reason(self._session.error, self._timeout)}")
        status = response.status_code
        if 200 <= status < 300:
            return _rejected(response)
        reason = f"{what}: the response is {status}"
        if 300 <= status < 400:  # a success for the official exporter
            raise RefusedError(f"{reason}, a redirect, which is not followed: change the endpoint")
        later = response.headers.get("Retry-After")
        reason += f", Retry-After: {one_line(later)}" if later else ""
        if status >= 500 or status in _RETRYABLE:
            raise OutputError(reason)
        raise RefusedError(reason)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Session(requests.Session):
    """Sends a body of ours, and keeps the response of the last request.

    Attributes:
        body: Replaces the body of each request.
        response: The last response, or ``None`` after an error.
        error: The error of the last request, or ``None``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.body = b""
        self.response: requests.Response | None = None
        self.error: Exception | None = None

    def reset(self) -> None:
        self.response = self.error = None

    def request(self, *arguments: Any, **named: Any) -> requests.Response:
        self.reset()
        try:
            self.response = super().request(*arguments, **{**named, "data": self.body})
        except Exception as error:
            self.error = error
            raise
        return self.response


def _gzip(message: bytes) -> bytes:
    # The highest level of gzip.compress takes five times as long and saves a tenth.
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    return compressor.compress(message) + compressor.flush()


def _rejected(response: requests.Response) -> str:
    try:
        return rejected(ExportMetricsServiceResponse.FromString(response.content).partial_success)
    except DecodeError:
        return ""  # a receiver that responds with a text has accepted the message


def _reason(error: Exception, timeout: float) -> str:
    """Return why there was no response, without the URL that is part of the messages of requests."""
    if isinstance(error, requests.Timeout | ValueError):  # a ValueError if no time was left
        return f"no response within {timeout:g} seconds"
    found = type(error).__name__
    last: BaseException | None = error
    while last is not None:
        if isinstance(last, OSError) and last.strerror:
            found = last.strerror
        last = last.__cause__ or last.__context__
    return found
