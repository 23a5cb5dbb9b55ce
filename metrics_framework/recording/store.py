"""The store: the one place where numbers are kept, which collectors, timers and trackers are views of.

Metrics and operations are two namespaces. A series keeps its state since the start; time windows are kept
once for each name, so that they cost nothing as the number of series grows.
"""

from __future__ import annotations

import os
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, cast

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError, MetricTypeError
from metrics_framework.recording import kinds
from metrics_framework.recording.bounds import check_bounds
from metrics_framework.recording.claims import Claims, ExposedNames, Named
from metrics_framework.recording.commons import (
    BUDGETS,
    Budgets,
    Commons,
    OnError,
    nanoseconds,
)
from metrics_framework.recording.descriptions import NOT_DESCRIBED, MergeLaw, checked_description
from metrics_framework.recording.hot import Lookup
from metrics_framework.recording.instruments import OutcomeSeries, TimerSeries
from metrics_framework.recording.metric import Metric
from metrics_framework.recording.reader import KINDS, Reader, check_duration
from metrics_framework.recording.readings import RawFailure
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.series import check_name, plain_tags
from metrics_framework.recording.views import is_void
from metrics_framework.values import MetricType, MetricUnit

RETENTION = timedelta(days=30)
RECENT_FAILURES = 20
"""How many of an operation's last failures are kept with their metadata."""


class Store(Reader):
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
        default_buckets: Upper bounds that the values of histograms and timers are counted by where neither a
            description nor a rule says any; in seconds where they are times. None by default.
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
        default_buckets: Iterable[float] = (),
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
            check_duration("expire_after", expire_after)
        check_duration("retention", retention)
        super().__init__(
            Commons(clock, retention, on_error, budgets),
            None if expire_after is None else nanoseconds(expire_after),
            plain_tags(tags),
            _checked_rules(rules),
        )
        if default_buckets:
            self.default_buckets = default_buckets
        self.lookups: Mapping[MetricType, Lookup] = {
            metric_type: self._metrics.lookups[kind.label] for metric_type, kind in KINDS.items()
        }
        self.timing_lookup = self._timings.lookups[kinds.TIMER.label]
        self.outcome_lookup = self._outcomes.lookups[kinds.OUTCOMES.label]
        _STORES.add(self)

    # -- recording -------------------------------------------------------------------------------------

    def find(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series of a metric, a new one if need be.

        Returns:
            ``None`` where the input was refused and counted.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another type.
        """
        return self._metrics.find(KINDS[metric_type], name, tags)

    def bind(self, metric_type: MetricType, name: object, tags: object) -> Any:
        """Return the series of a metric for good: the name is known from now on, also without a record.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another type.
        """
        return self._metrics.bind(KINDS[metric_type], name, tags)

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
        series = self.outcome_lookup.get(operation, tags) or self.find_outcomes(operation, tags)
        if series is None or is_void(series):
            return
        series.finish(error_type)
        name = series.home.name
        recent = self._recent.get(name) or self._recent.setdefault(name, deque(maxlen=RECENT_FAILURES))
        recent.append(RawFailure(error_type, dict(metadata or {}), self.clock.time_ns()))

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
        before = self._commons.descriptions.get(name, NOT_DESCRIBED)
        self._commons.descriptions[name] = description
        if metric is not None:
            try:
                self._metrics.claim(metric.kind, name)
            except InvalidInputError:
                self._commons.descriptions[name] = before
                raise
        self._count_by_bounds(one for names in self._namespaces if (one := names.get(name)))

    @property
    def default_buckets(self) -> tuple[float, ...]:
        """Upper bounds where nobody says any; where new ones are others, counting begins now, from zero."""
        return self._commons.default_buckets

    @default_buckets.setter
    def default_buckets(self, buckets: Iterable[float]) -> None:
        self._commons.default_buckets = check_bounds(buckets)
        self._count_by_bounds(metric for names in self._namespaces for metric in names.metrics())

    def expose(self, exposed_names: ExposedNames) -> Claims:
        """Refuse from now on what would be exposed by the name of something else: at its first record.

        Args:
            exposed_names: Returns all names that something takes up in the backend.

        Returns:
            Which name is whose.

        Raises:
            InvalidInputError: If two names that were recorded already collide.
        """
        before = self._commons.claims
        if before is not None and before.exposed_names is exposed_names:
            return before
        claims = self._commons.claims = Claims(exposed_names, self._forget_unused)
        try:
            for names in self._namespaces:
                for metric in names.metrics():
                    names.claim(metric.kind, metric.name)
        except InvalidInputError:
            self._commons.claims = before
            raise
        return claims

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Forget a metric, or one of its series; the totals of the name outlive its series.

        Returns:
            Whether there was anything to forget.
        """
        return self._metrics.remove(name, tags)

    def abandon(self) -> None:
        """Count a timer that was given up."""
        self._commons.abandoned.add(1)

    def _count_by_bounds(self, metrics: Iterable[Metric]) -> None:
        for metric in metrics:
            if metric.kind is not kinds.GAUGE:
                metric.count_by(self._commons.bounds(metric.name, metric.kind.metric_type))

    def _forget_unused(self, named: Named) -> bool:
        for names in self._namespaces:
            metric = names.get(named.name)
            if metric is not None and names.named(metric.kind, metric.name) == named:
                return not names.is_known(metric) and names.remove(named.name)
        return False  # another thread is just making it

    def _begin_in_child(self) -> None:
        self._commons.begin()
        self._recent.clear()
        for names in self._namespaces:
            for metric in names.metrics():
                metric.reset()


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
