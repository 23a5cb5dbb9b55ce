"""Dashboards as plain data: panels that a web page, a terminal or a test can draw."""

from metrics_framework.dashboard.metric_views import outcomes
from metrics_framework.dashboard.panels import (
    ERROR_RATE,
    MEMORY_PERCENT,
    POINTS,
    WINDOW,
    create_dashboard,
    dashboard_schema,
)
from metrics_framework.dashboard.time_series import HistoryAggregator

__all__ = [
    "ERROR_RATE",
    "MEMORY_PERCENT",
    "POINTS",
    "WINDOW",
    "HistoryAggregator",
    "create_dashboard",
    "dashboard_schema",
    "outcomes",
]
