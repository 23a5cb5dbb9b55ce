"""Dashboards as plain data: panels that a page, a terminal or a test can draw."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.values import MetricType, MetricUnit, MetricValue

TOP = 10
"""How many series a panel shows."""


def create_dashboard(
    dashboard_type: str, aggregator: MetricsAggregator, monitor: ResourceMonitor, now: datetime
) -> dict[str, Any]:
    """Return a dashboard of a type: ``overview``, ``performance``, ``errors`` or ``resources``.

    Returns:
        ``type``, ``generated_at`` (ISO 8601) and ``panels``; a panel has ``title``, ``kind``, ``unit`` and
        ``series``, each of these a ``name``, its ``tags`` and its ``value``.

    Raises:
        InvalidInputError: If there is no such dashboard.
    """
    panels: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "overview": lambda: [_slowest(aggregator), _failing(aggregator), _busiest(aggregator)],
        "performance": lambda: [
            _slowest(aggregator),
            _busiest(aggregator),
            _top(aggregator, MetricType.HISTOGRAM),
        ],
        "errors": lambda: [_failing(aggregator), _failures(aggregator)],
        "resources": lambda: _resources(monitor),
    }
    if dashboard_type not in panels:
        raise InvalidInputError(
            f"there is no dashboard {dashboard_type!r}.{nearest(str(dashboard_type), panels)}"
        )
    return {"type": dashboard_type, "generated_at": now.isoformat(), "panels": panels[dashboard_type]()}


def _panel(
    title: str, unit: MetricUnit, series: Iterable[tuple[str, dict[str, str], float]]
) -> dict[str, Any]:
    return {
        "title": title,
        "kind": "bar",
        "unit": unit.value,
        "series": [{"name": name, "tags": tags, "value": value} for name, tags, value in series],
    }


def _rows(values: Iterable[MetricValue]) -> Iterable[tuple[str, dict[str, str], float]]:
    return ((value.name, value.tags, value.value) for value in values)


def _slowest(aggregator: MetricsAggregator) -> dict[str, Any]:
    timers = aggregator.get_top_metrics(MetricType.TIMER, TOP)
    return _panel("Slowest operations, p95", MetricUnit.MILLISECONDS, _rows(timers))


def _busiest(aggregator: MetricsAggregator) -> dict[str, Any]:
    rates = aggregator.get_top_metrics(MetricType.RATE, TOP)
    return _panel("Most frequent", MetricUnit.OPERATIONS_PER_SECOND, _rows(rates))


def _top(aggregator: MetricsAggregator, metric_type: MetricType) -> dict[str, Any]:
    values = aggregator.get_top_metrics(metric_type, TOP)
    return _panel("Largest distributions, p95", MetricUnit.COUNT, _rows(values))


def _failing(aggregator: MetricsAggregator) -> dict[str, Any]:
    rates = [
        (value.name, value.tags, 100 * (1 - value.metadata["success_rate"])) for value in outcomes(aggregator)
    ]
    worst = sorted(rates, key=lambda row: row[2], reverse=True)[:TOP]
    return _panel("Failures by operation", MetricUnit.PERCENT, worst)


def _failures(aggregator: MetricsAggregator) -> dict[str, Any]:
    rows = [
        (value.name, {**value.tags, "error_type": error_type}, float(number))
        for value in outcomes(aggregator)
        for error_type, number in value.metadata.get("failures", {}).items()
    ]
    worst = sorted(rows, key=lambda row: row[2], reverse=True)[:TOP]
    return _panel("Failures by kind", MetricUnit.COUNT, worst)


def _resources(monitor: ResourceMonitor) -> list[dict[str, Any]]:
    memory, cpu = monitor.get_memory_usage(), monitor.get_cpu_usage()
    memory_keys = ("process_rss", "process_peak_rss", "used", "total")
    in_bytes = [(key, dict[str, str](), memory[key]) for key in memory_keys if key in memory]
    in_percent = [(key, dict[str, str](), cpu[key]) for key in ("percent", "process_percent") if key in cpu]
    return [_panel("Memory", MetricUnit.BYTES, in_bytes), _panel("CPU", MetricUnit.PERCENT, in_percent)]


def outcomes(aggregator: MetricsAggregator) -> list[MetricValue]:
    """Return what an aggregator knows of how operations ended: rates that carry a success rate."""
    values = aggregator.get_metrics_by_tag({})
    return [
        value for value in values if value.metric_type is MetricType.RATE and "success_rate" in value.metadata
    ]
