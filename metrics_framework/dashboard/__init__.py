"""Dashboards as plain data: panels that a web page, a terminal or a test can draw."""

from metrics_framework.capabilities import HistoryAggregator
from metrics_framework.dashboard.dashboards import (
    ERROR_RATE,
    MEMORY_PERCENT,
    POINTS,
    WINDOW,
    create_dashboard,
    dashboard_schema,
)
from metrics_framework.health import outcomes
from metrics_framework.recording import History, Interval

__all__ = [
    "ERROR_RATE",
    "MEMORY_PERCENT",
    "POINTS",
    "WINDOW",
    "History",
    "HistoryAggregator",
    "Interval",
    "create_dashboard",
    "dashboard_schema",
    "outcomes",
]
