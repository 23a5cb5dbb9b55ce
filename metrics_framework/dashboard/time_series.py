"""Reads the time series of metrics and operations from an aggregator, and current values from a monitor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, TypeVar

from metrics_framework.capabilities import HistoryAggregator
from metrics_framework.dashboard.metric_views import (
    Measure,
    MetricView,
    Summary,
    level,
    metric_views,
    to_mapping,
    to_number,
)
from metrics_framework.errors import InvalidInputError, UnknownNameError
from metrics_framework.health import resource_sources
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.recording import History
from metrics_framework.values import MetricType

R = TypeVar("R")


class TimeSeries(NamedTuple):
    """The summaries of a time window and of its intervals.

    Attributes:
        whole: The summary of the window.
        intervals: The start and the end in seconds since 1970, and the summary, of each; oldest first.
    """

    whole: Summary
    intervals: Sequence[tuple[float, float, Summary]]

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


class TimeSeriesReader:
    """Reads an aggregator and a monitor for one dashboard. Errors are logged, and their values left out.

    Args:
        aggregator: Provides recorded values.
        monitor: Provides the current values of resources that were not recorded.
        now: The time of the dashboard.
        window: How far back to read.
        points: The maximum number of points of a line.
    """

    def __init__(
        self,
        aggregator: MetricsAggregator,
        monitor: ResourceMonitor,
        now: datetime,
        window: timedelta,
        points: int,
    ) -> None:
        self._aggregator = aggregator
        self._monitor = monitor
        self._now = now
        self._window = window
        self._points = points
        self._views: list[MetricView] | None = None
        self._time_series: dict[tuple[str, MetricType, bool], TimeSeries] = {}
        self._failed_parts: set[str] = set()
        self._current: dict[str, list[tuple[Mapping[str, str], float]]] | None = None

    @property
    def views(self) -> list[MetricView]:
        """All metrics and operations. They are listed at most once, because listing is expensive."""
        if self._views is None:
            found = self._try("aggregator", lambda: metric_views(self._aggregator.get_metrics_by_tag({})))
            self._views = found or []
        return self._views

    def read(self, view: MetricView) -> TimeSeries:
        """Return the time series of a metric or operation, or its values since the start if it has none.

        Each is read once, so that all panels of a dashboard show the same records.
        """
        key = (view.name, view.metric_type, view.operation)
        if key not in self._time_series:
            self._time_series[key] = self._read(view)
        return self._time_series[key]

    def _read(self, view: MetricView) -> TimeSeries:
        if isinstance(self._aggregator, HistoryAggregator):
            get: Callable[[str, timedelta, int], History]
            if not view.operation:
                get = self._aggregator.get_metric_history
            elif view.metric_type is MetricType.TIMER:
                get = self._aggregator.get_timing_history
            else:
                get = self._aggregator.get_outcome_history
            found = self._read_history(view.name, get)
        else:
            found = None if view.operation else self._read_summary(view.name)
        return found or self._single_point(view.since_start)

    def read_gauge(self, name: str) -> TimeSeries | None:
        """Return the time series of a gauge, or ``None`` if it was not recorded."""
        if isinstance(self._aggregator, HistoryAggregator):
            return self._read_history(name, self._aggregator.get_metric_history)
        return self._read_summary(name)

    def from_reading(self, value: float) -> TimeSeries:
        """Return the time series of a current value of the monitor."""
        return self._single_point({"last": value})

    def current_values(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the tags and the value of each gauge with a name that the monitor reads now."""
        if self._current is None:
            self._current = {}
            sources = self._try("resource monitor", lambda: list(resource_sources(self._monitor)))
            for source in sources or ():
                for gauge, value in self._try("resource monitor", source.take) or ():
                    number = to_number(value)
                    if number is not None:
                        tagged = ({**gauge.tags, **source.tags}, number / gauge.divisor)
                        self._current.setdefault(gauge.name, []).append(tagged)
        return self._current.get(name, [])

    def _read_history(self, name: str, get: Callable[[str, timedelta, int], History]) -> TimeSeries | None:
        def read() -> TimeSeries:
            (_, _, whole), intervals = get(name, self._window, self._points)
            return TimeSeries(
                to_mapping(whole),
                [(start.timestamp(), end.timestamp(), to_mapping(one)) for start, end, one in intervals],
            )

        return self._try("aggregator", read)

    def _read_summary(self, name: str) -> TimeSeries | None:
        def read() -> Summary | None:
            try:
                return to_mapping(self._aggregator.get_metric_summary(name, self._window))
            except InvalidInputError:  # the contract allows an aggregator without time windows
                return None

        summary = self._try("aggregator", read)
        return None if summary is None else self._single_point(summary)

    def _single_point(self, summary: Summary) -> TimeSeries:
        now = self._now.timestamp()
        return TimeSeries(summary, [(now, now, summary)])

    def _try(self, part: str, read: Callable[[], R]) -> R | None:
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
