"""The panels: rate, errors and duration of operations; use, saturation and errors of the machine.

Rate, errors, duration is Tom Wilkie's RED method; utilization, saturation, errors Brendan Gregg's USE.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from metrics_framework.dashboard.metric_views import (
    Measure,
    MetricView,
    error_percent,
    failures_per_second,
    level,
    p95,
    percent_level,
    rate,
    to_labels,
    to_mapping,
    to_number,
    to_text,
    total,
)
from metrics_framework.dashboard.time_series import TimeSeriesReader, last
from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.resources import CPU_GAUGES, DISK_GAUGES, MEMORY_GAUGES, MOUNTPOINT, NETWORK_GAUGES
from metrics_framework.values import MetricType, MetricUnit

MAX_LINES = 5
"""How many lines a chart has at most: more cannot be told apart on a small screen."""

MAX_ROWS = 10
"""How many bars or rows other panels have at most."""

Panel = dict[str, Any]
PanelSeries = dict[str, Any]
PanelKind = Literal["stat", "line", "bar", "table"]

DISK_WARNING_PERCENT = 90.0
"""Above which a disk is soon full."""

_MEMORY, _CPU, _DISK, _NETWORK = (
    {gauge.key: gauge.name for gauge in gauges}
    for gauges in (MEMORY_GAUGES, CPU_GAUGES, DISK_GAUGES, NETWORK_GAUGES)
)


def panel(
    title: str,
    description: str,
    kind: PanelKind,
    unit: MetricUnit,
    series: Iterable[PanelSeries],
    *,
    maximum: float | None = None,
    thresholds: Iterable[dict[str, Any]] = (),
) -> Panel:
    """Return a panel; its id is its title in lower case, with hyphens."""
    return {
        "id": "-".join("".join(char if char.isalnum() else " " for char in title.lower()).split()),
        "title": title,
        "description": description,
        "kind": kind,
        "unit": unit.value,
        "maximum": maximum,
        "thresholds": list(thresholds),
        "series": list(series),
    }


def above(value: float, severity: Literal["warning", "critical"] = "critical") -> dict[str, Any]:
    """Return a threshold: what is above it is bad."""
    return {"value": value, "severity": severity, "direction": "above"}


# -- operations ------------------------------------------------------------------------------------------


def throughput(reader: TimeSeriesReader) -> Panel:
    """Return how much is going on: the busiest operations, timers and counters."""
    tracked = {one.name for one in reader.metric_views if _is_tracked(one)}
    busy = [
        one
        for one in reader.metric_views
        if _is_tracked(one)
        or (one.metric_type is MetricType.TIMER and not (one.operation and one.name in tracked))
        or (one.metric_type is MetricType.COUNTER and one.unit is MetricUnit.COUNT)
    ]
    return panel(
        "Throughput",
        "Events per second: the busiest operations, timers and counters of the whole run.",
        "line",
        MetricUnit.OPERATIONS_PER_SECOND,
        _lines(reader, busy, rate, MAX_LINES, per_second=True),
    )


def error_rates(reader: TimeSeriesReader, threshold: float) -> Panel:
    """Return which share of their events fails, of the operations that fail most."""
    return panel(
        "Error rate",
        "Share of failures: the operations that failed most often in the whole run.",
        "line",
        MetricUnit.PERCENT,
        _lines(reader, filter(_is_tracked, reader.metric_views), error_percent, MAX_LINES),
        maximum=100,
        thresholds=[above(threshold)],
    )


def overall_error_rate(reader: TimeSeriesReader, threshold: float) -> Panel:
    """Return which share of all events failed since the start."""
    values = [value for one in reader.metric_views if _is_tracked(one) for value in one.values]
    everything = MetricView("all operations", MetricType.RATE, MetricUnit.PERCENT, True, values)
    share = error_percent(everything.since_start) if values else None
    return panel(
        "Errors overall",
        "Share of failures of all operations since the start.",
        "stat",
        MetricUnit.PERCENT,
        [] if share is None else [_series(everything.name, {}, [], share)],
        maximum=100,
        thresholds=[above(threshold)],
    )


def failures(reader: TimeSeriesReader) -> Panel:
    """Return how many failures there are a second, of the operations that fail most."""
    return panel(
        "Failures",
        "Failures per second: the operations with most of them in the whole run.",
        "line",
        MetricUnit.OPERATIONS_PER_SECOND,
        _lines(
            reader, filter(_is_tracked, reader.metric_views), failures_per_second, MAX_LINES, per_second=True
        ),
    )


def failures_by_kind(reader: TimeSeriesReader) -> Panel:
    """Return the most frequent kinds of failures in the window."""
    failing = _worst(filter(_is_tracked, reader.metric_views), failures_per_second, MAX_ROWS)
    rows = [
        _series(one.name, {"error_type": error_type}, [], to_number(many))
        for one in failing
        for error_type, many in to_mapping(reader.of(one).whole.get("failures")).items()
        if to_number(many)
    ]
    worst = sorted(rows, key=lambda row: -(row["value"] or 0))[:MAX_ROWS]
    return panel(
        "Failures by kind", "How often each error type was counted.", "table", MetricUnit.COUNT, worst
    )


def durations(reader: TimeSeriesReader) -> Panel:
    """Return how long the slowest operations and timers take."""
    return panel(
        "Duration, p95",
        "Nineteen of twenty take no longer: the slowest operations and timers of the whole run.",
        "line",
        MetricUnit.MILLISECONDS,
        _lines(reader, filter(_is_timed, reader.metric_views), p95, MAX_LINES),
    )


def time_spent(reader: TimeSeriesReader) -> Panel:
    """Return where the time goes: all durations of an operation or timer together."""
    return panel(
        "Time spent",
        "All durations in the window together: what to make faster first.",
        "bar",
        MetricUnit.MILLISECONDS,
        _bars(reader, filter(_is_timed, reader.metric_views), total),
    )


def distributions(reader: TimeSeriesReader) -> list[Panel]:
    """Return the largest histograms, a panel for each unit."""
    histograms = [one for one in reader.metric_views if one.metric_type is MetricType.HISTOGRAM]
    return [
        panel(
            f"Values in {unit.value}, p95",
            "Nineteen of twenty are no larger: the largest histograms of the whole run.",
            "bar",
            unit,
            _bars(reader, [one for one in histograms if one.unit is unit], p95),
        )
        for unit in MetricUnit
        if any(one.unit is unit for one in histograms)
    ]


# -- the machine and the process -------------------------------------------------------------------------


def cpu(reader: TimeSeriesReader, threshold: float | None, kind: PanelKind = "line") -> Panel:
    """Return how busy the machine is, and in a chart also how much of that is the process."""
    shown = ["percent"] if kind == "stat" else ["percent", "process_percent_of_all"]
    return panel(
        "CPU",
        "Use of all CPUs together."
        if kind == "stat"
        else "Use of all CPUs together: all of it, the process'.",
        kind,
        MetricUnit.PERCENT,
        _gauges(reader, [_CPU[key] for key in shown], percent_level),
        maximum=100,
        thresholds=[] if threshold is None else [above(threshold)],
    )


def memory(reader: TimeSeriesReader, threshold: float, kind: PanelKind = "line") -> Panel:
    """Return how full the machine's memory is."""
    return panel(
        "Memory",
        "How full the machine's memory is.",
        kind,
        MetricUnit.PERCENT,
        _gauges(reader, [_MEMORY["percent"]], percent_level),
        maximum=100,
        thresholds=[above(threshold)],
    )


