"""The store: keeps all numbers. Collectors, timers, trackers and aggregators are views of it.

Metrics and operations are two namespaces. A series keeps its state since the start, and about an hour of
coarse windows. Fine windows are kept once per name, so they do not grow with the number of series.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, get_args

from metrics_framework.capabilities import HasStore
from metrics_framework.clock import SYSTEM_CLOCK, Clock, SystemClock
from metrics_framework.errors import InvalidInputError, MetricTypeError
from metrics_framework.recording import engine
from metrics_framework.recording.buckets import check_bounds
from metrics_framework.recording.cardinality import BUDGETS, Budgets, check_budgets
from metrics_framework.recording.engine import (
    OperationRecorder,
    OutcomeSeries,
    Series,
    SeriesIndex,
    TimerSeries,
)
from metrics_framework.recording.exposed_names import ExposedNames, Named, NameOwners, NameRegistry
from metrics_framework.recording.metric import (
    COUNTER,
    GAUGE,
    KINDS,
    OUTCOMES,
    TIMER,
    Kind,
    Metric,
)
from metrics_framework.recording.namespaces import Namespace
from metrics_framework.recording.queries import Queries
from metrics_framework.recording.results import RawFailure
from metrics_framework.recording.rules import Rule
from metrics_framework.recording.state import (
    NOT_DESCRIBED,
    NOT_GIVEN,
    MergeLaw,
    NotGiven,
    OnError,
    SharingWorker,
    StoreState,
    checked_fields,
)
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.validation import (
    check_choice,
    check_duration,
    check_name,
    plain_metadata,
    plain_tags,
)
from metrics_framework.values import MetricUnit

DefaultBuckets = Iterable[float] | Literal["by_unit"]

RETENTION = timedelta(days=30)
MAX_RECENT_FAILURES = 20
"""How many of an operation's last failures are kept with their metadata."""

# The engine reads its own clock. With one function, times of Python and of the engine share one time line.
SystemClock.monotonic_ns = staticmethod(engine.monotonic_ns)


