"""OTLP over gRPC: the official exporter, and how a request ended, which it does not tell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from metrics_adapters.otlp.client import NOTHING, one_line, quiet, rejected
from metrics_framework.errors import OutputError, RefusedError

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAUTHENTICATED,
}
"""What OTLP calls not retryable, but for errors that nobody knows."""


class GrpcClient:
    """Sends by gRPC.

    Args:
        url: Where to: ``http`` without TLS, ``https`` with it.
        shown: What messages call it; it has no secrets.
        headers: Metadata of each request.
        timeout: Seconds that a message may take.
        gzip: Whether it is compressed.
    """

    def __init__(self, url: str, shown: str, headers: Mapping[str, str], timeout: float, gzip: bool) -> None:
        self._shown = shown
        self._timeout = timeout
        self._exporter = _Exporter(
            endpoint=url,
            headers={name.lower(): value for name, value in headers.items()},
            timeout=timeout,
            compression=grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
        )

    def send(self, message: bytes) -> str:
        """Send a message; see `Client.send`."""
        self._exporter.forget()
        self._exporter.message = ExportMetricsServiceRequest.FromString(message)
        with quiet():
            result = self._exporter.export(NOTHING)
        what = f"cannot export to {self._shown}"
        answer, error = self._exporter.answer, self._exporter.error
        if result is MetricExportResult.SUCCESS:
            return rejected(answer.partial_success) if answer is not None else ""
        if error is None:
            raise OutputError(f"{what}: no answer within {self._timeout:g} s")
        said = f" ({one_line(error.details())})" if error.details() else ""
        kind = RefusedError if error.code() in _REFUSALS else OutputError
        raise kind(f"{what}: the answer is {error.code().name}{said}")

    def close(self) -> None:
        """Close the channel."""
        with quiet():
            self._exporter.shutdown()


class _Exporter(OTLPMetricExporter):
    """Sends a message of ours, and remembers how the last request ended."""

    message: ExportMetricsServiceRequest
    answer: Any = None
    error: Any = None

    def _translate_data(self, data: MetricsData) -> ExportMetricsServiceRequest:
        return self.message

    def forget(self) -> None:
        self.answer = self.error = None

    def _initialize_channel_and_stub(self) -> None:
        # Private, but where the stub is made. A version that never calls it has every error tried again.
        connect: Any = super()._initialize_channel_and_stub
        connect()
        self._client: Any = _Stub(self._client, self)


class _Stub:
    def __init__(self, stub: Any, owner: _Exporter) -> None:
        self._stub = stub
        self._owner = owner

    def Export(self, **arguments: Any) -> Any:  # noqa: N802 - the name of the service's method
        self._owner.forget()
        try:
            self._owner.answer = self._stub.Export(**arguments)
        except grpc.RpcError as error:
            self._owner.error = error
            raise
        return self._owner.answer
