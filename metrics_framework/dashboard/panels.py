"""The dashboards and their panels, by two methods.

The panels of operations show rate, errors and duration (Tom Wilkie's RED method), those of the machine
utilization, saturation and errors (Brendan Gregg's USE method).
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
from metrics_framework.dashboard.time_series import TimeSeriesReader
from metrics_framework.errors import InvalidInputError, nearest
from metrics_framework.health import CPU_GAUGES, DISK_GAUGES, MEMORY_GAUGES, MOUNTPOINT, NETWORK_GAUGES
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.validation import check_count, check_duration
from metrics_framework.values import MetricType, MetricUnit

SCHEMA_VERSION = 1

WINDOW = timedelta(hours=1)
POINTS = 60
ERROR_RATE = 0.05
MEMORY_PERCENT = 95.0

DISK_WARNING_PERCENT = 90.0

MAX_LINES = 5
"""Maximum number of lines in a chart: more cannot be distinguished on a small screen."""

MAX_ROWS = 10
"""Maximum number of bars or rows in other panels."""

Panel = dict[str, Any]
PanelSeries = dict[str, Any]
PanelKind = Literal["stat", "line", "bar", "table"]

_MEMORY, _CPU, _DISK, _NETWORK = (
    {gauge.key: gauge.name for gauge in gauges}
    for gauges in (MEMORY_GAUGES, CPU_GAUGES, DISK_GAUGES, NETWORK_GAUGES)
)


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
    """Return a dashboard as plain data that follows `dashboard_schema`.

    Lines need a `HistoryAggregator`. With any other aggregator, each line is a single point. If a part fails,
    the error is logged and its values are left out.

    Args:
        dashboard_type: ``overview``, ``performance``, ``errors`` or ``resources``.
        aggregator: Provides recorded values.
        monitor: Provides current values of resources that were not recorded.
        now: The time of the dashboard, with a time zone.
        window: How far back to look; at most the retention of the aggregator.
        points: The maximum number of points of a line, 2 or more.
        error_rate: The critical share of failures, 0.0 to 1.0.
        memory_percent: The critical use of the machine's memory, in percent.
        cpu_percent: The critical use of all CPUs together, in percent; ``None`` for no threshold.

    Raises:
        InvalidInputError: If there is no such dashboard, or an argument is not valid.
    """
    check_duration("window", window)
    check_count("points", points, least=2)
    for name, threshold, maximum in (
        ("error_rate", error_rate, 1),
        ("memory_percent", memory_percent, 100),
        ("cpu_percent", 0 if cpu_percent is None else cpu_percent, 100),
    ):
        if to_number(threshold) is None or not 0 <= threshold <= maximum:
            raise InvalidInputError(f"{name}={threshold!r} is not a number from 0 to {maximum}")
    reader = TimeSeriesReader(aggregator, monitor, now, window, points)
    dashboards: dict[str, Callable[[], list[Panel]]] = {
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
    if not isinstance(dashboard_type, str) or dashboard_type not in dashboards:
        raise InvalidInputError(
            f"there is no dashboard {dashboard_type!r}.{nearest(str(dashboard_type), dashboards)}"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "type": dashboard_type,
        "generated_at": now.astimezone(UTC).isoformat(),
        "window_seconds": window.total_seconds(),
        "panels": dashboards[dashboard_type](),
    }


def dashboard_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the result of `create_dashboard`."""
    import json
    from importlib.resources import files  # slow to import

    schema: dict[str, Any] = json.loads(
        files("metrics_framework.dashboard").joinpath("schema.json").read_text(encoding="utf-8")
    )
    return schema


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
    """Return a panel. Its id is the title in lower case, with hyphens."""
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
    """Return a threshold that values should not exceed."""
    return {"value": value, "severity": severity, "direction": "above"}


# -- operations ------------------------------------------------------------------------------------------


def throughput(reader: TimeSeriesReader) -> Panel:
    """Return the events per second of the busiest operations, timers and counters."""
    tracked = {view.name for view in reader.views if _is_tracked(view)}
    busy = [
        view
        for view in reader.views
        if _is_tracked(view)
        or (view.metric_type is MetricType.TIMER and not (view.operation and view.name in tracked))
        or (view.metric_type is MetricType.COUNTER and view.unit is MetricUnit.COUNT)
    ]
    return panel(
        "Throughput",
        "Events per second of the busiest operations, timers and counters since the start.",
        "line",
        MetricUnit.OPERATIONS_PER_SECOND,
        _lines(reader, busy, rate, per_second=True),
    )


