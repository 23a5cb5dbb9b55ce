"""The panels: rate, errors and duration of operations; use, saturation and errors of the machine.

Rate, errors, duration is Tom Wilkie's RED method; utilization, saturation, errors Brendan Gregg's USE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from metrics_framework.dashboard.courses import Courses, last
from metrics_framework.dashboard.plain import labels, mapping, number, text
from metrics_framework.dashboard.subjects import (
    Measure,
    Subject,
    error_percent,
    failures_per_second,
    level,
    p95,
    percent_level,
    rate,
    total,
)
from metrics_framework.health import CPU_GAUGES, DISK_GAUGES, MEMORY_GAUGES, MOUNTPOINT, NETWORK_GAUGES
from metrics_framework.values import MetricType, MetricUnit

LINES = 5
"""How many lines a chart has at most: more cannot be told apart on a small screen."""

ROWS = 10
"""How many bars or rows other panels have at most."""

Panel = dict[str, Any]
Series = dict[str, Any]
Kind = Literal["stat", "line", "bar", "table"]

DISK_PERCENT = 90.0
"""Above which a disk is soon full."""

_MEMORY, _CPU, _DISK, _NETWORK = (
    {gauge.key: gauge.name for gauge in gauges}
    for gauges in (MEMORY_GAUGES, CPU_GAUGES, DISK_GAUGES, NETWORK_GAUGES)
)


def panel(
    title: str,
    description: str,
    kind: Kind,
    unit: MetricUnit,
    series: Iterable[Series],
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


def throughput(courses: Courses) -> Panel:
    """Return how much is going on: the busiest operations, timers and counters."""
    tracked = {one.name for one in courses.subjects if _is_tracked(one)}
    busy = [
        one
        for one in courses.subjects
        if _is_tracked(one)
        or (one.metric_type is MetricType.TIMER and not (one.operation and one.name in tracked))
        or (one.metric_type is MetricType.COUNTER and one.unit is MetricUnit.COUNT)
    ]
    return panel(
        "Throughput",
        "Events per second: the busiest operations, timers and counters of the whole run.",
        "line",
        MetricUnit.OPERATIONS_PER_SECOND,
        _lines(courses, busy, rate, LINES, per_second=True),
    )


def error_rates(courses: Courses, threshold: float) -> Panel:
    """Return which share of their events fails, of the operations that fail most."""
    return panel(
        "Error rate",
        "Share of failures: the operations that failed most often in the whole run.",
        "line",
        MetricUnit.PERCENT,
        _lines(courses, filter(_is_tracked, courses.subjects), error_percent, LINES),
        maximum=100,
        thresholds=[above(threshold)],
    )


def overall_error_rate(courses: Courses, threshold: float) -> Panel:
    """Return which share of all events failed since the start."""
    values = [value for one in courses.subjects if _is_tracked(one) for value in one.values]
    everything = Subject("all operations", MetricType.RATE, MetricUnit.PERCENT, True, values)
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


def failures(courses: Courses) -> Panel:
    """Return how many failures there are a second, of the operations that fail most."""
    return panel(
        "Failures",
        "Failures per second: the operations with most of them in the whole run.",
        "line",
        MetricUnit.OPERATIONS_PER_SECOND,
        _lines(courses, filter(_is_tracked, courses.subjects), failures_per_second, LINES, per_second=True),
    )


def failures_by_kind(courses: Courses) -> Panel:
    """Return the most frequent kinds of failures in the window."""
    failing = _worst(filter(_is_tracked, courses.subjects), failures_per_second, ROWS)
    rows = [
        _series(one.name, {"error_type": error_type}, [], number(many))
        for one in failing
        for error_type, many in mapping(courses.of(one).whole.get("failures")).items()
        if number(many)
    ]
    worst = sorted(rows, key=lambda row: -(row["value"] or 0))[:ROWS]
    return panel(
        "Failures by kind", "How often each error type was counted.", "table", MetricUnit.COUNT, worst
    )


def durations(courses: Courses) -> Panel:
    """Return how long the slowest operations and timers take."""
    return panel(
        "Duration, p95",
        "Nineteen of twenty take no longer: the slowest operations and timers of the whole run.",
        "line",
        MetricUnit.MILLISECONDS,
        _lines(courses, filter(_is_timed, courses.subjects), p95, LINES),
    )


def time_spent(courses: Courses) -> Panel:
    """Return where the time goes: all durations of an operation or timer together."""
    return panel(
        "Time spent",
        "All durations in the window together: what to make faster first.",
        "bar",
        MetricUnit.MILLISECONDS,
        _bars(courses, filter(_is_timed, courses.subjects), total),
    )


def distributions(courses: Courses) -> list[Panel]:
    """Return the largest histograms, a panel for each unit."""
    histograms = [one for one in courses.subjects if one.metric_type is MetricType.HISTOGRAM]
    return [
        panel(
            f"Values in {unit.value}, p95",
            "Nineteen of twenty are no larger: the largest histograms of the whole run.",
            "bar",
            unit,
            _bars(courses, [one for one in histograms if one.unit is unit], p95),
        )
        for unit in MetricUnit
        if any(one.unit is unit for one in histograms)
    ]


# -- the machine and the process -------------------------------------------------------------------------


def cpu(courses: Courses, threshold: float | None, kind: Kind = "line") -> Panel:
    """Return how busy the machine is, and in a chart also how much of that is the process."""
    shown = ["percent"] if kind == "stat" else ["percent", "process_percent_of_all"]
    return panel(
        "CPU",
        "Use of all CPUs together."
        if kind == "stat"
        else "Use of all CPUs together: all of it, the process'.",
        kind,
        MetricUnit.PERCENT,
        _gauges(courses, [_CPU[key] for key in shown], percent_level),
        maximum=100,
        thresholds=[] if threshold is None else [above(threshold)],
    )


def memory(courses: Courses, threshold: float, kind: Kind = "line") -> Panel:
    """Return how full the machine's memory is."""
    return panel(
        "Memory",
        "How full the machine's memory is.",
        kind,
        MetricUnit.PERCENT,
        _gauges(courses, [_MEMORY["percent"]], percent_level),
        maximum=100,
        thresholds=[above(threshold)],
    )


