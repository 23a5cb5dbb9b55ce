"""OTLP receivers on loopback, which decode with the official classes and send scripted responses."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import (
    MetricsServiceServicer,
    add_MetricsServiceServicer_to_server,
)

from metrics_adapters.otlp import OtlpExporter
from tests.servers.receivers import free_ports


@dataclass
class Taken:
    """A message that was accepted."""

    headers: dict[str, str]
    path: str
    message: ExportMetricsServiceRequest


@dataclass
class Script:
    """The next responses of a receiver, and the messages that it accepted.

    Attributes:
        answers: For HTTP a status and headers, for gRPC a code, alone or with trailing metadata; ``None``
            breaks the connection off in the middle of the request. All is well where nothing is left.
        rejects: How many points it says it rejected.
        taken: What it accepted.
    """

    answers: list[Any] = field(default_factory=list)
    rejects: int = 0
    taken: list[Taken] = field(default_factory=list)

    def response(self) -> ExportMetricsServiceResponse:
        """Return the response of a success."""
        response = ExportMetricsServiceResponse()
        if self.rejects:
            response.partial_success.rejected_data_points = self.rejects
            response.partial_success.error_message = "too old"
        return response

    def metrics(self, number: int = -1) -> dict[str, Any]:
        """Return the metrics of a message by name."""
        (resource,) = self.taken[number].message.resource_metrics
        return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}


class HttpReceiver:
    """OTLP over HTTP."""

    protocol: Any = "http"

    def __init__(self) -> None:
        self.script = Script()
        (self.port,) = free_ports(socket.SOCK_STREAM, 1)
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        """Listen at the same address again."""
        script = self.script

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                if script.answers and script.answers[0] is None:
                    script.answers.pop(0)
                    self.rfile.read(1)
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                length = int(self.headers["Content-Length"])
                body = self.rfile.read(length)
                if len(body) < length:  # the client has ended
                    return
                status, headers = script.answers.pop(0) if script.answers else (200, {})
                answer = b""
                if status == 200:
                    if self.headers.get("Content-Encoding") == "gzip":
                        body = gzip.decompress(body)
                    message = ExportMetricsServiceRequest.FromString(body)
                    names = {name.lower(): value for name, value in self.headers.items()}
                    script.taken.append(Taken(names, self.path, message))
                    answer = script.response().SerializeToString()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        """Stop, also during a request."""
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None


class GrpcReceiver(MetricsServiceServicer):
    """OTLP over gRPC."""

    protocol: Any = "grpc"

    def __init__(self) -> None:
        self.script = Script()
        (self.port,) = free_ports(socket.SOCK_STREAM, 1)
        self._server: Any = None

    def Export(self, request: ExportMetricsServiceRequest, context: Any) -> ExportMetricsServiceResponse:
        """Send the next response of the script."""
        if self.script.answers:
            answer = self.script.answers.pop(0)
            if answer is None:
                self._server.stop(None)
                threading.Event().wait(5)
            code, trailing = answer if isinstance(answer, tuple) else (answer, ())
            context.set_trailing_metadata(trailing)
            context.abort(code, "as told")
        headers = dict(context.invocation_metadata())
        self.script.taken.append(Taken(headers, "", request))
        return self.script.response()

    def start(self) -> None:
        """Listen at the same address again."""
        self._server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        add_MetricsServiceServicer_to_server(self, self._server)
        assert self._server.add_insecure_port(f"127.0.0.1:{self.port}") == self.port
        self._server.start()

    def stop(self) -> None:
        """Stop, also during a request."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None


@contextmanager
def receiving(
    kind: type[HttpReceiver | GrpcReceiver], **arguments: Any
) -> Iterator[tuple[Any, OtlpExporter]]:
    """Run a receiver, with an exporter that sends to it."""
    receiver = kind()
    receiver.start()
    try:
        exporter = OtlpExporter(
            f"http://127.0.0.1:{receiver.port}", protocol=receiver.protocol, **{"timeout": 5.0, **arguments}
        )
        try:
            yield receiver, exporter
        finally:
            exporter.close()
    finally:
        receiver.stop()