def memory_in_bytes(reader: TimeSeriesReader) -> Panel:
    """Return what memory the process takes."""
    return panel(
        "Process memory",
        "Resident memory now, and the most there was.",
        "line",
        MetricUnit.BYTES,
        _gauges(reader, [_MEMORY[key] for key in ("process_rss", "process_peak_rss")]),
    )


def load(reader: TimeSeriesReader) -> Panel:
    """Return how many tasks run or wait: more than there are CPUs means that they queue."""
    cpus = _gauges(reader, [_CPU["count"]])
    return panel(
        "Load",
        "Tasks that run or wait for a CPU; above the number of CPUs they queue.",
        "line",
        MetricUnit.COUNT,
        _gauges(reader, [_CPU[key] for key in ("load_1m", "load_5m", "load_15m")]),
        thresholds=[above(one["value"], "warning") for one in cpus if one["value"]],
    )


def disk(reader: TimeSeriesReader) -> Panel:
    """Return how full the fullest disk was, or where nothing was recorded, each of them."""
    return panel(
        "Disk",
        "How full the fullest of the recorded disks is.",
        "line",
        MetricUnit.PERCENT,
        _gauges(reader, [_DISK["percent"]], percent_level, by=MOUNTPOINT),
        maximum=100,
        thresholds=[above(DISK_WARNING_PERCENT, "warning")],
    )


def network(reader: TimeSeriesReader) -> Panel:
    """Return how much passes the network."""
    recorded = reader.of_gauge(_NETWORK["bytes_sent"])
    changes = recorded.changes() if recorded is not None else []
    whole = sum(value for _, value in changes) / len(changes) if changes else None
    return panel(
        "Network",
        "Bytes per second that all interfaces sent and received together.",
        "line",
        MetricUnit.BYTES,
        [_series(_NETWORK["bytes_sent"], {}, changes, to_number(whole))] if changes else [],
    )


def network_totals(reader: TimeSeriesReader) -> Panel:
    """Return what passed the network so far."""
    return panel(
        "Network totals",
        "What all interfaces sent and received since they came up, now.",
        "table",
        MetricUnit.BYTES,
        _present(reader, [_NETWORK["bytes_sent"]]),
    )


