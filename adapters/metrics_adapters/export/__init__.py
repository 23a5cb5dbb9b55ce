"""Endpoints that numbers are exported to; `metrics_framework.endpoints` finds them by their URLs."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metrics_adapters.export.file import FileEndpoint
    from metrics_adapters.export.grafana import GrafanaEndpoint
    from metrics_adapters.export.graphite import GraphiteEndpoint
    from metrics_adapters.export.influx import InfluxEndpoint
    from metrics_adapters.export.otlp import OtlpEndpoint
    from metrics_adapters.export.prometheus import PushgatewayEndpoint, TextfileEndpoint
    from metrics_adapters.export.snapshot import SnapshotEndpoint
    from metrics_adapters.export.statsd import StatsdEndpoint
    from metrics_adapters.export.webhook import WebhookEndpoint

__all__ = [
    "FileEndpoint",
    "GrafanaEndpoint",
    "GraphiteEndpoint",
    "InfluxEndpoint",
    "OtlpEndpoint",
    "PushgatewayEndpoint",
    "SnapshotEndpoint",
    "StatsdEndpoint",
    "TextfileEndpoint",
    "WebhookEndpoint",
]

# Each is imported by itself: sockets and TLS are slow to import, and who writes a file needs neither.
_MODULES = {
    "FileEndpoint": "file",
    "GrafanaEndpoint": "grafana",
    "GraphiteEndpoint": "graphite",
    "InfluxEndpoint": "influx",
    "OtlpEndpoint": "otlp",
    "PushgatewayEndpoint": "prometheus",
    "SnapshotEndpoint": "snapshot",
    "StatsdEndpoint": "statsd",
    "TextfileEndpoint": "prometheus",
    "WebhookEndpoint": "webhook",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
