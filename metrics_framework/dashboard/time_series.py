"""Reads the time series of metrics and operations from an aggregator, and current values from a monitor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from metrics_framework.capabilities import DistributionAggregator, HistoryAggregator
from metrics_framework.dashboard.metric_views import (
    Measure,
    MetricView,
    Summary,
    level,
    metric_views,
    to_mapping,
    to_number,
    views_of_readings,
)
from metrics_framework.errors import InvalidInputError, UnknownNameError
from metrics_framework.health import resource_sources
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.recording import Distribution, History
from metrics_framework.recording.store import store_of
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.values import MetricType

R = TypeVar("R")


class TimeSeries(NamedTuple):
    """The summaries of a time window and of its intervals.

    Attributes:
        whole: The summary of the window.
        intervals: The start and the end in seconds since 1970, and the summary, of each; oldest first.
        distributions: The distribution of each interval, if it is known.
    """

    whole: Summary
    intervals: Sequence[tuple[float, float, Summary]]
    distributions: Sequence[Distribution | None] = ()

    @property
    def last(self) -> int | float | None:
        """The last value of a gauge."""
        return to_number(self.whole.get("last"))

    def points(self, measure: Measure, *, per_second: bool = False) -> list[list[int | float]]:
        """Return the start and the number of each interval that has one.

        Args:
            measure: Takes the number from a summary.
            per_second: Whether the number is a rate, which is not meaningful for a short interval: the first
                or last interval is left out if it has less than half the length of its neighbour.
        """
        intervals = list(self.intervals)
        if per_second:
            if len(intervals) > 1 and _is_short(intervals[-1], intervals[-2]):
                intervals.pop()
            if len(intervals) > 1 and _is_short(intervals[0], intervals[1]):
                intervals.pop(0)
        measured = ((start, measure(summary)) for start, _, summary in intervals)
        return [[start, value] for start, value in measured if value is not None]

    def increases(self) -> list[list[int | float]]:
        """Return the start of each interval, and the increase per second of a gauge that is a running total.

        The increase is between the averages of two intervals, because their last values depend on when the
        gauge was read. A total that decreased was reset, and has no increase.
        """
        # The first average may cover only a part of its interval.
        averages = [
            (start, (start + end) / 2, value)
            for start, end, summary in self.intervals[1:]
            if (value := level(summary)) is not None
        ]
        return [
            [start, found]
            for (_, before, low), (start, middle, high) in pairwise(averages)
            if high >= low
            and middle > before
            and (found := to_number((high - low) / (middle - before))) is not None
        ]


def _is_short(one: tuple[float, float, Summary], neighbour: tuple[float, float, Summary]) -> bool:
    return (one[1] - one[0]) * 2 < neighbour[1] - neighbour[0]


_NOTHING = TimeSeries({}, [])


class TimeSeriesReader:
    """Reads an aggregator and a monitor for one dashboard. Errors are logged, and their values left out.

    Args:
        aggregator: Provides recorded values.
        monitor: Provides the current values of resources that were not recorded.
        now: The time of the dashboard.
        window: How far back to read.
        points: The maximum number of points of a line.
        tags: Only series that carry these tags are read; gauges that have none of them are not affected.

    Attributes:
        store: The store of the aggregator, if it has one.
        tags: The tags.
        refusals: Why series could not be read by tags, since the list was cleared last.
    """

    def __init__(
        self,
        aggregator: MetricsAggregator,
        monitor: ResourceMonitor,
        now: datetime,
        window: timedelta,
        points: int,
        tags: Mapping[str, str],
    ) -> None:
        self._aggregator = aggregator
        self._monitor = monitor
        self._now = now
        self._window = window
        self._points = points
        self.tags = tags
        self.refusals: list[str] = []
        self._failed_parts: set[str] = set()
        self.store = self.attempt("aggregator", lambda: store_of(aggregator))
        self._time_series: dict[tuple[str, MetricType, bool, int], TimeSeries | None] = {}
        self._refused: dict[tuple[str, MetricType, bool, int], list[str]] = {}
        self._current: dict[str, list[tuple[Mapping[str, str], float]]] | None = None

    @cached_property
    def every_view(self) -> list[MetricView]:
        """All metrics and operations. They are listed once, because listing is expensive."""
        return self.attempt("aggregator", self._list) or []

    def _list(self) -> list[MetricView]:
        if isinstance(self._aggregator, DistributionAggregator):
            return views_of_readings(self._aggregator.read())
        return metric_views(self._aggregator.get_metrics_by_tag({}))

    @cached_property
    def views(self) -> list[MetricView]:
        """The metrics and operations with the series that carry the tags."""
        if not self.tags:
            return self.every_view
        return [view for every in self.every_view if (view := every.matching(self.tags)).series]

    @property
    def now_seconds(self) -> float:
        """The time of the dashboard, in seconds since 1970."""
        return self._now.timestamp()

    @property
    def knows_tags(self) -> bool:
        """Whether windows by tag are known."""
        return isinstance(self._aggregator, HistoryAggregator)

    def read(self, view: MetricView) -> TimeSeries:
        """Return the time series of a metric or operation, or its values since the start if it has none.

        Each is read once, so that all panels of a dashboard show the same records. If it is refused by these
        tags, it is empty.
        """
        return self._read_once(view, self._points)

    def read_whole(self, view: MetricView) -> Summary:
        """Return the summary of the window: that of `read` if it was called, with the same records."""
        key = (view.name, view.metric_type, view.operation, self._points)
        is_read = self._time_series.get(key) is not None
        return self._read_once(view, self._points if is_read else 1).whole

    def _read_once(self, view: MetricView, points: int) -> TimeSeries:
        key = (view.name, view.metric_type, view.operation, points)
        if key not in self._time_series:
            yield_gil()
            before = len(self.refusals)
            self._time_series[key] = self._read(view, self.tags, points)
            self._refused[key] = self.refusals[before:]
        else:
            self.refusals += self._refused[key]
        return self._time_series[key] or _NOTHING

    def read_series(self, view: MetricView, tags: Mapping[str, str], source: Any) -> Summary:
        """Return the summary of the window of the records with some tags, or since the start."""
        yield_gil()
        if not self.knows_tags:
            return view.summary_of(source)
        found = self._read(view, tags, 1)
        return {} if found is None else found.whole

    def _read(self, view: MetricView, tags: Mapping[str, str], points: int) -> TimeSeries | None:
        """Return a time series, or ``None`` if it is refused by these tags."""
        if isinstance(self._aggregator, HistoryAggregator):
            get: Callable[..., History]
            if not view.operation:
                get = self._aggregator.get_metric_history
            elif view.metric_type is MetricType.TIMER:
                get = self._aggregator.get_timing_history
            else:
                get = self._aggregator.get_outcome_history
            before = len(self.refusals)
            found = self._read_history(view.name, get, tags, points)
            if len(self.refusals) > before:
                return None
        else:
            found = None if view.operation or tags else self._read_summary(view.name)
        return found or self._single_point(view.since_start)

    def read_gauge(self, name: str) -> TimeSeries | None:
        """Return the time series of a gauge, or ``None`` if it was not recorded, or is refused."""
        if isinstance(self._aggregator, HistoryAggregator):
            tags = self._tags_of_gauge(name) if self.tags else {}
            return self._read_history(name, self._aggregator.get_metric_history, tags, self._points)
        return self._read_summary(name)

    def filters_gauge(self, name: str) -> bool:
        """Return whether a gauge has series with one of the tags that are wanted."""
        return bool(self.tags and self._tags_of_gauge(name))

    def _tags_of_gauge(self, name: str) -> dict[str, str]:
        """Return those of the tags that a series of the gauge has."""
        known = {
            tag
            for view in self.every_view
            if view.name == name and not view.operation
            for tags, _ in view.series
            for tag in tags
        }
        return {tag: value for tag, value in self.tags.items() if tag in known}

    def from_reading(self, value: float) -> TimeSeries:
        """Return the time series of a current value of the monitor."""
        return self._single_point({"last": value})

    def current_values(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the tags and the value of each gauge with a name that the monitor reads now."""
        if self._current is None:
            self._current = {}
            sources = self.attempt("resource monitor", lambda: list(resource_sources(self._monitor)))
            for source in sources or ():
                for gauge, value in self.attempt("resource monitor", source.take) or ():
                    number = to_number(value)
                    if number is not None:
                        tagged = ({**gauge.tags, **source.tags}, number / gauge.divisor)
                        self._current.setdefault(gauge.name, []).append(tagged)
        return self._current.get(name, [])

    def _read_history(
        self, name: str, get: Callable[..., History], tags: Mapping[str, str], points: int
    ) -> TimeSeries | None:
        def read() -> TimeSeries:
            try:
                found = (
                    get(name, self._window, points, tags=tags) if tags else get(name, self._window, points)
                )
            except UnknownNameError:
                raise
            except InvalidInputError as error:
                if not tags:
                    raise
                self.refusals.append(str(error))
                return _NOTHING
            return TimeSeries(
                to_mapping(found.whole.summary),
                [
                    (one.start.timestamp(), one.end.timestamp(), to_mapping(one.summary))
                    for one in found.intervals
                ],
                [one.distribution for one in found.intervals],
            )

        return self.attempt("aggregator", read)

    def _read_summary(self, name: str) -> TimeSeries | None:
        def read() -> Summary | None:
            try:
                return to_mapping(self._aggregator.get_metric_summary(name, self._window))
            except InvalidInputError:  # the contract allows an aggregator without time windows
                return None

        summary = self.attempt("aggregator", read)
        return None if summary is None else self._single_point(summary)

    def _single_point(self, summary: Summary) -> TimeSeries:
        now = self._now.timestamp()
        return TimeSeries(summary, [(now, now, summary)])

    def attempt(self, part: str, read: Callable[[], R]) -> R | None:
        """Return what a part returns, or ``None`` if it fails. The first error of each part is logged."""
        try:
            return read()
        except UnknownNameError:
            return None
        except Exception as error:  # noqa: BLE001 - a third-party part may raise anything
            if part not in self._failed_parts:
                self._failed_parts.add(part)
                log_event("error", f"{part} did not answer a dashboard", error=repr(error))
            return None
