"""Questions about what a store keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from metrics_framework.errors import InvalidInputError, MetricTypeError
from metrics_framework.recording import kinds
from metrics_framework.recording.bounds import BucketCounts
from metrics_framework.recording.claims import Named
from metrics_framework.recording.commons import Commons, nanoseconds
from metrics_framework.recording.descriptions import Description
from metrics_framework.recording.distribution import Distribution
from metrics_framework.recording.history import Stretch, history
from metrics_framework.recording.instruments import Series
from metrics_framework.recording.metric import Metric
from metrics_framework.recording.namespace import Namespace
from metrics_framework.recording.readings import (
    Failure,
    OutcomeReading,
    RawFailure,
    SeriesDistribution,
    SeriesReading,
)
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.series import plain_tags
from metrics_framework.recording.taps import Tap
from metrics_framework.recording.traces import Summary
from metrics_framework.recording.windows import Window
from metrics_framework.turns import rest

KINDS = {kind.metric_type: kind for kind in (kinds.COUNTER, kinds.GAUGE, kinds.HISTOGRAM, kinds.TIMER)}


class Reader:
    """The reading half of a `Store`: metrics, timed operations and tracked ones, and what is said of them.

    Args:
        commons: What the three share.
        expire_ns: How long a series may be idle before a read forgets it; ``None`` for ever.
        tags: Constant tags, which every series bears where it is read.
        rules: What is done to names and tags before anything is recorded.
    """

    def __init__(
        self, commons: Commons, expire_ns: int | None, tags: Mapping[str, str], rules: Sequence[Rule]
    ) -> None:
        self.clock = commons.clock
        self.tags = tags
        self._commons = commons
        self._expire_ns = expire_ns
        self._metrics = Namespace(commons, "metric", "recorded", KINDS.values(), rules)
        self._timings = Namespace(commons, "operation", "timed", [kinds.TIMER], rules)
        self._outcomes = Namespace(commons, "operation", "tracked", [kinds.OUTCOMES], rules)
        self._recent: dict[str, deque[RawFailure]] = {}

    @property
    def retention(self) -> timedelta:
        """How far back a time window may reach; what is older is dropped, totals stay."""
        return timedelta(microseconds=self._commons.retention_ns // 1_000)

    @retention.setter
    def retention(self, retention: timedelta) -> None:
        self._commons.retention_ns = nanoseconds(check_duration("retention", retention))

    def description(self, name: str) -> Description:
        """Return what was said of a metric, or the defaults."""
        return self._commons.describe(name)

    def summary(
        self, name: str, window: timedelta | None = None, tags: Mapping[str, str] | None = None
    ) -> Summary:
        """Summarize a metric over all of its series.

        Args:
            name: The metric.
            window: How far back; ``None`` is since the start.
            tags: Only what carries these tags, which must be among ``window_by`` of its description.

        Raises:
            UnknownMetricError: If it was never recorded.
            InvalidInputError: If the window is not positive, or longer than the retention.
        """
        self._tidy()
        metric = self._metrics.known(name)
        wanted = plain_tags(tags)
        if metric.kind is kinds.GAUGE and wanted:
            raise InvalidInputError(f"{name!r} is a gauge, whose windows are not kept by tags")
        if not wanted.keys() <= set(metric.window_by):
            raise InvalidInputError(
                f"{name!r} keeps no windows by {sorted(wanted)!r}: describe({name!r},"
                f" window_by={sorted(wanted)!r}) before its first record"
            )
        summary = self._summarized(metric, window, wanted)
        if metric.kind is kinds.COUNTER:
            summary["total"] = metric.window(None, wanted).trace.value
        return summary

    def timing_summary(self, operation: str, window: timedelta | None = None) -> Summary:
        """Summarize an operation's durations in milliseconds.

        Raises:
            UnknownMetricError: If it was never timed.
        """
        self._tidy()
        return self._summarized(self._timings.known(operation), window)

    def outcomes(self, operation: str, window: timedelta | None = None) -> OutcomeReading:
        """Return how an operation ended.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        self._tidy()
        over = self._over(self._outcomes.known(operation), window)
        return OutcomeReading.of(operation, {}, over)

    def history(self, name: str, window: timedelta | None, points: int) -> list[Stretch]:
        """Return the course of a metric over all of its series: a time window in stretches.

        Args:
            name: The metric.
            window: How far back; ``None`` is since the start, or as far as the retention.
            points: How many stretches there may be; 1 is the window as a whole, as `summary` has it.

        Returns:
            Stretches without gaps between them, the oldest first, from the first record on; the first is the
            one that the older edge of the window lies in. They lie on multiples of a power of two of
            seconds and are equally wide, except that older ones are wider where time slots are. Each has a
            summary with the keys of `summary`, whose ``total`` is the counter's at the end of the stretch.

        Raises:
            UnknownMetricError: If it was never recorded.
            InvalidInputError: If the window is not positive or longer than the retention, or ``points`` is
                not a whole number of 1 or more.
        """
        return self._history(self._metrics, name, window, points)

    def timing_history(self, operation: str, window: timedelta | None, points: int) -> list[Stretch]:
        """Return the course of an operation's durations in milliseconds; see `history`.

        Raises:
            UnknownMetricError: If it was never timed.
        """
        return self._history(self._timings, operation, window, points)

    def outcome_history(self, operation: str, window: timedelta | None, points: int) -> list[Stretch]:
        """Return the course of how an operation ended; see `history`.

        A summary has ``count``, ``seconds``, ``rate``, ``successes``, ``failures`` by error type, and
        ``success_rate``.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        return self._history(self._outcomes, operation, window, points)

    def outcomes_by_operation(self, window: timedelta | None = None) -> list[OutcomeReading]:
        """Return how each tracked operation ended, all of its tags together.

        Raises:
            InvalidInputError: If the window is not positive, or longer than the retention.
        """
        self._tidy()
        return [
            OutcomeReading.of(metric.name, {}, self._over(metric, window))
            for metric in self._outcomes.metrics()
        ]

    def recent_failures(self, operation: str) -> list[Failure]:
        """Return an operation's last failures, the newest last.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        self._tidy()
        self._outcomes.known(operation)
        return [
            Failure(raw.error_type, raw.metadata, datetime.fromtimestamp(raw.time_ns / 1e9, tz=UTC))
            for raw in list(self._recent.get(operation, ()))
        ]

    def readings(self) -> list[SeriesReading]:
        """Return every series of every metric since the start; those of one metric at the same moment."""
        return list(self.iter_readings())

    def iter_readings(self) -> Iterator[SeriesReading]:
        """Yield what `readings` returns, one at a time, which keeps the garbage collector out of it."""
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
        """Return every metric and both halves of every operation, for who reads them series by series.

        Unlike the other questions it folds nothing and forgets nothing: see `Ledger.catch_up` and `expire`.
        """
        self._commons.say_notices()
        self._commons.roughly_series = self.series_count
        return [
            (names.named(metric.kind, metric.name), metric)
            for names in self._namespaces
            for metric in names.metrics()
        ]

    def expire(self, metric: Metric, many: Iterable[Series]) -> None:
        """Forget those of a metric's series that have been idle for too long."""
        if self._expire_ns is not None:
            metric.expire(many, self.clock.monotonic_ns() - self._expire_ns)

    def distributions(self) -> list[SeriesDistribution]:
        """Return the values of every histogram, timer and timed operation since the start, by series."""
        return [
            SeriesDistribution(
                metric.name, {**self.tags, **series.tags}, names is self._timings, window.trace
            )
            for names in (self._metrics, self._timings)
            for metric, series, window, _ in self._every_series(names)
            if isinstance(window.trace, Distribution)
        ]

    def distribution(self, name: str, *, operation: bool = False) -> Distribution:
        """Return the values of a histogram, timer or timed operation since the start, of all series together.

        Raises:
            UnknownMetricError: If it was never recorded.
            MetricTypeError: If it is a counter or a gauge.
        """
        self._tidy()
        trace = (self._timings if operation else self._metrics).known(name).window(None).trace
        if not isinstance(trace, Distribution):
            raise MetricTypeError(f"{name!r} is a counter or a gauge, and has no distribution")
        return trace

    def catch_up(self) -> None:
        """Publish every finished record, and hand it to those who listen at the `tap`."""
        for names in self._namespaces:
            for metric in names.metrics():
                metric.catch_up()

    @property
    def tap(self) -> Tap:
        """Where those are who listen to what is recorded."""
        return self._commons.tap

    @property
    def start_ns(self) -> int:
        """When the store began, on the monotonic clock."""
        return self._commons.start_ns

    @property
    def series_count(self) -> int:
        """How many series there are, operations included."""
        return sum(metric.series_count for names in self._namespaces for metric in names.metrics())

    @property
    def recorded(self) -> int:
        """How many records there were."""
        windows = (metric.window(None) for names in self._namespaces for metric in names.metrics())
        return sum(kinds.records(window.trace) for window in windows)

    @property
    def rejected(self) -> int:
        """How many records were refused and counted instead of raising."""
        return int(self._commons.rejected.total)

    @property
    def overflowed(self) -> int:
        """How often a budget cost a record a tag's value, its name or its error type."""
        return int(self._commons.overflowed.total)

    @property
    def dropped(self) -> int:
        """How many records found a buffer full."""
        return int(self._commons.dropped.total)

    @property
    def abandoned(self) -> int:
        """How many timers were started, never stopped, and given up."""
        return int(self._commons.abandoned.total)

    # -- inside ----------------------------------------------------------------------------------------

    @property
    def _namespaces(self) -> tuple[Namespace, ...]:
        return (self._metrics, self._timings, self._outcomes)

    def _series_readings(self, names: Namespace) -> Iterator[SeriesReading]:
        for metric, series, window, buckets in self._every_series(names):
            yield SeriesReading(
                metric.name,
                metric.kind.metric_type,
                {**self.tags, **series.tags},
                metric.kind.summarize(window),
                window.trace if isinstance(window.trace, Distribution) else None,
                buckets or self._no_counts(metric),
            )

    def _no_counts(self, metric: Metric) -> BucketCounts | None:
        """Return what is counted of a series that recorded nothing since its bounds were changed."""
        bounds = self._commons.bounds(metric.name, metric.kind.metric_type)
        return BucketCounts.between(bounds) if bounds else None

    def _every_series(
        self, names: Namespace
    ) -> Iterator[tuple[Metric, Series, Window[Any], BucketCounts | None]]:
        self._tidy()
        for metric in names.metrics():
            metric.catch_up()
            for now, series, trace, buckets in metric.states():
                rest()
                yield metric, series, Window(trace, self.start_ns, now, None), buckets

    def _summarized(
        self, metric: Metric, window: timedelta | None, tags: Mapping[str, str] | None = None
    ) -> Summary:
        return metric.kind.summarize(self._over(metric, window, tags))

    def _over(
        self, metric: Metric, window: timedelta | None, tags: Mapping[str, str] | None = None
    ) -> Window[Any]:
        return metric.window(self._back(window), tags)

    def _back(self, window: timedelta | None) -> int | None:
        if window is None:
            return None
        if not isinstance(window, timedelta) or not timedelta(0) < window <= self.retention:
            raise InvalidInputError(
                f"time_window={window!r} is not between zero and the retention of {self.retention!r};"
                " pass None for all since the start"
            )
        return nanoseconds(window)

    def _history(self, names: Namespace, name: str, window: timedelta | None, points: int) -> list[Stretch]:
        if points.__class__ is not int or points < 1:
            raise InvalidInputError(f"points={points!r} is not a whole number of 1 or more")
        # Not all of `_tidy`: a history does not depend on series, and a dashboard asks for dozens.
        self._commons.say_notices()
        return history(names.known(name), self._back(window), points)

    def _tidy(self) -> None:
        """Do what records leave to reads: log what they had to say, and forget idle series."""
        self._commons.say_notices()
        for names in self._namespaces:
            for metric in names.metrics():
                self.expire(metric, metric.series())
        self._commons.roughly_series = self.series_count


def check_duration(what: str, duration: timedelta) -> timedelta:
    """Return a duration if it is one.

    Raises:
        InvalidInputError: If it is anything else, or not positive.
    """
    if not isinstance(duration, timedelta) or duration <= timedelta(0):
        raise InvalidInputError(f"{what}={duration!r} is not a positive duration")
    return duration