class Store(Queries):
    """Keeps every number that one application records. Thread-safe.

    Args:
        clock: The source of time.
        retention: The maximum length of a time window.
        on_error: ``"raise"`` raises the error of bad input. ``"log"`` counts it in ``rejected`` and lets the
            next read log it.
        budgets: How many series, names and error types are kept apart, and the memory of windows by tag.
        expire_after: How long a series may be idle before it is removed; forever by default. Totals of
            its name stay.
        tags: Constant tags of every series, such as the service's name. They do not slow down a record; a
            series' own tag of the same name wins.
        rules: Change names and tags before anything is recorded, in this order.
        default_buckets: Upper bounds that the values of histograms and timers are counted by if neither a
            description nor a rule sets any; in seconds for times. ``"by_unit"`` chooses bounds by the unit
            of the metric. None by default.

    Attributes:
        worker: This process as a worker whose numbers are shared; ``None`` if they are not.
    """

    worker: SharingWorker | None = None

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
        default_buckets: DefaultBuckets = (),
    ) -> None:
        check_choice("on_error", on_error, get_args(OnError))
        check_budgets(budgets)
        if expire_after is not None:
            check_duration("expire_after", expire_after)
        check_duration("retention", retention)
        super().__init__(
            StoreState(clock, retention, on_error, budgets, expire_after, tags), _checked_rules(rules)
        )
        if default_buckets:
            self.default_buckets = default_buckets
        self.timings: SeriesIndex = self._timings.indexes[TIMER.label]
        self.outcomes_index: SeriesIndex = self._outcomes.indexes[OUTCOMES.label]
        self._owners: NameOwners = {}
        self._finder = _CountingFinder(self._state, self._timings, self._outcomes)
        self.operations = OperationRecorder(self.core, self.timings, self.outcomes_index, self._finder)
        reset_after_fork(self, Store._reset_in_child, ForkOrder.STATE)

    # -- recording -------------------------------------------------------------------------------------

    def index(self, kind: str) -> SeriesIndex:
        """Return the index of a kind of metric: ``counter``, ``gauge``, ``histogram`` or ``timer``."""
        return self._metrics.indexes[kind]

    def find(self, kind: str, name: object, tags: object) -> Any:
        """Return the series of a metric, created if it does not exist.

        Args:
            kind: ``counter``, ``gauge``, ``histogram`` or ``timer``.
            name: The metric's name.
            tags: The tags of the series.

        Returns:
            ``None`` if the input was rejected and counted.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another type.
        """
        return self._metrics.find(KINDS[kind], name, tags)

    def bind(self, kind: str, name: object, tags: object) -> Any:
        """Bind and return the series of a metric. The name is known from now on, even without a record.

        Raises:
            InvalidInputError: If an argument breaks its rule, or the name is of another type.
        """
        return self._metrics.bind(KINDS[kind], name, tags)

    def find_timing(self, operation: object, tags: object = None) -> TimerSeries | None:
        """Return the durations of an operation, in milliseconds; see `find`."""
        series: TimerSeries | None = self._timings.find(TIMER, operation, tags)
        return series

    def find_outcomes(self, operation: object, tags: object = None) -> OutcomeSeries | None:
        """Return the outcomes of an operation; see `find`."""
        series: OutcomeSeries | None = self._outcomes.find(OUTCOMES, operation, tags)
        return series

    def find_step(self, name: object, step: int, tags: object) -> Any:
        """Return the series that a step up or down moves: a gauge, or a counter for a step up.

        Returns:
            ``None`` if the input was rejected and counted.

        Raises:
            MetricTypeError: If the name is a histogram or timer, or a counter would go down.
        """
        ruled = self._metrics.ruled(name) if isinstance(name, str) else None
        metric = self._metrics.get(ruled.name) if ruled else None
        if metric is not None and metric.kind is COUNTER and step < 0 and metric.is_known:
            self._state.refuse(
                MetricTypeError(
                    f"{name!r} is a counter and never goes down; to count up and down declare a gauge"
                    f" before its first use: record_gauge({name!r}, 0)"
                )
            )
            return None
        is_gauge = step < 0 or (metric is not None and metric.kind is GAUGE)
        return self._metrics.find(GAUGE if is_gauge else COUNTER, name, tags)

    def record_operation(
        self,
        operation: str,
        tags: dict[str, str] | None,
        elapsed_ns: int,
        error_type: str | None,
    ) -> None:
        """Record the duration and the outcome of an operation in one step, at the end of its work.

        A name or tags that cannot be recorded are counted and logged, also if the store raises errors: an
        error here would replace the result of the work.

        Args:
            operation: The operation.
            tags: The tags of its series.
            elapsed_ns: How long it took, in nanoseconds.
            error_type: The error type of a failure; ``None`` for success.
        """
        self.operations.record(operation, tags, elapsed_ns, error_type)
        if error_type is not None:
            name = self._outcomes.recorded_name(operation)
            if name is not None:
                # A series is also found by tags that are equal to strings, such as an enumeration's members.
                with suppress(InvalidInputError):
                    self._keep_failure(name, error_type, dict(plain_tags(tags)))

    def record_duration(self, operation: str, tags: dict[str, str] | None, elapsed_ns: int) -> None:
        """Record the duration of an operation without an outcome; see `record_operation`."""
        finder = self._finder
        finder.declare_outcomes(operation, tags)
        timing: Any = self.timings.get(operation, tags) or finder.find_timing(operation, tags)
        if timing is not None:
            timing.elapse(elapsed_ns / 1e6, True)

    def find_timing_of_work(self, operation: object) -> TimerSeries | None:
        """Return the durations of an operation whose work is about to begin.

        A valid name that cannot be recorded is counted and logged, as `record_operation` does.

        Raises:
            InvalidInputError: If the name is not a non-empty string, unless the store logs errors.
        """
        name = self._state.checked(check_name, operation, "operation name")
        series: TimerSeries | None = None if name is None else self._finder.find_timing(name)
        return series

    def count_rejected(self, error: Exception) -> None:
        """Count an error of a measurement in ``rejected``. The next read logs it."""
        self._state.count_rejected(error)

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
        checked = self._state.checked(check_name, error_type, "error type")
        if checked is None:
            return
        kept = self.plain_metadata(metadata) or {}
        series: Any = self.outcomes_index.get(operation, tags) or self.find_outcomes(operation, tags)
        if series is not None and not series.is_null:
            series.finish(checked)
            self._keep_failure(series.owner.name, checked, kept)

    def _keep_failure(self, name: str, error_type: str, metadata: dict[str, Any]) -> None:
        recent = self._recent.get(name) or self._recent.setdefault(name, deque(maxlen=MAX_RECENT_FAILURES))
        recent.append(RawFailure(error_type, metadata, self.clock.time_ns()))

    def plain_metadata(self, metadata: object) -> dict[str, Any] | None:
        """Return a copy of the metadata of a timer; ``None`` if it was rejected and counted.

        Raises:
            InvalidInputError: If it is not a mapping, unless the store logs errors.
        """
        return self._state.checked(plain_metadata, metadata)

    def count_abandoned(self) -> None:
        """Count an abandoned timer."""
        self._state.abandoned.add(1)

    # -- names and series ------------------------------------------------------------------------------

    def describe(
        self,
        name: str,
        *,
        unit: MetricUnit | NotGiven | None = NOT_GIVEN,
        help: str | NotGiven = NOT_GIVEN,
        merge: MergeLaw | NotGiven = NOT_GIVEN,
        buckets: Iterable[float] | NotGiven = NOT_GIVEN,
        window_by: Iterable[str] | NotGiven = NOT_GIVEN,
        expires: bool | NotGiven = NOT_GIVEN,
    ) -> None:
        """Describe a metric or operation, before its first record or later.

        Arguments that are not given keep their value of an earlier description.

        Args:
            name: The metric's or operation's name.
            unit: The unit of its numbers.
            help: What it measures, in a sentence.
            merge: How the series of a gauge are combined: the ``latest`` record (the default), or the
                ``sum``, ``min`` or ``max`` of its series.
            buckets: Upper bounds that the values of a histogram or timer are counted by. Before bucket counts
                are exposed for the first time, counting continues from the values so far: exactly from up to
                128 of them, else within 1 %. Later it starts from zero.
            window_by: Tags that time windows are kept apart for over the whole retention. Only before the
                first record, and not for gauges.
            expires: Whether idle series may be forgotten; true by default.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        ruled = self._metrics.ruled(check_name(name))
        fields = checked_fields(unit, help, merge, buckets, window_by, expires)
        if ruled is None:  # it is never recorded
            return
        name, state = ruled.name, self._state
        for names in self.namespaces:
            metric = names.get(name)
            if metric is not None and not metric.is_known:  # the record that created it was rejected
                names.remove(name)
        before = state.descriptions.get(name, NOT_DESCRIBED)
        description = replace(before, **fields)
        metrics = [metric for names in self.namespaces if (metric := names.get(name)) is not None]
        for metric in metrics if "window_by" in fields else ():
            _check_window_by(metric, description.window_by)
        state.set_description(name, description)
        metric = self._metrics.get(name)
        if metric is not None:
            try:
                self._metrics.register(metric.named)
            except InvalidInputError:
                state.set_description(name, before)
                self._metrics.register(metric.named)
                raise
        for metric in metrics:
            metric.apply_description()

    @property
    def default_buckets(self) -> tuple[float, ...] | Literal["by_unit"]:
        """Upper bounds of histograms and timers without any; a change has the effect of a description."""
        return self._state.default_buckets

    @default_buckets.setter
    def default_buckets(self, buckets: DefaultBuckets) -> None:
        self._state.default_buckets = "by_unit" if buckets == "by_unit" else check_bounds(buckets)
        for names in self.namespaces:
            for metric in names.metrics():
                metric.apply_description()

    def expose(self, exposed_names: ExposedNames, owners: NameOwners | None = None) -> NameRegistry:
        """From now on, reject metrics that would be exposed under the name of another metric.

        Histograms and timers are counted by default bounds from now on; see `expose_buckets`.

        Args:
            exposed_names: Returns all names that a metric takes up in the backend.
            owners: The names that are exposed together with those of this store; by default no others.

        Returns:
            The exposed names of this store. `conceal` frees them.

        Raises:
            InvalidInputError: If two names that were recorded already collide.
        """
        self.expose_buckets()
        owners = self._owners if owners is None else owners
        state = self._state
        for known in state.name_registries:
            if known.owners is owners and known.exposed_names is exposed_names:
                return known
        registry = NameRegistry(exposed_names, self._forget_unused, owners)
        # Added first, so that metrics of other threads are registered too.
        state.name_registries = (*state.name_registries, registry)
        try:
            for names in self.namespaces:
                for metric in names.metrics():
                    registry.register(metric.named, state.describe(metric.name).unit)
        except InvalidInputError:
            self.conceal(registry)
            raise
        return registry

    def conceal(self, registry: NameRegistry) -> None:
        """Free the names that `expose` registered."""
        state = self._state
        state.name_registries = tuple(other for other in state.name_registries if other is not registry)
        registry.release_all()

    @property
    def name_registries(self) -> tuple[NameRegistry, ...]:
        """The exposed names of this store, once for each place where `expose` made them unique."""
        return self._state.name_registries

    def expose_buckets(self) -> None:
        """Count histograms and timers without bounds by the default bounds of their unit from now on.

        Earlier values are counted from their distribution: exactly for up to 128 of a series, else values
        within 1 % of a bound may be counted on its other side.
        """
        if not self.default_buckets:
            self.default_buckets = "by_unit"

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Remove a metric, or one of its series. Totals of the name remain.

        Returns:
            Whether it existed.
        """
        return self._metrics.remove(name, tags)

    @property
    def on_removed(self) -> list[Callable[[Named, Series, Any], object]]:
        """Functions that are called with each series that is removed or expires.

        The arguments are the owner of the series, the series, and its final aggregate. They run in the
        thread that removes it, which may be in the middle of a record. If one raises, the next removal or
        read calls the others; it is not called again for that series.
        """
        return self._state.on_removed

    def _forget_unused(self, named: Named) -> bool:
        for names in self.namespaces:
            metric = names.get(named.name)
            if metric is not None and metric.named == named:
                return not metric.is_known and names.remove(named.name)
        return False  # another thread is just making it

    def _reset_in_child(self) -> None:
        self._state.reset()
        self._recent.clear()
        for names in self.namespaces:
            for metric in names.metrics():
                metric.reset()


