"""The dashboards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from metrics_framework.dashboard import machine, operations
from metrics_framework.dashboard.metric_views import known_tags, to_labels, to_number
from metrics_framework.dashboard.panels import Panel, add_note
from metrics_framework.dashboard.time_series import TimeSeriesReader
from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.validation import check_count, check_duration, plain_tags

SCHEMA_VERSION = 1

WINDOW = timedelta(hours=1)
POINTS = 60
ERROR_RATE = 0.05
MEMORY_PERCENT = 95.0


def create_dashboard(
    dashboard_type: str,
    aggregator: MetricsAggregator,
    monitor: ResourceMonitor,
    now: datetime,
    *,
    window: timedelta = WINDOW,
    points: int = POINTS,
    error_rate: float = ERROR_RATE,
    memory_percent: float = MEMORY_PERCENT,
    cpu_percent: float | None = None,
    tags: Mapping[str, str] | None = None,
    losses: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Return a dashboard as plain data that follows `dashboard_schema`.

    Lines and the tag filter of a window need a `HistoryAggregator`. With any other aggregator, each line is a
    single point. If a part fails, the error is logged and its values are left out. A thread that runs beside
    an event loop calls this in `metrics_framework.runtime.cooperative.cooperatively`.

    Args:
        dashboard_type: ``overview``, ``performance``, ``errors``, ``resources`` or ``batch``.
        aggregator: Provides recorded values.
        monitor: Provides current values of resources that were not recorded.
        now: The time of the dashboard, with a time zone.
        window: How far back to look; at most the retention of the aggregator.
        points: The maximum number of points of a line, and of columns of a heat map; 2 or more.
        error_rate: The critical share of failures, 0.0 to 1.0.
        memory_percent: The critical use of the machine's memory, in percent.
        cpu_percent: The critical use of all CPUs together, in percent; ``None`` for no threshold.
        tags: Only series that carry these tags are shown; all by default. Resources without any of these tags
            are shown, too.
        losses: Further losses to show, such as failed outputs, and how many.

    Raises:
        InvalidInputError: If there is no such dashboard, or an argument is not valid.
    """
    check_duration("window", window)
    check_count("points", points, least=2)
    wanted = plain_tags(tags)
    for name, threshold, maximum in (
        ("error_rate", error_rate, 1),
        ("memory_percent", memory_percent, 100),
        ("cpu_percent", 0 if cpu_percent is None else cpu_percent, 100),
    ):
        if to_number(threshold) is None or not 0 <= threshold <= maximum:
            raise InvalidInputError(f"{name}={threshold!r} is not a number from 0 to {maximum}")
    reader = TimeSeriesReader(aggregator, monitor, now, window, points, wanted)
    dashboards: dict[str, Iterable[Callable[[], Panel | list[Panel]]]] = {
        "overview": (
            lambda: operations.overall_error_rate(reader, 100 * error_rate),
            lambda: machine.cpu(reader, cpu_percent, "stat"),
            lambda: machine.memory(reader, memory_percent, "stat"),
            lambda: machine.records_per_second(reader),
            lambda: machine.series(reader),
            lambda: operations.throughput(reader),
            lambda: operations.error_rates(reader, 100 * error_rate),
            lambda: operations.durations(reader),
            lambda: machine.losses(reader, losses or {}),
        ),
        "performance": (
            lambda: operations.throughput(reader),
            lambda: operations.percentiles(reader),
            lambda: operations.durations(reader),
            lambda: operations.latency_heat_map(reader),
            lambda: operations.top_operations(reader),
            lambda: operations.time_spent(reader),
            lambda: operations.distributions(reader),
        ),
        "errors": (
            lambda: operations.overall_error_rate(reader, 100 * error_rate),
            lambda: operations.error_rates(reader, 100 * error_rate),
            lambda: operations.failures(reader),
            lambda: operations.failures_by_kind(reader),
            lambda: operations.recent_failures(reader, now),
        ),
        "resources": (
            lambda: machine.cpu(reader, cpu_percent),
            lambda: machine.load(reader),
            lambda: machine.cpu_limit(reader),
            lambda: machine.memory(reader, memory_percent),
            lambda: machine.memory_in_bytes(reader),
            lambda: machine.memory_limit(reader),
            lambda: machine.disk(reader),
            lambda: machine.network(reader),
            lambda: machine.network_totals(reader),
            lambda: machine.network_errors(reader),
        ),
        "batch": (lambda: operations.Batches(reader).panels(),),
    }
    if not isinstance(dashboard_type, str) or dashboard_type not in dashboards:
        raise InvalidInputError(
            f"there is no dashboard {dashboard_type!r}.{nearest(str(dashboard_type), dashboards)}"
        )
    panels: list[Panel] = []
    for make in dashboards[dashboard_type]:
        reader.refusals.clear()
        made = make()
        made = made if isinstance(made, list) else [made]
        for one in made:
            add_note(one, reader.refusals)
        panels += made
    return {
        "schema_version": SCHEMA_VERSION,
        "type": dashboard_type,
        "generated_at": now.astimezone(UTC).isoformat(),
        "window_seconds": window.total_seconds(),
        "tags": to_labels(wanted),
        "known_tags": known_tags(reader.every_view),
        "panels": panels,
    }


def dashboard_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the result of `create_dashboard`."""
    import json
    from importlib.resources import files  # slow to import

    schema: dict[str, Any] = json.loads(
        files("metrics_framework.dashboard").joinpath("schema.json").read_text(encoding="utf-8")
    )
    return schema
