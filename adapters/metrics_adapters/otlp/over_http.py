"""OTLP over HTTP: the official exporter, and how a request ended, which it does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from metrics_adapters.otlp.clients import one_line, quiet, rejected
from metrics_framework.errors import OutputError, RefusedError

_TRY_AGAIN = {408, 425, 429}
"""Statuses below 500 that say nothing against what was sent."""


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
        self._session = _Session()
        self._exporter = OTLPMetricExporter(
            endpoint=url,
            headers=dict(headers),
            timeout=timeout,
            compression=Compression.Gzip if gzip else Compression.NoCompression,
            session=self._session,
        )

    def send(self, data: MetricsData) -> str:
        """Send a message; see `Client.send`."""
        self._session.forget()
        with quiet():
            result = self._exporter.export(data)
        what = f"cannot export to {self._shown}"
        response = self._session.response
        if response is None:
            if result is MetricExportResult.SUCCESS:
                return ""
            if self._session.error is None:
                raise RefusedError(f"{what}: the message is too large, or cannot be encoded")
            raise OutputError(f"{what}: {_reason(self._session.error, self._timeout)}")
        status = response.status_code
        if 200 <= status < 300:
            return _rejected(response)
        message = f"{what}: the answer is {status}"
        if 300 <= status < 400:  # which the official exporter takes for a success
            raise RefusedError(f"{message}, a redirect; it is not followed, so change the endpoint")
        later = response.headers.get("Retry-After")
        message += f", to be tried again after {one_line(later)}" if later else ""
        if status >= 500 or status in _TRY_AGAIN:
            raise OutputError(message)
        raise RefusedError(message)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


class _Session(requests.Session):
    """Remembers how the last request ended."""

    def __init__(self) -> None:
        super().__init__()
        self.response: requests.Response | None = None
        self.error: Exception | None = None

    def forget(self) -> None:
        self.response = self.error = None

    def request(self, *arguments: Any, **named: Any) -> requests.Response:
        self.forget()
        try:
            self.response = super().request(*arguments, **named)
        except Exception as error:
            self.error = error
            raise
        return self.response


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
