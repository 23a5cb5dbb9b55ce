"""Queries: the methods of a store that read its numbers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from heapq import nlargest
from typing import TYPE_CHECKING, Any

from metrics_framework.clock import Clock
from metrics_framework.errors import InvalidInputError, MetricTypeError, UnknownMetricError, nearest
from metrics_framework.recording import engine
from metrics_framework.recording.aggregates import Summary, per_second
from metrics_framework.recording.buckets import BucketCounts
from metrics_framework.recording.engine import Core, Distribution, Series
from metrics_framework.recording.exposed_names import Named
from metrics_framework.recording.metric import COUNTER, HISTOGRAM, KINDS, OUTCOMES, TIMER, Metric
from metrics_framework.recording.namespaces import Namespace
from metrics_framework.recording.removals import RemovedSeries
from metrics_framework.recording.results import (
    Failure,
    MetricReading,
    OutcomeReading,
    RawFailure,
    SeriesDistribution,
    SeriesReading,
)
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.state import (
    Description,
    Others,
    StoreState,
    nanoseconds,
)
from metrics_framework.recording.windows import History, Interval, Window, Windows, join_windows, split
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.validation import check_count, check_duration, plain_tags
from metrics_framework.values import MetricType, MetricUnit

if TYPE_CHECKING:
    from metrics_framework.recording.removals import SeriesIdentity


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

    @property
    def descriptions_version(self) -> object:
        """Another object after each change of a description."""
        return self._state.descriptions_version

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
        if metric.kind is not COUNTER:
            return metric.kind.summarize(self._window(metric, window, wanted))
        if wanted:
            summary = COUNTER.summarize(self._window(metric, window, wanted))
            total = summary["sum"] if window is None else metric.window(None, wanted).aggregate.value
        else:
            window_ns, streams = self._window_ns(window), metric.streams()
            summary = COUNTER.summarize(metric.join(streams, window_ns))
            total = metric.join(streams, None).aggregate.value
        return {**summary, "total": total}

    def timing_summary(
        self, operation: str, window: timedelta | None = None, tags: Mapping[str, str] | None = None
    ) -> Summary:
        """Summarize an operation's durations in milliseconds; see `summary`. ``failures`` counts failed ones.

        Raises:
            UnknownMetricError: If it was never timed.
            InvalidInputError: If the window is not positive, longer than the retention, or not known by
                these tags.
        """
        self._tidy()
        metric = self._known(self._timings, operation)
        return _timing_summary(self._window(metric, window, plain_tags(tags)))

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

    def history(
        self, name: str, window: timedelta | None, points: int, tags: Mapping[str, str] | None = None
    ) -> History:
        """Return the time series of a metric over all of its series, or over those that carry some tags.

        By tags that are not in ``window_by`` of the description, intervals are coarse, and reach one hour
        back at most: they are put together from the windows of up to 100 single series.

        Args:
            name: The metric.
            window: How far back; ``None`` is since the start, or as far as the retention.
            points: The maximum number of intervals; 1 is the whole window.
            tags: Tags that series carry, besides others.

        Returns:
            The whole window, like `summary`, and its intervals from the first record on; the first is the
            one that the older edge of the window lies in. They lie on multiples of a power of two of
            seconds and are equally wide, except that older ones are wider where time slots are. Each has a
            summary with the keys of `summary`, whose ``total`` is the counter's at the end of the interval,
            and the distribution of a histogram or timer.

        Raises:
            UnknownMetricError: If it was never recorded.
            InvalidInputError: If the window is not positive or longer than the retention, ``points`` is not a
                whole number of 1 or more, or the time series by these tags is not known.
        """
        return self._history(self._metrics, name, window, points, tags)

    def timing_history(
        self, operation: str, window: timedelta | None, points: int, tags: Mapping[str, str] | None = None
    ) -> History:
        """Return the time series of an operation's durations in milliseconds; see `history`.

        Raises:
            UnknownMetricError: If it was never timed.
        """
        return self._history(self._timings, operation, window, points, tags)

    def outcome_history(
        self, operation: str, window: timedelta | None, points: int, tags: Mapping[str, str] | None = None
    ) -> History:
        """Return the time series of how an operation ended; see `history`.

        A summary has ``count``, ``seconds``, ``rate``, ``successes``, ``failures`` by error type, and
        ``success_rate``.

        Raises:
            UnknownMetricError: If it was never tracked.
        """
        return self._history(self._outcomes, operation, window, points, tags)

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
        return list(map(_failure, list(self._recent.get(operation, ()))))

    def last_failures(self, limit: int) -> list[tuple[str, Failure]]:
        """Return the last failures of all operations with their names, the newest first.

        Args:
            limit: The most failures to return.
        """
        every = ((name, raw) for name, kept in list(self._recent.items()) for raw in list(kept))
        newest = nlargest(limit, every, key=lambda item: item[1].time_ns)
        return [(name, _failure(raw)) for name, raw in newest]

    def read(self) -> Iterator[MetricReading]:
        """Yield each metric and both halves of each operation, with one reading of each of its series.

        All that is computed from a reading, such as a value, a summary and a distribution, has the same
        records, whatever is recorded in the meantime.
        """
        self._tidy()
        for names in self.namespaces:
            is_operation = names is not self._metrics
            for metric in names.metrics():
                series = metric.read()
                total = None
                if _has_distribution(metric) and metric.has_removed_series:
                    total = metric.window(None).aggregate
                if self.tags:
                    series = [({**self.tags, **tags}, aggregate) for tags, aggregate in series]
                seconds = (self.core.now() - self.start_ns) / 1e9
                if series or total is not None:
                    yield MetricReading(
                        metric.name,
                        metric.kind.metric_type,
                        is_operation,
                        seconds,
                        series,
                        total,
                        self._unit(metric),
                    )

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
        return [(metric.named, metric) for names in self.namespaces for metric in names.metrics()]

    def expire(self, metric: Metric, many: Iterable[Series]) -> None:
        """Remove the series of a metric that have been idle for too long."""
        expire_ns = self._state.expire_ns
        if expire_ns is not None and self._state.describe(metric.name).expires:
            metric.expire(many, self.core.now() - expire_ns)

    def track_removed(self, is_exported: Callable[[SeriesIdentity, Any], bool]) -> RemovedSeries:
        """Track what series had recorded that are removed from now on, for an exporter of increments.

        Args:
            is_exported: Returns whether the exporter has exported a series, given its key and an aggregate.

        Returns:
            The removed series. They are tracked until the caller drops this object.
        """
        tracked = RemovedSeries(self._remove_idle, is_exported)
        self._state.consumers[id(tracked)] = tracked
        return tracked

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
        metric = self._known(self._timings if operation else self._metrics, name)
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
        every = [metric for names in self.namespaces for metric in names.metrics()]
        return sum([len(tag_set) for metric in every for tag_set in list(metric.tag_sets.values())])

    @property
    def is_compiled(self) -> bool:
        """Whether the compiled engine is in use, not the one in pure Python."""
        return engine.ENGINE == "compiled"

    @property
    def others(self) -> Others | None:
        """What other processes recorded; ``None`` if the store is not shared."""
        return self._state.others

    @property
    def recorded(self) -> int:
        """The number of records."""
        return self.core.records + (0 if self.others is None else self.others.records)

    @property
    def rejected(self) -> int:
        """The number of rejected records that were counted instead of raising."""
        return self._state.rejected.value + (0 if self.others is None else self.others.rejected)

    @property
    def overflowed(self) -> int:
        """How many records lost a tag value, a name or an error type to a budget."""
        overflowed = self._state.cardinality.overflowed.value
        return overflowed + (0 if self.others is None else self.others.overflowed)

    @property
    def abandoned(self) -> int:
        """The number of timers that were started, never stopped, and abandoned."""
        return self._state.abandoned.value + (0 if self.others is None else self.others.abandoned)

    # -- inside ----------------------------------------------------------------------------------------

    def namespace(self, label: str, is_operation: bool) -> Namespace:
        """Return the namespace of a metric.

        Args:
            label: The label of its kind, such as ``"counter"``; ``"operation"`` is the outcomes of one.
            is_operation: Whether it belongs to an operation.
        """
        if not is_operation:
            return self._metrics
        return self._timings if label == TIMER.label else self._outcomes

    @property
    def namespaces(self) -> tuple[Namespace, ...]:
        """The metrics, the timed operations and the tracked operations."""
        return (self._metrics, self._timings, self._outcomes)

    def _known(self, names: Namespace, name: str) -> Metric:
        """Return the metric of a name. If only other namespaces have the name, the error names the remedy."""
        try:
            return names.known(name)
        except UnknownMetricError:
            others = [other for other in self.namespaces if (found := other.get(name)) and found.is_known]
            if not others:
                raise
            raise UnknownMetricError(self._elsewhere(names, others, name)) from None

    def _elsewhere(self, names: Namespace, others: list[Namespace], name: str) -> str:
        timing = f"timer.get_timing_stats({name!r})"
        outcomes = f"tracker.get_success_rate({name!r})"
        if names is self._metrics:
            calls = " and ".join(
                call
                for other, call in ((self._timings, timing), (self._outcomes, outcomes))
                if other in others
            )
            return f"{name!r} is an operation and not a metric: read it with {calls}"
        if self._timings in others:
            return (
                f"{name!r} was timed but not tracked: use measure() or record_failure(), or read"
                f" its durations with {timing}"
            )
        if self._outcomes in others:
            return (
                f"{name!r} was tracked but not timed: use measure() or start_timer(), or read its outcomes"
                f" with {outcomes}"
            )
        return (
            f"{name!r} is a metric and not an operation: read it with aggregator.get_metric_summary({name!r})"
        )

    def _unit(self, metric: Metric) -> MetricUnit:
        if metric.kind.metric_type is MetricType.TIMER:
            return MetricUnit.MILLISECONDS
        if metric.kind is OUTCOMES:
            return MetricUnit.OPERATIONS_PER_SECOND
        return self._state.describe(metric.name).unit or MetricUnit.COUNT

    def _all_series(self) -> Iterator[Series]:
        return (series for names in self.namespaces for each in names.metrics() for series in each.series())

    def _series_readings(self, names: Namespace) -> Iterator[SeriesReading]:
        for metric, series, window, buckets in self._every_series(names):
            metric.exposed = metric.exposed or buckets is not None
            yield SeriesReading(
                metric.name,
                metric.kind.metric_type,
                {**self.tags, **series.tags},
                _timing_summary(window) if names is self._timings else metric.kind.summarize(window),
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
            self._check_tags(metric, tags)
        return metric.window(self._window_ns(window), tags)

    def _check_tags(self, metric: Metric, tags: Iterable[str]) -> None:
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

    def _history(
        self,
        names: Namespace,
        name: str,
        window: timedelta | None,
        points: int,
        tags: Mapping[str, str] | None,
    ) -> History:
        check_count("points", points)
        wanted = plain_tags(tags)
        # Not all of `_tidy`: a history does not depend on series, and a dashboard requests dozens.
        self._housekeeping()
        metric, window_ns = self._known(names, name), self._window_ns(window)
        start_ns, nothing = self.start_ns, metric.kind.nothing
        whole: Window[Any]
        streams: Sequence[Windows[Any]] = []
        if wanted and points == 1:  # as `summary` has it
            whole = self._window(metric, window, wanted)
            parts, now, wall = [whole], whole.end_ns, self.clock.time_ns()
        else:
            if wanted:
                self._check_tags(metric, wanted)
            since_ns = 0 if window_ns is None else self.core.now() - window_ns
            streams = metric.streams_by_tag(wanted, since_ns) if wanted else metric.streams()
            now, wall = self.core.now(), self.clock.time_ns()
            whole = join_windows(streams, window_ns, start_ns, now, nothing)
            parts = split(streams, window_ns, points, start_ns, now, nothing) if points > 1 else [whole]
        summaries = [
            _timing_summary(each) if names is self._timings else _summarize(metric, each)
            for each in (whole, *parts)
        ]
        if metric.kind is COUNTER:
            if wanted:
                total = metric.window(None, wanted).aggregate
            else:  # of the same reading as the intervals, so that they add up to it
                total = join_windows(streams, None, start_ns, now, nothing).aggregate
            summaries[0]["total"] = total.value
            for each, summary in zip(reversed(parts), reversed(summaries[1:]), strict=True):
                summary["total"] = total.value
                total = total.subtract(each.aggregate)
        found = [
            Interval(
                _wall_time(each.start_ns, now, wall),
                _wall_time(each.end_ns, now, wall),
                summary,
                each.aggregate if _has_distribution(metric) else None,
            )
            for each, summary in zip((whole, *parts), summaries, strict=True)
        ]
        return History(found[0], found[1:])

    def _housekeeping(self) -> None:
        """Read what other processes recorded, and do what does not depend on idle series; see `_tidy`."""
        self._refresh()
        self._clean_up()

    def _refresh(self) -> None:
        others = self._state.others
        if others is not None:
            others.refresh()

    def _clean_up(self) -> None:
        """Log the warnings of records, report removals, count series and reclaim memory."""
        self._state.log_notices()
        self._state.report_removals()
        self._state.cardinality.series_count = self.series_count
        self._state.cardinality.recent.reclaim(self._all_series())

    def _tidy(self) -> None:
        """Do the housekeeping of full reads: also remove idle series."""
        self._remove_idle()
        self._clean_up()

    def _remove_idle(self) -> None:
        self._refresh()  # a series is idle if no process records into it
        if self._state.expire_ns is not None:
            for names in self.namespaces:
                for metric in names.metrics():
                    self.expire(metric, metric.series())
        self._state.report_removals()


def _failure(raw: RawFailure) -> Failure:
    return Failure(raw.error_type, raw.metadata, datetime.fromtimestamp(raw.time_ns / 1e9, tz=UTC))


def _has_distribution(metric: Metric) -> bool:
    return metric.kind.slot_kind == HISTOGRAM.slot_kind


def _timing_summary(window: Window[Any]) -> Summary:
    summary = TIMER.summarize(window)
    summary["failures"] = window.aggregate.failures
    return summary


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