class _CountingFinder:
    """Finds the series of operations. An error is counted and logged, whatever ``on_error`` of the store is.

    Args:
        state: Counts the errors.
        timings: The durations.
        outcomes: The outcomes.
    """

    def __init__(self, state: StoreState, timings: Namespace, outcomes: Namespace) -> None:
        self._state = state
        self._timings = timings
        self._outcomes = outcomes

    def find_timing(self, operation: object, tags: object = None) -> Any:
        """Return the durations of an operation; ``None`` if the input was rejected and counted."""
        return self._counted(self._timings.find_or_raise, TIMER, operation, tags)

    def find_outcomes(self, operation: object, tags: object = None) -> Any:
        """Return the outcomes of an operation; ``None`` if the input was rejected and counted."""
        return self._counted(self._outcomes.find_or_raise, OUTCOMES, operation, tags)

    def declare_outcomes(self, operation: object, tags: object = None) -> None:
        """Make an operation known without an outcome."""
        self._counted(self._outcomes.bind, OUTCOMES, operation, tags)

    def _counted(
        self, find: Callable[[Kind, object, object], Any], kind: Kind, name: object, tags: object
    ) -> Any:
        try:
            return find(kind, name, tags)
        except InvalidInputError as error:
            self._state.count_rejected(error)
            return None


def _checked_rules(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    checked = tuple(rules)
    for rule in checked:
        if not isinstance(rule, Rule):
            raise InvalidInputError(f"rule {rule!r} is not a Rule, like Rule('http.*', drop_tags=('user',))")
    return checked


def _check_window_by(metric: Metric, window_by: tuple[str, ...]) -> None:
    if metric.kind is GAUGE and window_by:
        raise InvalidInputError(
            f"{metric.name!r} is a gauge, and window_by={list(window_by)!r} is not for gauges: leave it out"
        )
    if metric.window_by != window_by:
        raise InvalidInputError(
            f"{metric.name!r} was recorded already, so window_by={list(window_by)!r} comes too late:"
            " describe it before its first record"
        )


def store_of(part: object) -> Store | None:
    """Return the store that a part of a system records into or reads from, or ``None`` if it has none."""
    store = part.store if isinstance(part, HasStore) else None
    return store if isinstance(store, Store) else None
