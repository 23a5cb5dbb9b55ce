"""A Grafana dashboard of the recorded metrics, queried from Prometheus."""

from metrics_framework.errors import MissingExtraError

try:
    from metrics_adapters.grafana.output import GrafanaDashboard
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "grafana_foundation_sdk":
        raise
    raise MissingExtraError("a Grafana dashboard", "grafana") from error

__all__ = ["GrafanaDashboard"]