def error_rates(reader: TimeSeriesReader, threshold: float) -> Panel:
    """Return the error rate of the operations that fail most often."""
    return panel(
        "Error rate",
        "Share of failures of the operations that failed most often since the start.",
        "line",
        MetricUnit.PERCENT,
        _lines(reader, filter(_is_tracked, reader.views), error_percent),
        maximum=100,
        thresholds=[above(threshold)],
    )


def overall_error_rate(reader: TimeSeriesReader, threshold: float) -> Panel:
    """Return the error rate of all operations since the start."""
    values = [value for view in reader.views if _is_tracked(view) for value in view.values]
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
    """Return the failures per second of the operations with the most failures."""
    return panel(
        "Failures",
        "Failures per second of the operations with the most failures since the start.",
        "line",
        MetricUnit.OPERATIONS_PER_SECOND,
        _lines(reader, filter(_is_tracked, reader.views), failures_per_second, per_second=True),
    )


def failures_by_kind(reader: TimeSeriesReader) -> Panel:
    """Return the most frequent error types in the window."""
    failing = _largest(filter(_is_tracked, reader.views), failures_per_second, MAX_ROWS)
    rows = [
        _series(view.name, {"error_type": error_type}, [], to_number(count))
        for view in failing
        for error_type, count in to_mapping(reader.read(view).whole.get("failures")).items()
        if to_number(count)
    ]
    most = sorted(rows, key=lambda row: -(row["value"] or 0))[:MAX_ROWS]
    return panel("Failures by kind", "Failures by error type.", "table", MetricUnit.COUNT, most)


def durations(reader: TimeSeriesReader) -> Panel:
    """Return the 95th percentile of the slowest operations and timers."""
    return panel(
        "Duration, p95",
        "95 % of the durations are shorter: the slowest operations and timers since the start.",
        "line",
        MetricUnit.MILLISECONDS,
        _lines(reader, filter(_is_timed, reader.views), p95),
    )


def time_spent(reader: TimeSeriesReader) -> Panel:
    """Return the total time of operations and timers."""
    return panel(
        "Time spent",
        "Sum of all durations in the window: the first place to optimize.",
        "bar",
        MetricUnit.MILLISECONDS,
        _bars(reader, filter(_is_timed, reader.views), total),
    )


def distributions(reader: TimeSeriesReader) -> list[Panel]:
    """Return the largest histograms, one panel for each unit."""
    histograms = [view for view in reader.views if view.metric_type is MetricType.HISTOGRAM]
    return [
        panel(
            f"Values in {unit.value}, p95",
            "95 % of the values are smaller: the largest histograms since the start.",
            "bar",
            unit,
            _bars(reader, [view for view in histograms if view.unit is unit], p95),
        )
        for unit in MetricUnit
        if any(view.unit is unit for view in histograms)
    ]


# -- the machine and the process -------------------------------------------------------------------------


def cpu(reader: TimeSeriesReader, threshold: float | None, kind: PanelKind = "line") -> Panel:
    """Return the CPU use of the machine, and in a chart also that of the process."""
    is_stat = kind == "stat"
    keys = ["percent"] if is_stat else ["percent", "process_percent_of_all"]
    return panel(
        "CPU",
        "Use of all CPUs together."
        if is_stat
        else "Use of all CPUs together, by the machine and the process.",
        kind,
        MetricUnit.PERCENT,
        _gauges(reader, [_CPU[key] for key in keys], percent_level),
        maximum=100,
        thresholds=[] if threshold is None else [above(threshold)],
    )


def memory(reader: TimeSeriesReader, threshold: float, kind: PanelKind = "line") -> Panel:
    """Return the memory use of the machine."""
    return panel(
        "Memory",
        "Use of the machine's memory.",
        kind,
        MetricUnit.PERCENT,
        _gauges(reader, [_MEMORY["percent"]], percent_level),
        maximum=100,
        thresholds=[above(threshold)],
    )


def memory_in_bytes(reader: TimeSeriesReader) -> Panel:
    """Return the memory use of the process."""
    return panel(
        "Process memory",
        "Resident memory of the process, and its peak.",
        "line",
        MetricUnit.BYTES,
        _gauges(reader, [_MEMORY[key] for key in ("process_rss", "process_peak_rss")]),
    )


def load(reader: TimeSeriesReader) -> Panel:
    """Return the load averages, with the number of CPUs as threshold."""
    cpus = _gauges(reader, [_CPU["count"]])
    return panel(
        "Load",
        "Tasks that run or wait for a CPU. Above the number of CPUs, they queue.",
        "line",
        MetricUnit.COUNT,
        _gauges(reader, [_CPU[key] for key in ("load_1m", "load_5m", "load_15m")]),
        thresholds=[above(one["value"], "warning") for one in cpus if one["value"]],
    )


