"""Export by OTLP, the protocol of OpenTelemetry, over HTTP or gRPC through the official exporters."""

from metrics_framework.errors import MissingExtraError

try:
    from metrics_adapters.otlp.exporter import OtlpExporter
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("opentelemetry", "requests", "google"):
        raise
    raise MissingExtraError("export by OTLP", "otlp") from error

__all__ = ["OtlpExporter"]
