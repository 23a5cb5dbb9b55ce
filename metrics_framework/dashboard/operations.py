"""Panels of operations, timers, counters and histograms.

They show rate, errors and duration (Tom Wilkie's RED method).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import partial
from heapq import nlargest
from typing import Any

from metrics_framework.dashboard.heat_map import heat_map_cells
from metrics_framework.dashboard.metric_views import (
    MetricView,
    Summary,
    all_outcomes,
    error_percent,
    failures_per_second,
    p50,
    p95,
    p99,
    rate,
    to_mapping,
    to_number,
    total,
)
from metrics_framework.dashboard.panels import (
    MAX_ROWS,
    Column,
    Panel,
    PanelSeries,
    above,
    bars,
    largest,
    lines,
    one_series,
    panel,
    table_row,
)
from metrics_framework.dashboard.time_series import TimeSeriesReader
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.values import MetricType, MetricUnit

MAX_HEAT_MAPS = 3
"""Maximum number of operations of a heat map: one has up to 1 440 cells."""

PERCENTILES = {"p50": p50, "p95": p95, "p99": p99}

OPERATION_COLUMNS = (
    Column("rate", "Per second", MetricUnit.OPERATIONS_PER_SECOND, rate),
    *(Column(name, name, MetricUnit.MILLISECONDS, measure) for name, measure in PERCENTILES.items()),
    Column("failures", "Failures", MetricUnit.PERCENT, error_percent),
)


def throughput(reader: TimeSeriesReader) -> Panel:
    """Return the events per second of the busiest operations, timers and counters.

    Counters that are named after an operation, such as ``batch.file.samples``, count its items: there can be
    thousands in each event, so they would hide all other lines.
    """
    tracked = {view.name for view in reader.views if is_tracked(view)}
    busy = [
        view
        for view in reader.views
        if is_tracked(view)
        or (is_timed(view) and view.name not in tracked)
        or (
            view.metric_type is MetricType.COUNTER
            and view.unit is MetricUnit.COUNT
            and view.name.rpartition(".")[0] not in tracked
        )
    ]
    return panel(
        "Throughput",
        "Events per second of the busiest operations, timers and counters since the start.",
        "line",
        MetricUnit.OPERATIONS_PER_SECOND,
        lines(reader, busy, rate, per_second=True),
    )


def error_rates(reader: TimeSeriesReader, threshold: float) -> Panel:
    """Return the error rate of the operations that fail most often."""
    return panel(
        "Error rate",
        "Share of failures of the operations that failed most often since the start.",
        "line",
        MetricUnit.PERCENT,
        lines(reader, filter(is_tracked, reader.views), error_percent),
        maximum=100,
        thresholds=[above(threshold)],
    )


def overall_error_rate(reader: TimeSeriesReader, threshold: float) -> Panel:
    """Return the error rate of all operations since the start."""
    tracked = [view.since_start for view in reader.views if is_tracked(view)]
    share = error_percent(all_outcomes(tracked)) if tracked else None
    return panel(
        "Errors overall",
        "Share of failures of all operations since the start.",
        "stat",
        MetricUnit.PERCENT,
        [] if share is None else [one_series("all operations", {}, [], share)],
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
        lines(reader, filter(is_tracked, reader.views), failures_per_second, per_second=True),
    )


def failures_by_kind(reader: TimeSeriesReader, views: Iterable[MetricView] | None = None) -> Panel:
    """Return the most frequent error types in the window.

    Args:
        reader: Reads the failures.
        views: The outcomes of some operations; by default of all.
    """
    tracked = filter(is_tracked, reader.views) if views is None else views
    failing = largest(tracked, failures_per_second, MAX_ROWS)
    rows = [
        one_series(view.name, {"error_type": error_type}, [], to_number(count))
        for view in failing
        for error_type, count in to_mapping(reader.read_whole(view).get("failures")).items()
        if to_number(count)
    ]
    most = sorted(rows, key=lambda row: -(row["value"] or 0))[:MAX_ROWS]
    return panel("Failures by kind", "Failures by error type.", "table", MetricUnit.COUNT, most)


def recent_failures(reader: TimeSeriesReader, now: datetime) -> list[Panel]:
    """Return the last failures, if they are known: only the process itself keeps them, without tags."""
    store = reader.store
    if store is None or store.others is not None or reader.tags:
        return []
    age = Column("age", "Age", MetricUnit.SECONDS, lambda summary: to_number(summary.get("age")))
    rows = [
        table_row(name, {"error_type": failure.error_type}, [age], {"age": _age(now, failure.timestamp)})
        for name, failure in store.last_failures(MAX_ROWS)
    ]
    return [panel("Recent failures", "The last failures.", "table", age.unit, rows, columns=[age])]


def _age(now: datetime, then: datetime) -> float:
    return max(0.0, round((now - then).total_seconds(), 3))


def durations(reader: TimeSeriesReader) -> Panel:
    """Return the 95th percentile of the slowest operations and timers."""
    return panel(
        "Duration, p95",
        "95 % of the durations are shorter: the slowest operations and timers since the start.",
        "line",
        MetricUnit.MILLISECONDS,
        lines(reader, filter(is_timed, reader.views), p95),
    )


def percentiles(reader: TimeSeriesReader, views: Iterable[MetricView] | None = None) -> Panel:
    """Return the percentiles of the operation or timer with the most time.

    Args:
        reader: Reads the durations.
        views: The durations to choose from; by default all.
    """
    timed = filter(is_timed, reader.views) if views is None else views
    found: list[PanelSeries] = []
    title = "Percentiles"
    for view in largest(timed, total, 1):
        series = reader.read(view)
        title = f"Percentiles, {view.name}"
        drawn = [
            one_series(name, {}, series.points(measure), measure(series.whole))
            for name, measure in PERCENTILES.items()
        ]
        found = [line for line in drawn if line["points"]]
    return panel(
        title,
        "Durations that 50 %, 95 % and 99 % do not exceed: the operation or timer with the most time since"
        " the start.",
        "line",
        MetricUnit.MILLISECONDS,
        found,
        panel_id="percentiles",
    )


def latency_heat_map(reader: TimeSeriesReader) -> Panel:
    """Return the counts of durations by time and duration."""
    found: list[PanelSeries] = []
    for view in largest(filter(is_timed, reader.views), total, MAX_HEAT_MAPS):
        series = reader.read(view)
        columns = [
            (start, end, distribution)
            for (start, end, _), distribution in zip(series.intervals, series.distributions, strict=False)
        ]
        cells = reader.attempt("aggregator", partial(heat_map_cells, columns))
        if cells:
            number = int(sum(cell[4] for cell in cells))
            found.append({**one_series(view.name, {}, [], number), "cells": cells})
    return panel(
        "Latency heat map",
        "Number of durations by time and duration: the operations and timers with the most time since the"
        " start.",
        "heatmap",
        MetricUnit.MILLISECONDS,
        found,
    )


def top_operations(reader: TimeSeriesReader) -> Panel:
    """Return the operations and timers with the most records since the start, by their tags.

    Only their windows are read: one of them takes as long as the choice among a hundred series.
    """
    found: dict[tuple[str, frozenset[tuple[str, str]]], dict[bool, tuple[MetricView, Any]]] = {}
    counts: dict[tuple[str, frozenset[tuple[str, str]]], int | float] = {}
    for view in reader.views:
        if not (is_timed(view) or is_tracked(view)):
            continue
        for count, _, tags, source in nlargest(MAX_ROWS, _counted(view), key=lambda one: one[0]):
            key = (view.name, frozenset(tags.items()))
            found.setdefault(key, {})[is_timed(view)] = (view, source)
            counts[key] = max(count, counts.get(key, 0))
    rows: list[PanelSeries] = []
    for name, pairs in sorted(found, key=lambda key: (-counts[key], str(key[0])))[:MAX_ROWS]:
        summary: dict[str, Any] = {}
        for is_duration in (True, False):
            known = found[name, pairs].get(is_duration)
            if known is not None:
                view, source = known
                read = reader.read_series(view, dict(pairs), source)
                summary |= {key: number for key, number in read.items() if key != "count" or not is_duration}
        rows.append(table_row(name, dict(sorted(pairs)), OPERATION_COLUMNS, summary))
    rows.sort(key=lambda row: (row["value"] is None, -(row["value"] or 0)))
    return panel(
        "Top operations",
        "Operations and timers with the most records since the start, by their tags. A row counts all records"
        " with these tags.",
        "table",
        MetricUnit.OPERATIONS_PER_SECOND,
        rows,
        columns=OPERATION_COLUMNS,
    )


def _counted(view: MetricView) -> Iterable[tuple[int | float, int, Mapping[str, str], Any]]:
    for place, (tags, source) in enumerate(view.series):
        yield_gil()
        yield view.count_of(source), place, tags, source


def time_spent(reader: TimeSeriesReader) -> Panel:
    """Return the total time of operations and timers."""
    return panel(
        "Time spent",
        "Sum of all durations in the window: the first place to optimize.",
        "bar",
        MetricUnit.MILLISECONDS,
        bars(reader, filter(is_timed, reader.views), total),
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
            bars(reader, [view for view in histograms if view.unit is unit], p95),
        )
        for unit in MetricUnit
        if any(view.unit is unit for view in histograms)
    ]


# -- batch jobs ------------------------------------------------------------------------------------------

BATCH = "batch.file"
"""The operation of `BatchMetrics` by default."""

_DONE, _FAILED, _SKIPPED = "done", "failed", "skipped"


class Batches:
    """The batch jobs that `BatchMetrics` records: a timer and outcomes of one name, and counters.

    Args:
        reader: Reads them.
    """

    def __init__(self, reader: TimeSeriesReader) -> None:
        self._reader = reader
        known = {(view.name, view.metric_type): view for view in reader.views if not is_operation_timer(view)}
        timers = {name for name, metric_type in known if metric_type is MetricType.TIMER}
        self._names = [
            name
            for name in dict.fromkeys(name for name, _ in known)
            if name == BATCH or (name in timers and (name, MetricType.RATE) in known)
        ]
        if BATCH not in self._names and (f"{BATCH}.skipped", MetricType.COUNTER) in known:
            self._names.append(BATCH)  # all files were skipped so far
        self._known = known

    def panels(self) -> list[Panel]:
        """Return the panels of the dashboard."""
        reader = self._reader
        counts = [self._since_start(name) for name in self._names]
        stats = [
            panel(
                f"Files {what}",
                "Number of files since the start.",
                "stat",
                MetricUnit.COUNT,
                [one_series(what, {}, [], to_number(sum(one[what] for one in counts)))] if counts else [],
            )
            for what in (_DONE, _FAILED, _SKIPPED)
        ]
        outcomes, timers = self._views(MetricType.RATE), self._views(MetricType.TIMER)
        samples = self._views(MetricType.COUNTER, ".samples")
        return [
            *stats,
            panel(
                "Files per second",
                "Files that were done or failed, per second.",
                "line",
                MetricUnit.OPERATIONS_PER_SECOND,
                lines(reader, outcomes, rate, per_second=True),
            ),
            percentiles(reader, timers),
            panel(
                "Samples",
                "Samples per second.",
                "line",
                MetricUnit.OPERATIONS_PER_SECOND,
                lines(reader, samples, rate, per_second=True),
            ),
            self._table(),
            failures_by_kind(reader, outcomes),
        ]

    def _views(self, metric_type: MetricType, ending: str = "") -> list[MetricView]:
        views = (self._known.get((f"{name}{ending}", metric_type)) for name in self._names)
        return [view for view in views if view is not None]

    def _since_start(self, name: str) -> dict[str, int | float]:
        tracked = self._known.get((name, MetricType.RATE))
        skipped = self._known.get((f"{name}.skipped", MetricType.COUNTER))
        found = _files({} if tracked is None else tracked.since_start)
        return {**found, _SKIPPED: 0 if skipped is None else total(skipped.since_start) or 0}

    def _table(self) -> Panel:
        columns = [
            Column("rate", "Per second", MetricUnit.OPERATIONS_PER_SECOND, rate),
            *(_counted_column(what) for what in (_DONE, _FAILED, _SKIPPED, "samples", "measurements")),
            *OPERATION_COLUMNS[1:4],
        ]
        rows: list[PanelSeries] = []
        for name in self._names[:MAX_ROWS]:
            summary: dict[str, Any] = dict(self._whole(name, MetricType.TIMER))
            outcomes = self._whole(name, MetricType.RATE)
            summary |= {**outcomes, **_files(outcomes)}
            for what in (_SKIPPED, "samples", "measurements"):
                summary[what] = self._whole(f"{name}.{what}", MetricType.COUNTER).get("sum", 0)
            rows.append(table_row(name, {}, columns, summary))
        return panel(
            "Batches",
            "Files in the window by operation.",
            "table",
            MetricUnit.OPERATIONS_PER_SECOND,
            sorted(rows, key=lambda row: (row["value"] is None, -(row["value"] or 0))),
            columns=columns,
        )

    def _whole(self, name: str, metric_type: MetricType) -> Summary:
        view = self._known.get((name, metric_type))
        return {} if view is None else self._reader.read_whole(view)


def _files(outcomes: Summary) -> dict[str, int | float]:
    failed = sum(to_number(count) or 0 for count in to_mapping(outcomes.get("failures")).values())
    return {_DONE: max((to_number(outcomes.get("count")) or 0) - failed, 0), _FAILED: failed}


def _counted_column(what: str) -> Column:
    return Column(what, what.capitalize(), MetricUnit.COUNT, lambda summary: to_number(summary.get(what)))


# -- kinds of views --------------------------------------------------------------------------------------


def is_tracked(view: MetricView) -> bool:
    """Return whether a view is the outcomes of an operation."""
    return view.metric_type is MetricType.RATE


def is_timed(view: MetricView) -> bool:
    """Return whether a view is a timer, or the durations of an operation."""
    return view.metric_type is MetricType.TIMER


def is_operation_timer(view: MetricView) -> bool:
    """Return whether a view is the durations of an operation."""
    return is_timed(view) and view.operation
