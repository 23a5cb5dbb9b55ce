"""Which panels each dashboard has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from metrics_framework.dashboard import panels
from metrics_framework.dashboard.courses import Courses
from metrics_framework.dashboard.panels import Panel
from metrics_framework.dashboard.plain import number
from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.validation import check_count, check_duration

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
) -> dict[str, Any]:
    """Return a dashboard as plain data, whose form `dashboard_schema` says.

    An aggregator that fulfils `HistoryAggregator` is asked for lines; of any other there is one point, now.
    A part that fails is logged, and what it knows is left out.

    Args:
        dashboard_type: ``overview``, ``performance``, ``errors`` or ``resources``.
        aggregator: Knows what was recorded.
        monitor: Reads the machine, for what was not recorded.
        now: An aware moment, the dashboard's.
        window: How far back; not longer than the aggregator's retention.
        points: How many points a line may have: 2 or more.
        error_rate: The share of failures (0.0 to 1.0) above which something is wrong.
        memory_percent: The same for the machine's memory, in percent.
        cpu_percent: The same for all of its CPUs together; ``None`` where that is no fault.

    Raises:
        InvalidInputError: If there is no such dashboard, or an argument breaks its rule.
    """
    check_duration("window", window)
    check_count("points", points, least=2)
    for what, threshold, most in (
        ("error_rate", error_rate, 1),
        ("memory_percent", memory_percent, 100),
        ("cpu_percent", 0 if cpu_percent is None else cpu_percent, 100),
    ):
        if number(threshold) is None or not 0 <= threshold <= most:
            raise InvalidInputError(f"{what}={threshold!r} is not between 0 and {most}")
    courses = Courses(aggregator, monitor, now, window, points)
    boards: dict[str, Callable[[], list[Panel]]] = {
        "overview": lambda: [
            panels.overall_error_rate(courses, 100 * error_rate),
            panels.cpu(courses, cpu_percent, "stat"),
            panels.memory(courses, memory_percent, "stat"),
            panels.throughput(courses),
            panels.error_rates(courses, 100 * error_rate),
            panels.durations(courses),
        ],
        "performance": lambda: [
            panels.throughput(courses),
            panels.durations(courses),
            panels.time_spent(courses),
            *panels.distributions(courses),
        ],
        "errors": lambda: [
            panels.overall_error_rate(courses, 100 * error_rate),
            panels.error_rates(courses, 100 * error_rate),
            panels.failures(courses),
            panels.failures_by_kind(courses),
        ],
        "resources": lambda: [
            panels.cpu(courses, cpu_percent),
            panels.load(courses),
            panels.memory(courses, memory_percent),
            panels.memory_in_bytes(courses),
            panels.disk(courses),
            panels.network(courses),
            panels.network_totals(courses),
            panels.network_errors(courses),
        ],
    }
    if not isinstance(dashboard_type, str) or dashboard_type not in boards:
        raise InvalidInputError(
            f"there is no dashboard {dashboard_type!r}.{nearest(str(dashboard_type), boards)}"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "type": dashboard_type,
        "generated_at": now.astimezone(UTC).isoformat(),
        "window_seconds": window.total_seconds(),
        "panels": boards[dashboard_type](),
    }


def dashboard_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of what `create_dashboard` returns."""
    import json
    from importlib.resources import files  # slow to import

    schema: dict[str, Any] = json.loads(
        files("metrics_framework.dashboard").joinpath("schema.json").read_text(encoding="utf-8")
    )
    return schema
