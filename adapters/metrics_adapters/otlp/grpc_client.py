"""OTLP over gRPC, through the official exporter, and the response that it does not return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import grpc
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from metrics_adapters.otlp.client import NOTHING, one_line, rejected, silenced
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
"""The codes that OTLP calls not retryable, without UNKNOWN."""


class GrpcClient:
    """Sends by gRPC.

    Args:
        url: The URL of the receiver, ``https`` with TLS or ``http`` without.
        shown: Its name in messages, without secrets.
        headers: The metadata of each request.
        timeout: The time limit of a message in seconds.
        gzip: Whether messages are compressed.
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
        self._exporter.reset()
        self._exporter.message = ExportMetricsServiceRequest.FromString(message)
        with silenced():
            result = self._exporter.export(NOTHING)
        what = f"cannot export to {self._shown}"
        response, error = self._exporter.response, self._exporter.error
        if result is MetricExportResult.SUCCESS:
            return rejected(response.partial_success) if response is not None else ""
        if error is None:
            raise OutputError(f"{what}: no response within {self._timeout:g} seconds")
        details = f" ({one_line(error.details())})" if error.details() else ""
        kind = RefusedError if error.code() in _REFUSALS else OutputError
        raise kind(f"{what}: the response is {error.code().name}{details}")

    def close(self) -> None:
        """Close the channel."""
        with silenced():
            self._exporter.shutdown()


class _Exporter(OTLPMetricExporter):
    """Sends a message of ours, and keeps the response of the last request."""

    message: ExportMetricsServiceRequest
    response: Any = None
    error: Any = None

    def _translate_data(self, data: MetricsData) -> ExportMetricsServiceRequest:
        return self.message

    def reset(self) -> None:
        self.response = self.error = None

    def _initialize_channel_and_stub(self) -> None:
        # Private, but it creates the stub. With a version that never calls it, every error is retried.
        connect: Any = super()._initialize_channel_and_stub
        connect()
        self._client: Any = _Stub(self._client, self)


class _Stub:
    def __init__(self, stub: Any, owner: _Exporter) -> None:
        self._stub = stub
        self._owner = owner

    def Export(self, **arguments: Any) -> Any:  # noqa: N802 - the name of the service's method
        self._owner.reset()
        try:
            self._owner.response = self._stub.Export(**arguments)
        except grpc.RpcError as error:
            self._owner.error = error
            raise
        return self._owner.response