def memory_in_bytes(courses: Courses) -> Panel:
    """Return what memory the process takes."""
    return panel(
        "Process memory",
        "Resident memory now, and the most there was.",
        "line",
        MetricUnit.BYTES,
        _gauges(courses, [_MEMORY[key] for key in ("process_rss", "process_peak_rss")]),
    )


def load(courses: Courses) -> Panel:
    """Return how many tasks run or wait: more than there are CPUs means that they queue."""
    cpus = _gauges(courses, [_CPU["count"]])
    return panel(
        "Load",
        "Tasks that run or wait for a CPU; above the number of CPUs they queue.",
        "line",
        MetricUnit.COUNT,
        _gauges(courses, [_CPU[key] for key in ("load_1m", "load_5m", "load_15m")]),
        thresholds=[above(one["value"], "warning") for one in cpus if one["value"]],
    )


def disk(courses: Courses) -> Panel:
    """Return how full the fullest disk was, or where nothing was recorded, each of them."""
    return panel(
        "Disk",
        "How full the fullest of the recorded disks is.",
        "line",
        MetricUnit.PERCENT,
        _gauges(courses, [_DISK["percent"]], percent_level, by=MOUNTPOINT),
        maximum=100,
        thresholds=[above(DISK_PERCENT, "warning")],
    )


def network(courses: Courses) -> Panel:
    """Return how much passes the network."""
    recorded = courses.of_gauge(_NETWORK["bytes_sent"])
    changes = recorded.changes() if recorded is not None else []
    whole = sum(value for _, value in changes) / len(changes) if changes else None
    return panel(
        "Network",
        "Bytes per second that all interfaces sent and received together.",
        "line",
        MetricUnit.BYTES,
        [_series(_NETWORK["bytes_sent"], {}, changes, number(whole))] if changes else [],
    )


def network_totals(courses: Courses) -> Panel:
    """Return what passed the network so far."""
    return panel(
        "Network totals",
        "What all interfaces sent and received since they came up, now.",
        "table",
        MetricUnit.BYTES,
        _present(courses, [_NETWORK["bytes_sent"]]),
    )


def network_errors(courses: Courses) -> Panel:
    """Return what the network interfaces lost."""
    return panel(
        "Network errors",
        "Packets with errors and packets that were dropped since the interfaces came up, now.",
        "table",
        MetricUnit.COUNT,
        _present(courses, [_NETWORK["errors_in"], _NETWORK["drops_in"]]),
    )


# -- series ----------------------------------------------------------------------------------------------


def _is_tracked(subject: Subject) -> bool:
    return subject.metric_type is MetricType.RATE


def _is_timed(subject: Subject) -> bool:
    return subject.metric_type is MetricType.TIMER


def _series(name: object, tags: object, points: list[list[int | float]], value: int | float | None) -> Series:
    return {"name": text(name), "tags": labels(tags), "points": points, "value": value}


def _worst(subjects: Iterable[Subject], measure: Measure, limit: int) -> list[Subject]:
    """Return those with the largest numbers since the start; of equals the first by name."""
    ranked = [(measured, one) for one in subjects if (measured := measure(one.since_start)) is not None]
    ranked.sort(key=lambda item: (-item[0], str(item[1].name)))
    return [one for _, one in ranked[:limit]]


def _lines(
    courses: Courses, subjects: Iterable[Subject], measure: Measure, limit: int, *, per_second: bool = False
) -> list[Series]:
    drawn = ((one, courses.of(one)) for one in _worst(subjects, measure, limit))
    lines = [
        _series(one.name, {}, course.points(measure, per_second=per_second), measure(course.whole))
        for one, course in drawn
    ]
    return _descending(line for line in lines if line["points"])


def _bars(courses: Courses, subjects: Iterable[Subject], measure: Measure) -> list[Series]:
    bars = [
        _series(one.name, {}, [], measure(courses.of(one).whole)) for one in _worst(subjects, measure, ROWS)
    ]
    return _descending(bar for bar in bars if bar["value"] is not None)


def _descending(series: Iterable[Series]) -> list[Series]:
    return sorted(series, key=lambda one: (one["value"] is None, -(one["value"] or 0)))


def _gauges(
    courses: Courses, names: Iterable[str], measure: Measure = level, *, by: str | None = None
) -> list[Series]:
    """Return what was recorded of each gauge, or where nothing was, what the monitor reads now.

    Args:
        courses: Knows both.
        names: The gauges.
        measure: What is shown of them.
        by: The tag by which what is read now is told apart.
    """
    shown: list[Series] = []
    for name in names:
        recorded = courses.of_gauge(name)
        if recorded is not None and last(recorded) is not None:
            latest = measure({"last": last(recorded)})
            shown.append(_series(name, {}, recorded.points(measure), latest))
            continue
        for tags, value in courses.present(name):
            course = courses.of_reading(value)
            told = {by: tags[by]} if by is not None and by in tags else {}
            shown.append(_series(name, told, course.points(measure), measure(course.whole)))
    return shown[:ROWS]


def _present(courses: Courses, names: Iterable[str]) -> list[Series]:
    return [_series(name, tags, [], value) for name in names for tags, value in courses.present(name)]