def network_errors(reader: TimeSeriesReader) -> Panel:
    """Return what the network interfaces lost."""
    return panel(
        "Network errors",
        "Packets with errors and packets that were dropped since the interfaces came up, now.",
        "table",
        MetricUnit.COUNT,
        _present(reader, [_NETWORK["errors_in"], _NETWORK["drops_in"]]),
    )


# -- series ----------------------------------------------------------------------------------------------


def _is_tracked(subject: MetricView) -> bool:
    return subject.metric_type is MetricType.RATE


def _is_timed(subject: MetricView) -> bool:
    return subject.metric_type is MetricType.TIMER


def _series(
    name: object, tags: object, points: list[list[int | float]], value: int | float | None
) -> PanelSeries:
    return {"name": to_text(name), "tags": to_labels(tags), "points": points, "value": value}


def _worst(metric_views: Iterable[MetricView], measure: Measure, limit: int) -> list[MetricView]:
    """Return those with the largest numbers since the start; of equals the first by name."""
    ranked = [(measured, one) for one in metric_views if (measured := measure(one.since_start)) is not None]
    ranked.sort(key=lambda item: (-item[0], str(item[1].name)))
    return [one for _, one in ranked[:limit]]


def _lines(
    reader: TimeSeriesReader,
    metric_views: Iterable[MetricView],
    measure: Measure,
    limit: int,
    *,
    per_second: bool = False,
) -> list[PanelSeries]:
    drawn = ((one, reader.of(one)) for one in _worst(metric_views, measure, limit))
    lines = [
        _series(one.name, {}, course.points(measure, per_second=per_second), measure(course.whole))
        for one, course in drawn
    ]
    return _descending(line for line in lines if line["points"])


def _bars(
    reader: TimeSeriesReader, metric_views: Iterable[MetricView], measure: Measure
) -> list[PanelSeries]:
    bars = [
        _series(one.name, {}, [], measure(reader.of(one).whole))
        for one in _worst(metric_views, measure, MAX_ROWS)
    ]
    return _descending(bar for bar in bars if bar["value"] is not None)


def _descending(series: Iterable[PanelSeries]) -> list[PanelSeries]:
    return sorted(series, key=lambda one: (one["value"] is None, -(one["value"] or 0)))


def _gauges(
    reader: TimeSeriesReader, names: Iterable[str], measure: Measure = level, *, by: str | None = None
) -> list[PanelSeries]:
    """Return what was recorded of each gauge, or where nothing was, what the monitor reads now.

    Args:
        reader: Knows both.
        names: The gauges.
        measure: What is shown of them.
        by: The tag by which what is read now is told apart.
    """
    shown: list[PanelSeries] = []
    for name in names:
        recorded = reader.of_gauge(name)
        if recorded is not None and last(recorded) is not None:
            latest = measure({"last": last(recorded)})
            shown.append(_series(name, {}, recorded.points(measure), latest))
            continue
        for tags, value in reader.present(name):
            course = reader.of_reading(value)
            told = {by: tags[by]} if by is not None and by in tags else {}
            shown.append(_series(name, told, course.points(measure), measure(course.whole)))
    return shown[:MAX_ROWS]


def _present(reader: TimeSeriesReader, names: Iterable[str]) -> list[PanelSeries]:
    return [_series(name, tags, [], value) for name in names for tags, value in reader.present(name)]


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
    if not isinstance(window, timedelta) or window <= timedelta(0):
        raise InvalidInputError(f"window={window!r} is not a positive duration")
    if points.__class__ is not int or points < 2:
        raise InvalidInputError(f"points={points!r} is not a whole number of 2 or more")
    for what, threshold, most in (
        ("error_rate", error_rate, 1),
        ("memory_percent", memory_percent, 100),
        ("cpu_percent", 0 if cpu_percent is None else cpu_percent, 100),
    ):
        if to_number(threshold) is None or not 0 <= threshold <= most:
            raise InvalidInputError(f"{what}={threshold!r} is not between 0 and {most}")
    reader = TimeSeriesReader(aggregator, monitor, now, window, points)
    boards: dict[str, Callable[[], list[Panel]]] = {
        "overview": lambda: [
            overall_error_rate(reader, 100 * error_rate),
            cpu(reader, cpu_percent, "stat"),
            memory(reader, memory_percent, "stat"),
            throughput(reader),
            error_rates(reader, 100 * error_rate),
            durations(reader),
        ],
        "performance": lambda: [
            throughput(reader),
            durations(reader),
            time_spent(reader),
            *distributions(reader),
        ],
        "errors": lambda: [
            overall_error_rate(reader, 100 * error_rate),
            error_rates(reader, 100 * error_rate),
            failures(reader),
            failures_by_kind(reader),
        ],
        "resources": lambda: [
            cpu(reader, cpu_percent),
            load(reader),
            memory(reader, memory_percent),
            memory_in_bytes(reader),
            disk(reader),
            network(reader),
            network_totals(reader),
            network_errors(reader),
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
