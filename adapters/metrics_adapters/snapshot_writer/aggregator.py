"""The history of snapshots as an aggregator: what was measured, run by run, and over all runs."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from metrics_adapters.ranking import largest
from metrics_adapters.snapshot_writer.entries import timestamp_of
from metrics_adapters.snapshot_writer.index import SourceIndex
from metrics_adapters.snapshot_writer.selection import Row, Selection, View, opened
from metrics_adapters.snapshot_writer.writer import DEFAULT_FOLDER
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError, UnknownMetricError, nearest
from metrics_framework.exposition import formats
from metrics_framework.log import log_event
from metrics_framework.snapshots import Environment, LeftOutFile, Run, RunValue, find_keys, parse_flat_key
from metrics_framework.snapshots.keys import SUCCESS_RATE
from metrics_framework.validation import check_choice, check_count, check_duration, plain_tags, safe_repr
from metrics_framework.values import MetricType, MetricUnit, MetricValue

QUANTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}

_RANKED_AS = {
    MetricUnit.MILLISECONDS: MetricType.TIMER,
    MetricUnit.OPERATIONS_PER_SECOND: MetricType.RATE,
}

_Point = tuple[int, float]
"""When a run took place, in microseconds since 1970, and what it measured."""


class SnapshotAggregator:
    """A `MetricsAggregator` over v1 snapshots on disk: what each run measured, and all runs together.

    A metric goes by the flat key of a measurement (``latency.p95``, ``custom.payload/size/mean``), by its
    custom key without ``custom.``, or by its name as recorded with the statistic at its end
    (``payload.size.mean``). v1 keeps no types: every measurement is a gauge that each run sets once. Numbers
    of several runs are never merged into a distribution. A summary, of runs alone, has

    - ``count``: how many values there are, one of each run that has the metric (one for each of its series);
    - ``last``: that of the newest run, also where the window is empty; not where that run has several series;
    - ``avg``, ``min``, ``max``, ``stddev`` (of the population), ``p50``, ``p90``, ``p95``, ``p99`` (nearest
      ranks): of the values, each run counting the same;
    - ``seconds``: from the edge of the window, or the oldest value, to now, or to the newest run where the
      clock of another machine is ahead. A window has no other edge: such a run is in it.

    Runs are in the order of their timestamps, those of one moment in that of their files. A run is in the
    history once, however many files hold its snapshot. Files are looked at again with each question, and
    opened if they are new or have changed: an index, a hidden file in the folder, knows the others. A file
    that is no snapshot is logged once, listed by `left_out` and left alone.

    It may be asked from any thread and in a forked child, but not in a signal handler: it reads files.

    Args:
        *sources: Folders whose ``*.json`` files are snapshots (and ``history.jsonl``, which FlameIQ keeps in
            ``.flameiq/baselines``), or single files, of which a ``.jsonl`` has one a line. ``snapshots`` by
            default. What does not exist yet is empty.
        clock: What now is.

    Raises:
        InvalidInputError: If a source is no path.
    """

    def __init__(self, *sources: str | Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._indexes = [SourceIndex(_path(source)) for source in sources or (DEFAULT_FOLDER,)]
        self._clock = clock
        self._selection = Selection()
        self._logged: set[LeftOutFile] = set()

    def where(
        self,
        *,
        branch: str | None = None,
        commit: str | None = None,
        environment: str | None = None,
        tags: Mapping[str, str] | None = None,
        last: int | None = None,
    ) -> SnapshotAggregator:
        """Return the same history with those runs alone that are all of this; it answers everything else too.

        Args:
            branch: Runs of this branch.
            commit: Runs of this commit; the first seven digits or more are enough.
            environment: Runs that took place there: ``ci``, ``local``, ``staging`` or ``custom``.
            tags: Runs whose metadata holds these tags.
            last: At most so many, the newest.

        Raises:
            InvalidInputError: If ``environment`` or ``last`` is none.

        Example:
            >>> SnapshotAggregator("no-such-folder").where(branch="main", last=10).runs()
            []
        """
        if last is not None:
            check_count("last", last)
        if environment is not None:
            check_choice("environment", environment, map(str, Environment))
        before = self._selection
        narrowed = copy(self)
        narrowed._selection = Selection(
            before.branch if branch is None else branch,
            before.commit if commit is None else commit,
            before.environment if environment is None else Environment(environment),
            {**before.tags, **plain_tags(tags)},
            before.last if last is None else last,
        )
        return narrowed

    # -- run by run ------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Return every run, oldest first."""
        with self._opened() as view:
            return [view.run(row) for row in view.rows]

    def values(self, metric: str, time_window: timedelta | None = None) -> list[RunValue]:
        """Return what each run measured of a metric, oldest first; nothing for a run that has none of it.

        Args:
            metric: Which one, by any of its names; of one with several series, all of them.
            time_window: How far back to look; ``None`` is all runs.

        Raises:
            UnknownMetricError: If no run has it.
            InvalidInputError: If the window is not positive.
        """
        edge = self._edge(time_window)
        with self._opened() as view:
            return [
                RunValue(view.run(row), key, value)
                for row, measured in self._measured(view, metric)
                if edge is None or row.moment >= edge
                for key, value in measured.items()
            ]

    def measurements(self) -> list[tuple[Run, dict[str, float]]]:
        """Return every run with all that it measured by flat key, oldest first."""
        with self._opened() as view:
            return [(view.run(row), measured) for row, measured in view.measurements()]

    def left_out(self) -> list[LeftOutFile]:
        """Return the files that look like snapshots and are none, by path."""
        with self._opened() as view:
            return view.left_out()

    # -- over runs -------------------------------------------------------------------------------------

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric over runs; see the class, and `MetricsAggregator.get_metric_summary`.

        Raises:
            UnknownMetricError: If no run has it.
            InvalidInputError: If the window is not positive.
        """
        edge = self._edge(time_window)
        with self._opened() as view:
            measured = [(row.moment, values) for row, values in self._measured(view, metric_name)]
        points = [(moment, value) for moment, values in measured for value in values.values()]
        newest = list(measured[-1][1].values())
        return _summary(points, newest[0] if len(newest) == 1 else None, self._now(), edge)

    def get_success_rate(self, operation: str, time_window: timedelta | None = None) -> float:
        """Return an operation's success rate, averaged over runs.

        Each run counts the same: v1 does not say of how many events a rate is.

        Returns:
            0.0 to 1.0; 1.0 where no run of the window has it.

        Raises:
            UnknownMetricError: If no run has a success rate of it.
            InvalidInputError: If the window is not positive.
        """
        edge = self._edge(time_window)
        with self._opened() as view:
            known = {
                key: one.name.removesuffix(f".{SUCCESS_RATE}")
                for key, one in ((key, parse_flat_key(key)) for key in view.known_keys())
                if one.operation and one.statistic == SUCCESS_RATE
            }
            keys = [key for key, name in known.items() if name == operation]
            rates = [(row.moment, rate) for row, found in view.measurements(keys) for rate in found.values()]
            if not rates:
                raise UnknownMetricError(
                    f"no success rate of {safe_repr(operation)} in {self._described(view)}."
                    f"{nearest(str(operation), {*known.values()} - {operation})}"
                )
        in_window = [rate for moment, rate in rates if edge is None or moment >= edge]
        return _mean(in_window) if in_window else 1.0

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series over runs; see `MetricsAggregator.get_metrics_by_tag`.

        A value bears the tags of its series and those of its run: a filter takes the runs that match. A
        series is listed with the tags that all of its runs have. Its ``value`` and ``timestamp`` are those of
        its newest run; its metadata holds the summary, the flat ``key`` and the ``statistic``, and
        ``operation`` where it is an operation's.
        """
        wanted = plain_tags(tag_filter).items()
        now = self._now()
        points: defaultdict[str, list[_Point]] = defaultdict(list)
        # Thousands of runs have the same few sets of tags: they are looked at once for each key.
        bears: dict[tuple[frozenset[tuple[str, str]], str], frozenset[tuple[str, str]]] = {}
        with self._opened() as view:
            for row, measured in view.measurements():
                of_run = frozenset(view.tags(row).items())
                for key, value in measured.items():
                    tags = bears.get((of_run, key))
                    if tags is None:
                        tags = frozenset({**dict(of_run), **parse_flat_key(key).tags}.items())
                        bears[of_run, key] = tags
                    if wanted <= tags:
                        points[key].append((row.moment, value))
        common: dict[str, frozenset[tuple[str, str]]] = {}
        for (_, key), tags in bears.items():
            if wanted <= tags:
                common[key] = common.get(key, tags) & tags
        return [_metric_value(key, points[key], dict(sorted(common[key])), now) for key in sorted(points)]

    def export_metrics(self, format: str = "json") -> str:
        """Return every series over runs in a text format; see `MetricsAggregator.export_metrics`.

        Args:
            format: ``json``, ``jsonl``, ``csv`` or ``prometheus`` (text format 0.0.4).
        """
        return formats.render(self.get_metrics_by_tag({}), format)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest by what the newest run says; see `MetricsAggregator.get_top_metrics`.

        `MetricType.TIMER` lists what v1 knows to be milliseconds, `MetricType.RATE` operations per second,
        and `MetricType.GAUGE` everything.
        """
        values = self.get_metrics_by_tag({})
        if metric_type is not MetricType.GAUGE:
            values = [
                replace(value, metric_type=_RANKED_AS.get(value.unit, MetricType.GAUGE)) for value in values
            ]
        return largest(values, metric_type, limit)

    # -- asking ----------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[View]:
        with opened(self._indexes, self._selection) as view:
            for file in view.left_out():
                if file not in self._logged:
                    self._logged.add(file)
                    log_event("warning", "a file is no snapshot", path=str(file.path), reason=file.reason)
            yield view

    def _measured(self, view: View, metric: str) -> list[tuple[Row, dict[str, float]]]:
        """Return the runs that have a metric, and what they measured of it by flat key.

        Raises:
            UnknownMetricError: If there are none.
        """
        known = view.known_keys()
        keys = find_keys(metric, known) if isinstance(metric, str) else []
        found = list(view.measurements(keys))
        if keys and not found:
            raise UnknownMetricError(
                f"no metric {safe_repr(metric)} in {self._described(view)}; others have it"
            )
        if not found:
            names = {parse_flat_key(key).name for key in known} | known
            raise UnknownMetricError(
                f"no metric {safe_repr(metric)} in {self._described(view)}.{nearest(str(metric), names)}"
            )
        return found

    def _described(self, view: View) -> str:
        sources = " and ".join(repr(str(index.source)) for index in self._indexes)
        number = len(view.rows)
        chosen = "" if self._selection == Selection() else "chosen "
        return f"the {number} {chosen}{'run' if number == 1 else 'runs'} of {sources}"

    def _now(self) -> int:
        return self._clock.time_ns() // 1_000

    def _edge(self, time_window: timedelta | None) -> int | None:
        if time_window is None:
            return None
        return self._now() - check_duration("time_window", time_window) // timedelta(microseconds=1)


def _path(source: object) -> Path:
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise InvalidInputError(f"source {safe_repr(source)} is no path of a folder or a file")
    return Path(source)


def _metric_value(key: str, points: Sequence[_Point], tags: dict[str, str], now: int) -> MetricValue:
    one = parse_flat_key(key)
    moment, value = points[-1]
    metadata: dict[str, Any] = {**_summary(points, value, now), "key": key}
    if one.statistic is not None:
        metadata["statistic"] = one.statistic
    if one.operation:
        metadata["operation"] = True
    return MetricValue(one.name, value, MetricType.GAUGE, one.unit, timestamp_of(moment), tags, metadata)


def _summary(
    points: Sequence[_Point], last: float | None, now: int, edge: int | None = None
) -> dict[str, float]:
    """Summarize values in the order of their runs.

    Args:
        points: All values, at least one.
        last: What the newest run says, if it is one value.
        now: In microseconds since 1970, as is the next.
        edge: Where the window begins; ``None`` for where the values do.
    """
    begin = points[0][0] if edge is None else edge
    # The clocks of two machines differ: what a summary covers ends with the later of them.
    summary: dict[str, float] = {"count": 0, "seconds": max(now - begin, points[-1][0] - begin) / 1e6}
    if last is not None:
        summary["last"] = last
    values = sorted(value for moment, value in points if moment >= begin)
    if not values:
        return summary
    number = len(values)
    # Rounding may carry a mean of equal values past them.
    average = min(max(_mean(values), values[0]), values[-1])
    summary |= {
        "count": number,
        "avg": average,
        "min": values[0],
        "max": values[-1],
        # Not by squares, which are too large to hold long before the values are.
        "stddev": math.hypot(*[(value - average) / math.sqrt(number) for value in values]),
    }
    return summary | {name: values[-(-number * share // 100) - 1] for name, share in QUANTILES.items()}


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum is more than a float holds; the mean never is
        return math.fsum(value / len(values) for value in values)
