"""A dashboard for Grafana of the metrics that exist, as Prometheus has them."""

from metrics_framework.errors import MissingExtraError

try:
    from metrics_adapters.grafana.output import GrafanaDashboard
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "grafana_foundation_sdk":
        raise
    raise MissingExtraError("a dashboard for Grafana", "grafana") from error

__all__ = ["GrafanaDashboard"]
