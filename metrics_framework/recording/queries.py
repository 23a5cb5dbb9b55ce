"""Queries: the methods of a store that read its numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import reduce
from typing import Any

from metrics_framework.clock import Clock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError, nearest
from metrics_framework.recording import engine
from metrics_framework.recording.aggregates import Summary, per_second
from metrics_framework.recording.buckets import BucketCounts
from metrics_framework.recording.engine import Core, Distribution, Series
from metrics_framework.recording.metric import COUNTER, HISTOGRAM, KINDS, OUTCOMES, TIMER, Metric
from metrics_framework.recording.namespaces import Namespace
from metrics_framework.recording.results import (
    Failure,
    OutcomeReading,
    RawFailure,
    SeriesDistribution,
    SeriesReading,
)
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.state import (
    Description,
    Named,
    StoreState,
    nanoseconds,
)
from metrics_framework.recording.windows import Interval, Window, split
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.validation import check_count, check_duration, plain_tags


class Queries:
    """The reading half of a `Store`: its metrics, timed operations and tracked operations.

    Args:
        state: Shared by the three.
        rules: Change names and tags before anything is recorded.
    """

    def __init__(self, state: StoreState, rules: Sequence[Rule]) -> None:
        self.clock: Clock = state.clock
        self.core: Core = state.core
        self.tags = state.tags
        self._state = state
        self._metrics = Namespace(state, "metric", "recorded", KINDS.values(), rules)
        self._timings = Namespace(state, "operation", "timed", [TIMER], rules)
        self._outcomes = Namespace(state, "operation", "tracked", [OUTCOMES], rules)
        state.cardinality.count_series = lambda: self.series_count
        self._recent: dict[str, deque[RawFailure]] = {}

    @property
    def retention(self) -> timedelta:
        """The maximum length of a time window. Older records remain in totals only."""
        return timedelta(microseconds=self._state.retention_ns // 1_000)

    @retention.setter
    def retention(self, retention: timedelta) -> None:
        self._state.retention_ns = nanoseconds(check_duration("retention", retention))

    def description(self, name: str) -> Description:
        """Return the description of a metric, or the defaults."""
        return self._state.describe(name)

    def summary(
        self, name: str, window: timedelta | None = None, tags: Mapping[str, str] | None = None
    ) -> Summary:
        """Summarize a metric over all of its series, or over those that carry some tags.

        Windows by tag are exact for the ``seconds`` that they report. Tags in ``window_by`` of the
        description have windows over the whole retention. Other tags have windows of up to one hour, which
        begin at multiples of 16 seconds or more; a gauge has them only if one series carries the tags.

        Args:
            name: The metric.
            window: How far back; ``None`` is since the start.
            tags: Tags that series carry, besides others.

        Raises:
            UnknownMetricError: If it was never recorded.
            InvalidInputError: If the window is not positive, longer than the retention, or not known by
                these tags.
        """
        self._tidy()
        metric, wanted = self._known(self._metrics, name), plain_tags(tags)
        summary = metric.kind.summarize(self._window(metric, window, wanted))
        if metric.kind is COUNTER:
            summary["total"] = metric.window(None, wanted).aggregate.value
        return summary

    def timing_summary(
        self, operation: str, window: timedelta | None = None, tags: Mapping[str, str] | None = None
    ) -> Summary:
        """Summarize an operation's durations in milliseconds; see `summary`.

        Raises:
            UnknownMetricError: If it was never timed.
            InvalidInputError: If the window is not positive, longer than the retention, or not known by
                these tags.
        """
        self._tidy()
        metric = self._known(self._timings, operation)
        return metric.kind.summarize(self._window(metric, window, plain_tags(tags)))

    def outcomes(
        self, operation: str, window: timedelta | None = None, tags: Mapping[str, str] | None = None
    ) -> OutcomeReading:
        """Return how an operation ended; see `summary` for windows by tag.

        Raises:
            UnknownMetricError: If it was never tracked.
            InvalidInputError: If the window is not positive, longer than the retention, or not known by
                these tags.
        """
        self._tidy()
        wanted = plain_tags(tags)
        return OutcomeReading.of(
            operation, wanted, self._window(self._known(self._outcomes, operation), window, wanted)
        )

    def history(self, name: str, window: timedelta | None, points: int) -> list[Interval]:
        """Return the time series of a metric over all of its series.

        Args:
            name: The metric.
            window: How far back; ``None`` is since the start, or as far as the retention.
            points: The maximum number of intervals; 1 returns the whole window, like `summary`.

        Returns:
            Intervals without gaps between them, the oldest first, from the first record on; the first is the
            one that the older edge of the window lies in. They lie on multiples of a power of two of
            seconds and are equally wide, except that older ones are wider where time slots are. Each has a
            summary with the keys of `summary`, whose ``total`` is the counter's at the end of the interval.

        Raises:
            UnknownMetricError: If it was never recorded.
            InvalidInputError: If the window is not positive or longer than the retention, or ``points`` is
                not a whole number of 1 or more.
        """
        return self._history(self._metrics, name, window, points)

    def timing_history(self, operation: str, window: timedelta | None, points: int) -> list[Interval]:
        """Return the time series of an operation's durations in milliseconds; see `history`.

        Raises:
            UnknownMetricError: If it was never timed.
        """
        return self._history(self._timings, operation, window, points)

    def outcome_history(self, operation: str, window: timedelta | None, points: int) -> list[Interval]:
        """Return the time series of how an operation ended; see `history`.

        A summary has ``count``, ``seconds``, ``rate``, ``successes``, ``failures`` by error type, and
        ``success_rate``.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        return self._history(self._outcomes, operation, window, points)

    def outcomes_by_operation(self, window: timedelta | None = None) -> list[OutcomeReading]:
        """Return how each tracked operation ended, over all of its tags.

        Raises:
            InvalidInputError: If the window is not positive, or longer than the retention.
        """
        self._tidy()
        return [
            OutcomeReading.of(metric.name, {}, self._window(metric, window))
            for metric in self._outcomes.metrics()
        ]

    def recent_failures(self, operation: str) -> list[Failure]:
        """Return an operation's last failures, the newest last.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        self._tidy()
        self._known(self._outcomes, operation)
        return [
            Failure(raw.error_type, raw.metadata, datetime.fromtimestamp(raw.time_ns / 1e9, tz=UTC))
            for raw in list(self._recent.get(operation, ()))
        ]

    def readings(self) -> list[SeriesReading]:
        """Return every series of every metric since the start."""
        return list(self.iter_readings())

    def iter_readings(self) -> Iterator[SeriesReading]:
        """Yield what `readings` returns, one at a time, which keeps the garbage collector idle."""
        return self._series_readings(self._metrics)

    def timing_readings(self) -> list[SeriesReading]:
        """Return the durations of every operation since the start, by tags."""
        return list(self.iter_timing_readings())

    def iter_timing_readings(self) -> Iterator[SeriesReading]:
        """Yield what `timing_readings` returns, one at a time."""
        return self._series_readings(self._timings)

    def outcome_readings(self) -> list[OutcomeReading]:
        """Return the outcomes of every operation since the start, by tags."""
        return list(self.iter_outcome_readings())

    def iter_outcome_readings(self) -> Iterator[OutcomeReading]:
        """Yield what `outcome_readings` returns, one at a time."""
        for metric, series, window, _ in self._every_series(self._outcomes):
            yield OutcomeReading.of(metric.name, {**self.tags, **series.tags}, window)

    def metrics(self) -> list[tuple[Named, Metric]]:
        """Return every metric and both halves of every operation, for consumers that read single series.

        Unlike the other queries it forgets no idle series; see `expire`.
        """
        self._housekeeping()
        return [(metric.named, metric) for names in self._namespaces for metric in names.metrics()]

    def expire(self, metric: Metric, many: Iterable[Series]) -> None:
        """Remove the series of a metric that have been idle for too long."""
        expire_ns = self._state.expire_ns
        if expire_ns is not None and self._state.describe(metric.name).expires:
            metric.expire(many, self.core.now() - expire_ns)

    def distributions(self) -> list[SeriesDistribution]:
        """Return the values of every histogram, timer and timed operation since the start, by series."""
        return [
            SeriesDistribution(
                metric.name, {**self.tags, **series.tags}, names is self._timings, window.aggregate
            )
            for names in (self._metrics, self._timings)
            for metric, series, window, _ in self._every_series(names)
            if _has_distribution(metric)
        ]

    def distribution(self, name: str, *, operation: bool = False) -> Distribution:
        """Return the values of a histogram, timer or timed operation since the start, over all series.

        Raises:
            UnknownMetricError: If it was never recorded.
            MetricTypeError: If it is a counter or a gauge.
        """
        self._tidy()
        metric = (self._timings if operation else self._metrics).known(name)
        if not _has_distribution(metric):
            raise MetricTypeError(f"{name!r} is a {metric.kind.label}, and has no distribution")
        distribution: Distribution = metric.window(None).aggregate
        return distribution

    @property
    def start_ns(self) -> int:
        """When the store began, on the monotonic clock."""
        return self._state.start_ns

    @property
    def series_count(self) -> int:
        """The number of series, including operations."""
        return sum(metric.series_count for names in self._namespaces for metric in names.metrics())

    @property
    def is_compiled(self) -> bool:
        """Whether the compiled engine is in use, not the one in pure Python."""
        return engine.ENGINE == "compiled"

    @property
    def recorded(self) -> int:
        """The number of records."""
        return self.core.records

    @property
    def rejected(self) -> int:
        """The number of rejected records that were counted instead of raising."""
        return self._state.rejected.value

    @property
    def overflowed(self) -> int:
        """How many records lost a tag value, a name or an error type to a budget."""
        return self._state.cardinality.overflowed.value

    @property
    def abandoned(self) -> int:
        """The number of timers that were started, never stopped, and abandoned."""
        return self._state.abandoned.value

    # -- inside ----------------------------------------------------------------------------------------

    @property
    def _namespaces(self) -> tuple[Namespace, ...]:
        return (self._metrics, self._timings, self._outcomes)

    def _known(self, names: Namespace, name: str) -> Metric:
        """Return the metric of a name. If the name is in another namespace, the error says how to read it."""
        try:
            return names.known(name)
        except UnknownMetricError:
            for others, what, method in (
                (self._metrics, "a metric", "aggregator.get_metric_summary"),
                (self._timings, "a timed operation", "timer.get_timing_stats"),
                (self._outcomes, "a tracked operation", "tracker.get_success_rate"),
            ):
                other = others.get(name)
                if other is not None and other.is_known and others is not names:
                    raise UnknownMetricError(
                        f"{names.missing(name)}, but it is {what}: read it with {method}({name!r})"
                    ) from None
            raise

    def _all_series(self) -> Iterator[Series]:
        return (series for names in self._namespaces for each in names.metrics() for series in each.series())

    def _series_readings(self, names: Namespace) -> Iterator[SeriesReading]:
        for metric, series, window, buckets in self._every_series(names):
            metric.exposed = metric.exposed or buckets is not None
            yield SeriesReading(
                metric.name,
                metric.kind.metric_type,
                {**self.tags, **series.tags},
                metric.kind.summarize(window),
                window.aggregate if _has_distribution(metric) else None,
                buckets,
            )

    def _every_series(
        self, names: Namespace
    ) -> Iterator[tuple[Metric, Series, Window[Any], BucketCounts | None]]:
        self._tidy()
        for metric in names.metrics():
            for now_ns, series, aggregate, buckets in metric.states():
                yield_gil()
                yield metric, series, Window(aggregate, self.start_ns, now_ns), buckets

    def _window(
        self, metric: Metric, window: timedelta | None, tags: Mapping[str, str] | None = None
    ) -> Window[Any]:
        if tags:
            known = {
                *self.tags,
                *metric.window_by,
                *(tag for names in list(metric.tag_sets) for tag in names),
            }
            for tag in tags:
                if tag not in known:
                    raise InvalidInputError(
                        f"no record of {metric.name!r} has the tag {tag!r}.{nearest(tag, known)}"
                    )
        return metric.window(self._window_ns(window), tags)

    def _window_ns(self, window: timedelta | None) -> int | None:
        if window is None:
            return None
        if not isinstance(window, timedelta):
            is_number = isinstance(window, int | float) and not isinstance(window, bool)
            example = f"seconds={window!r}" if is_number else "minutes=5"
            raise InvalidInputError(f"time_window={window!r} is not a timedelta: pass timedelta({example})")
        if not timedelta(0) < window <= self.retention:
            raise InvalidInputError(
                f"time_window={window!r} is not between zero and the retention of {self.retention!r};"
                " pass None for all since the start"
            )
        return nanoseconds(window)

    def _history(self, names: Namespace, name: str, window: timedelta | None, points: int) -> list[Interval]:
        check_count("points", points)
        # Not all of `_tidy`: a history does not depend on series, and a dashboard requests dozens.
        self._housekeeping()
        metric, window_ns = self._known(names, name), self._window_ns(window)
        streams, start_ns, nothing = metric.streams(), self.start_ns, metric.kind.nothing
        now, wall = self.core.now(), self.clock.time_ns()
        if points > 1:
            windows = split(streams, window_ns, points, start_ns, now, nothing)
        else:
            every = (stream.since(window_ns, start_ns, now, nothing) for stream in streams)
            windows = [reduce(Window.join, every)]
        summaries = [_summarize(metric, each) for each in windows]
        if metric.kind is COUNTER:
            total = metric.window(None).aggregate
            for each, summary in zip(reversed(windows), reversed(summaries), strict=True):
                summary["total"] = total.value
                total = total.subtract(each.aggregate)
        return [
            Interval(_wall_time(each.start_ns, now, wall), _wall_time(each.end_ns, now, wall), summary)
            for each, summary in zip(windows, summaries, strict=True)
        ]

    def _housekeeping(self) -> None:
        """Log the warnings of records, report removals, count series and reclaim memory."""
        self._state.log_notices()
        self._state.report_removals()
        self._state.cardinality.series_count = self.series_count
        self._state.cardinality.recent.reclaim(self._all_series())

    def _tidy(self) -> None:
        """Do the housekeeping of full reads: log warnings, and remove idle series."""
        if self._state.expire_ns is not None:
            for names in self._namespaces:
                for metric in names.metrics():
                    self.expire(metric, metric.series())
        self._housekeeping()


def _has_distribution(metric: Metric) -> bool:
    return metric.kind.slot_kind == HISTOGRAM.slot_kind


def _summarize(metric: Metric, window: Window[Any]) -> dict[str, Any]:
    summary: dict[str, Any] = metric.kind.summarize(window)
    if metric.kind is OUTCOMES:
        outcomes = window.aggregate
        summary.update(
            rate=per_second(outcomes.records, window.seconds),
            successes=outcomes.successes,
            failures=outcomes.failures,
            success_rate=outcomes.success_rate,
        )
    return summary


def _wall_time(moment_ns: int, now_ns: int, wall_ns: int) -> datetime:
    """Return a moment of the monotonic clock in UTC, to the millisecond.

    Two clocks cannot be read at the same moment. Rounding gives a moment the same time in each result.
    """
    return datetime.fromtimestamp(round((wall_ns - (now_ns - moment_ns)) / 1e6) / 1e3, tz=UTC)
