"""Asking for the course of a metric or an operation, of whoever can answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import NamedTuple, TypeVar

from metrics_framework.capabilities import History, HistoryAggregator
from metrics_framework.dashboard.plain import mapping, number
from metrics_framework.dashboard.subjects import Measure, Subject, Summary, level, subjects
from metrics_framework.errors import InvalidInputError, UnknownNameError
from metrics_framework.health import resource_sources
from metrics_framework.log import log_event
from metrics_framework.protocols import MetricsAggregator, ResourceMonitor
from metrics_framework.values import MetricType

R = TypeVar("R")


class Course(NamedTuple):
    """What happened in the window: as a whole, and interval by interval.

    Attributes:
        whole: The summary of the window.
        intervals: Where each starts and ends, in seconds since 1970, and its summary; the oldest first.
    """

    whole: Summary
    intervals: Sequence[tuple[float, float, Summary]]

    def points(self, measure: Measure, *, per_second: bool = False) -> list[list[int | float]]:
        """Return where each interval starts and its number, if it has one.

        Args:
            measure: Takes the number from a summary.
            per_second: Whether it says little of an interval that has hardly begun: then such a first or last
                one is left out.
        """
        intervals = list(self.intervals)
        if per_second:
            if len(intervals) > 1 and _is_short(intervals[-1], intervals[-2]):
                intervals.pop()
            if len(intervals) > 1 and _is_short(intervals[0], intervals[1]):
                intervals.pop(0)
        measured = ((start, measure(summary)) for start, _, summary in intervals)
        return [[moment, value] for moment, value in measured if value is not None]

    def changes(self) -> list[list[int | float]]:
        """Return where each interval starts, and how fast a gauge that is a running total grew up to it.

        Per second, between the averages of two intervals: their last values depend on how many readings a
        interval happens to have. A total that fell began anew, and says nothing.
        """
        # The first average may be of a part of its interval only.
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
            and (found := number((high - low) / (middle - before))) is not None
        ]


def _is_short(one: tuple[float, float, Summary], neighbour: tuple[float, float, Summary]) -> bool:
    return (one[1] - one[0]) * 2 < neighbour[1] - neighbour[0]


class Courses:
    """Asks an aggregator and a monitor, once each for the same thing; what fails is logged and left out.

    Args:
        aggregator: Knows what was recorded.
        monitor: Reads the machine where nothing of it was recorded.
        now: The moment of the dashboard.
        window: How far back.
        points: How many points a line may have.
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
        self._subjects: list[Subject] | None = None
        self._faulty: set[str] = set()
        self._present: dict[str, list[tuple[Mapping[str, str], float]]] | None = None

    @property
    def subjects(self) -> list[Subject]:
        """All metrics and operations: the most expensive question there is, asked at most once."""
        if self._subjects is None:
            found = self._asked("aggregator", lambda: subjects(self._aggregator.get_metrics_by_tag({})))
            self._subjects = found or []
        return self._subjects

    def of(self, subject: Subject) -> Course:
        """Return the course of a metric or an operation; from the listing alone it is since the start."""
        if isinstance(self._aggregator, HistoryAggregator):
            ask: Callable[[str, timedelta, int], History]
            if not subject.operation:
                ask = self._aggregator.get_metric_history
            elif subject.metric_type is MetricType.TIMER:
                ask = self._aggregator.get_timing_history
            else:
                ask = self._aggregator.get_outcome_history
            found = self._with_history(subject.name, ask)
        else:
            found = None if subject.operation else self._now_only(subject.name)
        return found or self._at_present(subject.since_start)

    def of_gauge(self, name: str) -> Course | None:
        """Return the course of a gauge, or ``None`` where nothing was recorded."""
        if isinstance(self._aggregator, HistoryAggregator):
            return self._with_history(name, self._aggregator.get_metric_history)
        return self._now_only(name)

    def of_reading(self, value: float) -> Course:
        """Return the course of what a monitor reads now."""
        return self._at_present({"last": value})

    def present(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the tags and the number of each gauge of a name that the monitor reads now."""
        if self._present is None:
            self._present = {}
            sources = self._asked("resource monitor", lambda: list(resource_sources(self._monitor)))
            for source in sources or ():
                for gauge, value in self._asked("resource monitor", source.take) or ():
                    read = number(value)
                    if read is not None:
                        tagged = ({**gauge.tags, **source.tags}, read / gauge.divisor)
                        self._present.setdefault(gauge.name, []).append(tagged)
        return self._present.get(name, [])

    def _with_history(self, name: str, ask: Callable[[str, timedelta, int], History]) -> Course | None:
        def course() -> Course:
            whole = ask(name, self._window, 1)[-1][2]
            intervals = ask(name, self._window, self._points)
            return Course(
                mapping(whole),
                [(start.timestamp(), end.timestamp(), mapping(summary)) for start, end, summary in intervals],
            )

        return self._asked("aggregator", course)

    def _now_only(self, name: str) -> Course | None:
        def ask() -> Summary | None:
            try:
                return mapping(self._aggregator.get_metric_summary(name, self._window))
            except InvalidInputError:  # it keeps no windows, which the contract allows
                return None

        summary = self._asked("aggregator", ask)
        return None if summary is None else self._at_present(summary)

    def _at_present(self, summary: Summary) -> Course:
        now = self._now.timestamp()
        return Course(summary, [(now, now, summary)])

    def _asked(self, part: str, question: Callable[[], R]) -> R | None:
        """Return a part's answer, or ``None`` where it has none; a dashboard logs one fault of each part."""
        try:
            return question()
        except UnknownNameError:
            return None
        except Exception as error:  # noqa: BLE001 - a part of someone else's may raise anything
            if part not in self._faulty:
                self._faulty.add(part)
                log_event("error", f"{part} did not answer a dashboard", error=repr(error))
            return None


def last(course: Course) -> int | float | None:
    """Return what a gauge is now."""
    return number(course.whole.get("last"))
