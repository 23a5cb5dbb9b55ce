"""OTLP over gRPC, through the official exporter, and the response that it does not return."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.sdk.metrics.export import MetricsData

from metrics_adapters.otlp.client import (
    EXPORTER_SECONDS,
    NOTHING,
    UnavailableError,
    one_line,
    rejected,
    silenced,
)
from metrics_framework.errors import OutputError, RefusedError
from metrics_framework.export.endpoints import Secrets

_RETRYABLE = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DATA_LOSS,
}
"""The codes that OTLP calls retryable, without DEADLINE_EXCEEDED, after which no time is left."""

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
        self._connect = partial(
            _Exporter,
            endpoint=url,
            headers={name.lower(): value for name, value in headers.items()},
            timeout=EXPORTER_SECONDS,
            compression=grpc.Compression.Gzip if gzip else grpc.Compression.NoCompression,
        )
        self._exporter: _Exporter | None = None

    def send(self, message: bytes, seconds: float) -> str:
        """Send a message; see `Client.send`."""
        exporter = self._exporter = self._exporter or self._connect()
        exporter.prepare(ExportMetricsServiceRequest.FromString(message), seconds)
        with silenced():
            exporter.export(NOTHING)
        what = f"cannot export to {self._shown}"
        if exporter.response is not None:
            return rejected(exporter.response.partial_success, self._secrets)
        error = exporter.error
        if error is None:
            raise OutputError(f"{what}: the official exporter sent nothing")
        # The channel would refuse to connect for a while, so the next message gets a new one.
        self.close()
        details = f" ({one_line(error.details(), self._secrets)})" if error.details() else ""
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            raise OutputError(f"{what}: no answer in time{details}")
        reason = f"{what}: the response is {error.code().name}{details}"
        if error.code() in _REFUSALS:
            raise RefusedError(reason)
        if error.code() in _RETRYABLE:
            raise UnavailableError(reason, _retry_seconds(error))
        raise OutputError(reason)

    def close(self) -> None:
        """Close the channel."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            with silenced():
                exporter.shutdown()


class _Exporter(OTLPMetricExporter):
    """Sends a message of ours within our time limit, and keeps the response.

    The official exporter always gets a success, so that it does not retry.
    """

    message: ExportMetricsServiceRequest
    seconds: float
    response: Any = None
    error: Any = None

    def _translate_data(self, data: MetricsData) -> ExportMetricsServiceRequest:
        return self.message

    def prepare(self, message: ExportMetricsServiceRequest, seconds: float) -> None:
        self.message, self.seconds = message, seconds
        self.response = self.error = None

    def _initialize_channel_and_stub(self) -> None:
        # Private, but it creates the stub. A version that never calls it sends nothing of ours, which is
        # reported.
        connect: Any = super()._initialize_channel_and_stub
        connect()
        self._client: Any = _Stub(self._client, self)


class _Stub:
    def __init__(self, stub: Any, owner: _Exporter) -> None:
        self._stub = stub
        self._owner = owner

    def Export(self, **arguments: Any) -> Any:  # noqa: N802 - the name of the service's method
        owner = self._owner
        try:
            owner.response = self._stub.Export(**{**arguments, "timeout": owner.seconds})
        except grpc.RpcError as error:
            owner.error = error
        return owner.response


def _retry_seconds(error: Any) -> float | None:
    """Return after how many seconds the receiver wants a retry."""
    for name, value in error.trailing_metadata() or ():
        if name == "google.rpc.retryinfo-bin":
            with suppress(DecodeError):
                delay: Any = RetryInfo.FromString(value).retry_delay
                return float(delay.seconds + delay.nanos / 1e9)
    return None
