"""The store: the one place where numbers are kept, which collectors, timers and trackers are views of.

Metrics and operations are two namespaces. A series keeps its state since the start; time windows are kept
once for each name, so that they cost nothing as the number of series grows.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, cast

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError, MetricTypeError
from metrics_framework.recording import kinds
from metrics_framework.recording.bounds import BucketCounts
from metrics_framework.recording.commons import (
    BUDGETS,
    Budgets,
    Commons,
    OnError,
    nanoseconds,
)
from metrics_framework.recording.descriptions import Description, MergeLaw, checked_description
from metrics_framework.recording.distribution import Distribution
from metrics_framework.recording.history import Stretch, history
from metrics_framework.recording.hot import Lookup
from metrics_framework.recording.instruments import OutcomeSeries, Series, TimerSeries
from metrics_framework.recording.metric import Metric
from metrics_framework.recording.namespace import Namespace
from metrics_framework.recording.readings import Failure, OutcomeReading, SeriesReading
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.series import check_name, plain_tags
from metrics_framework.recording.traces import Summary
from metrics_framework.recording.views import is_void
from metrics_framework.recording.windows import Window
from metrics_framework.values import MetricType, MetricUnit

RETENTION = timedelta(days=30)
RECENT_FAILURES = 20
"""How many of an operation's last failures are kept with their metadata."""

_KINDS = {kind.metric_type: kind for kind in (kinds.COUNTER, kinds.GAUGE, kinds.HISTOGRAM, kinds.TIMER)}