def disk(reader: TimeSeriesReader) -> Panel:
    """Return the use of the fullest recorded disk, or of each disk if none was recorded."""
    return panel(
        "Disk",
        "Use of the fullest recorded disk.",
        "line",
        MetricUnit.PERCENT,
        _gauges(reader, [_DISK["percent"]], percent_level, by=MOUNTPOINT),
        maximum=100,
        thresholds=[above(DISK_WARNING_PERCENT, "warning")],
    )


def network(reader: TimeSeriesReader) -> Panel:
    """Return the network traffic per second."""
    recorded = reader.read_gauge(_NETWORK["bytes_sent"])
    increases = recorded.increases() if recorded is not None else []
    average = sum(value for _, value in increases) / len(increases) if increases else None
    return panel(
        "Network",
        "Bytes per second that all interfaces together sent and received.",
        "line",
        MetricUnit.BYTES,
        [_series(_NETWORK["bytes_sent"], {}, increases, to_number(average))] if increases else [],
    )


def network_totals(reader: TimeSeriesReader) -> Panel:
    """Return the total network traffic."""
    return panel(
        "Network totals",
        "Bytes that all interfaces sent and received since they came up.",
        "table",
        MetricUnit.BYTES,
        _current(reader, [_NETWORK["bytes_sent"]]),
    )


def network_errors(reader: TimeSeriesReader) -> Panel:
    """Return the errors and drops of the network interfaces."""
    return panel(
        "Network errors",
        "Packets with errors and dropped packets since the interfaces came up.",
        "table",
        MetricUnit.COUNT,
        _current(reader, [_NETWORK["errors_in"], _NETWORK["drops_in"]]),
    )


# -- series ----------------------------------------------------------------------------------------------


def _is_tracked(view: MetricView) -> bool:
    return view.metric_type is MetricType.RATE


def _is_timed(view: MetricView) -> bool:
    return view.metric_type is MetricType.TIMER


def _series(
    name: object, tags: object, points: list[list[int | float]], value: int | float | None
) -> PanelSeries:
    return {"name": to_text(name), "tags": to_labels(tags), "points": points, "value": value}


def _largest(views: Iterable[MetricView], measure: Measure, limit: int) -> list[MetricView]:
    """Return the views with the largest numbers since the start. Equal ones are sorted by name."""
    ranked = [(number, view) for view in views if (number := measure(view.since_start)) is not None]
    ranked.sort(key=lambda item: (-item[0], str(item[1].name)))
    return [view for _, view in ranked[:limit]]


def _lines(
    reader: TimeSeriesReader, views: Iterable[MetricView], measure: Measure, *, per_second: bool = False
) -> list[PanelSeries]:
    drawn = ((view, reader.read(view)) for view in _largest(views, measure, MAX_LINES))
    lines = [
        _series(view.name, {}, series.points(measure, per_second=per_second), measure(series.whole))
        for view, series in drawn
    ]
    return _descending(line for line in lines if line["points"])


def _bars(reader: TimeSeriesReader, views: Iterable[MetricView], measure: Measure) -> list[PanelSeries]:
    bars = [
        _series(view.name, {}, [], measure(reader.read(view).whole))
        for view in _largest(views, measure, MAX_ROWS)
    ]
    return _descending(bar for bar in bars if bar["value"] is not None)


def _descending(series: Iterable[PanelSeries]) -> list[PanelSeries]:
    return sorted(series, key=lambda one: (one["value"] is None, -(one["value"] or 0)))


def _gauges(
    reader: TimeSeriesReader, names: Iterable[str], measure: Measure = level, *, by: str | None = None
) -> list[PanelSeries]:
    """Return each gauge as recorded, or as the monitor reads it now if it was not recorded.

    Args:
        reader: Reads both.
        names: The gauges.
        measure: Takes the number from a summary.
        by: The tag that distinguishes current values of one gauge.
    """
    found: list[PanelSeries] = []
    for name in names:
        recorded = reader.read_gauge(name)
        if recorded is not None and recorded.last is not None:
            found.append(_series(name, {}, recorded.points(measure), measure({"last": recorded.last})))
            continue
        for tags, value in reader.current_values(name):
            series = reader.from_reading(value)
            kept = {by: tags[by]} if by is not None and by in tags else {}
            found.append(_series(name, kept, series.points(measure), measure(series.whole)))
    return found[:MAX_ROWS]


def _current(reader: TimeSeriesReader, names: Iterable[str]) -> list[PanelSeries]:
    return [_series(name, tags, [], value) for name in names for tags, value in reader.current_values(name)]