class Store:
    """Keeps every number that one application records.

    Args:
        clock: Where time comes from.
        retention: How far back a time window may reach.
        on_error: Whether a record of bad input raises its error, or counts it in ``rejected`` and leaves it
            to the next read to log it.
        budgets: How many series, names and error types are kept apart.
        expire_after: How long a series may be idle before it is forgotten; for ever by default. Totals of
            its name stay.
        tags: Constant tags that every series bears where it is read, such as the service's name. They cost a
            record nothing; a series' own tag of the same name counts.
        rules: What is done to names and tags before anything is recorded, in this order.
    """

    def __init__(
        self,
        clock: Clock = SYSTEM_CLOCK,
        retention: timedelta = RETENTION,
        *,
        on_error: OnError = "raise",
        budgets: Budgets = BUDGETS,
        expire_after: timedelta | None = None,
        tags: Mapping[str, str] | None = None,
        rules: Iterable[Rule] = (),
    ) -> None:
        if on_error not in ("raise", "log"):
            raise InvalidInputError(f"on_error={on_error!r} is not 'raise' or 'log'")
        if not isinstance(budgets, Budgets):
            raise InvalidInputError(
                f"budgets={budgets!r} are no Budgets, like Budgets(series_per_name=1_000)"
            )
        for field, budget in budgets._asdict().items():
            if budget.__class__ is not int or budget < 1:
                raise InvalidInputError(f"budget {field}={budget!r} is not a whole number of 1 or more")
        if expire_after is not None:
            _check_duration("expire_after", expire_after)
        _check_duration("retention", retention)
        self.clock = clock
        self._expire_ns = None if expire_after is None else nanoseconds(expire_after)
        self._commons = commons = Commons(clock, retention, on_error, budgets)
        self.tags: Mapping[str, str] = plain_tags(tags)
        rules = _checked_rules(rules)
        self._metrics = Namespace(commons, "metric", "recorded", _KINDS.values(), rules)
        self._timings = Namespace(commons, "operation", "timed", [kinds.TIMER], rules)
        self._outcomes = Namespace(commons, "operation", "tracked", [kinds.OUTCOMES], rules)
        self._recent: dict[str, deque[_RawFailure]] = {}
        self.lookups: Mapping[MetricType, Lookup] = {
            metric_type: self._metrics.lookups[kind.label] for metric_type, kind in _KINDS.items()
        }
        self.timing_lookup = self._timings.lookups[kinds.TIMER.label]
        self.outcome_lookup = self._outcomes.lookups[kinds.OUTCOMES.label]
        _STORES.add(self)

    @property
    def retention(self) -> timedelta:
        """How far back a time window may reach; what is older is dropped, totals stay."""
        return timedelta(microseconds=self._commons.retention_ns // 1_000)

    @retention.setter
    def retention(self, retention: timedelta) -> None:
        self._commons.retention_ns = nanoseconds(_check_duration("retention", retention))

    # -- recording -------------------------------------------------------------------------------------

    def find(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series of a metric, a new one if need be.

        Returns:
            ``None`` where the input was refused and counted.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another type.
        """
        return self._metrics.find(_KINDS[metric_type], name, tags)

    def bind(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series of a metric for good: the name is known from now on, also without a record.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another type.
        """
        return self._metrics.bind(_KINDS[metric_type], name, tags)

    def find_timing(self, operation: object, tags: object = None) -> TimerSeries | None:
        """Return the durations of an operation, in milliseconds; see `find`."""
        return cast("TimerSeries | None", self._timings.find(kinds.TIMER, operation, tags))

    def find_outcomes(self, operation: object, tags: object = None) -> OutcomeSeries | None:
        """Return the outcomes of an operation; see `find`."""
        return cast("OutcomeSeries | None", self._outcomes.find(kinds.OUTCOMES, operation, tags))

    def find_shifting(self, name: object, step: int, tags: object) -> Any:
        """Return the series that a step up or down moves: a gauge, or a counter where that can be.

        Returns:
            ``None`` where the input was refused and counted.

        Raises:
            MetricTypeError: If the name is a histogram or timer, or a counter is to go down.
        """
        ruled = self._metrics.ruled(name) if isinstance(name, str) else None
        metric = self._metrics.get(ruled.name) if ruled else None
        if (
            metric is not None
            and metric.kind is kinds.COUNTER
            and step < 0
            and self._metrics.is_known(metric)
        ):
            self._commons.refuse(
                MetricTypeError(
                    f"{name!r} is a counter and never goes down; to count up and down declare a gauge"
                    f" before its first use: record_gauge({name!r}, 0)"
                )
            )
            return None
        is_gauge = step < 0 or (metric is not None and metric.kind is kinds.GAUGE)
        return self._metrics.find(kinds.GAUGE if is_gauge else kinds.COUNTER, name, tags)

    def fail(
        self,
        operation: str,
        error_type: str,
        metadata: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Count a failure of an operation, and keep it among its last ones.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        try:
            error_type = check_name(error_type, "error type")
        except InvalidInputError as error:
            self._commons.refuse(error)
            return
        series = self.find_outcomes(operation, tags)
        if series is None or is_void(series):
            return
        series.finish(error_type)
        name = series.home.name
        recent = self._recent.get(name) or self._recent.setdefault(name, deque(maxlen=RECENT_FAILURES))
        recent.append(_RawFailure(error_type, dict(metadata or {}), self.clock.time_ns()))

    # -- names and series ------------------------------------------------------------------------------

    def describe(
        self,
        name: str,
        *,
        unit: MetricUnit | None = None,
        help: str = "",
        merge: MergeLaw = "latest",
        buckets: Iterable[float] = (),
        window_by: Iterable[str] = (),
    ) -> None:
        """Say what a metric is, before its first record or later.

        Args:
            name: The metric's name.
            unit: What its numbers are counted in.
            help: What it is, in a sentence.
            merge: What a gauge of several series is as a whole: its ``latest`` record, or the ``sum``,
                ``min`` or ``max`` of its series.
            buckets: Upper bounds that the values of a histogram or timer are counted by; where they are
                others than before, counting begins now, from zero.
            window_by: Tags that time windows are kept apart for, so that a summary can be asked for them.
                Only before the first record, and not for gauges.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        ruled = self._metrics.ruled(check_name(name))
        description = checked_description(unit, help, merge, buckets, window_by)
        if ruled is None:  # it is never recorded
            return
        name = ruled.name
        metric = self._metrics.get(name)
        if metric is not None and not self._metrics.is_known(metric):  # what made it was refused
            self._metrics.remove(name)
            metric = None
        if metric is not None and metric.kind is kinds.GAUGE and description.window_by:
            raise InvalidInputError(f"{name!r} is a gauge, whose windows are not kept by tags")
        if metric is not None and metric.window_by != description.window_by:
            raise InvalidInputError(
                f"{name!r} was recorded already, so window_by={list(description.window_by)!r} comes too late:"
                " describe it before its first record"
            )
        self._commons.descriptions[name] = description
        if metric is not None:
            metric.count_by(self.description(name).buckets)

    def description(self, name: str) -> Description:
        """Return what was said of a metric, or the defaults."""
        return self._commons.describe(name)

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Forget a metric, or one of its series; the totals of the name outlive its series.

        Returns:
            Whether there was anything to forget.
        """
        return self._metrics.remove(name, tags)

    # -- reading ---------------------------------------------------------------------------------------

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
        return self._series_readings(self._metrics)

    def timing_readings(self) -> list[SeriesReading]:
        """Return the durations of every operation since the start, by tags."""
        return self._series_readings(self._timings)

    def outcome_readings(self) -> list[OutcomeReading]:
        """Return the outcomes of every operation since the start, by tags."""
        return [
            OutcomeReading.of(metric.name, {**self.tags, **series.tags}, window)
            for metric, series, window, _ in self._every_series(self._outcomes)
        ]

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

    def abandon(self) -> None:
        """Count a timer that was given up."""
        self._commons.abandoned.add(1)

    # -- inside ----------------------------------------------------------------------------------------

    @property
    def _namespaces(self) -> tuple[Namespace, ...]:
        return (self._metrics, self._timings, self._outcomes)

    def _series_readings(self, names: Namespace) -> list[SeriesReading]:
        return [
            SeriesReading(
                metric.name,
                metric.kind.metric_type,
                {**self.tags, **series.tags},
                metric.kind.summarize(window),
                window.trace if isinstance(window.trace, Distribution) else None,
                buckets,
            )
            for metric, series, window, buckets in self._every_series(names)
        ]

    def _every_series(
        self, names: Namespace
    ) -> Iterator[tuple[Metric, Series, Window[Any], BucketCounts | None]]:
        self._tidy()
        for metric in names.metrics():
            for now, series, trace, buckets in metric.states():
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
        if self._expire_ns is not None:
            long_ago = self.clock.monotonic_ns() - self._expire_ns
            for names in self._namespaces:
                for metric in names.metrics():
                    for series in metric.series():
                        if 0 < series.slot_end < long_ago:
                            metric.remove(series)
        self._commons.roughly_series = self.series_count

    def _begin_in_child(self) -> None:
        self._commons.begin()
        self._recent.clear()
        for names in self._namespaces:
            for metric in names.metrics():
                metric.reset()


class _RawFailure(NamedTuple):
    error_type: str
    metadata: dict[str, Any]
    time_ns: int


_STORES: weakref.WeakSet[Store] = weakref.WeakSet()


def _reset_stores() -> None:
    # Another thread of the parent may have held any lock, and will never release it in the child.
    for store in list(_STORES):
        store._begin_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_stores)


def _checked_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    checked = tuple(rules)
    for rule in checked:
        if not isinstance(rule, Rule):
            raise InvalidInputError(f"rule {rule!r} is no Rule, like Rule('http.*', drop_tags=('user',))")
    return checked


def _check_duration(what: str, duration: timedelta) -> timedelta:
    if not isinstance(duration, timedelta) or duration <= timedelta(0):
        raise InvalidInputError(f"{what}={duration!r} is not a positive duration")
    return duration
