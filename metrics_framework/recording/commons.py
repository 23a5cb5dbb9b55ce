"""What all parts of a store have in common: time, budgets, descriptions, and accounts of what went wrong."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Literal, NamedTuple

from metrics_framework.clock import Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.logs import log_event
from metrics_framework.recording.bounds import seconds_as
from metrics_framework.recording.claims import Claims
from metrics_framework.recording.descriptions import NOT_DESCRIBED, Description
from metrics_framework.recording.instruments import CounterSeries, Series
from metrics_framework.recording.ledger import Ledger
from metrics_framework.recording.rules import Ruled
from metrics_framework.recording.taps import Tap
from metrics_framework.recording.traces import CounterTrace
from metrics_framework.recording.windows import SLOT_NS
from metrics_framework.values import MetricType, MetricUnit

OnError = Literal["raise", "log"]

MAX_NOTICES = 100
"""How many notices of one event are said at most."""


class Budgets(NamedTuple):
    """How much a store keeps, however many names and tags it is given.

    Attributes:
        series_per_name: Series of one metric or operation.
        series: Series in all.
        names: Metrics and operations.
        error_types: Error types of one operation.
    """

    series_per_name: int = 10_000
    series: int = 100_000
    names: int = 2_000
    error_types: int = 100


BUDGETS = Budgets()


class Commons:
    """Shared by the namespaces of a store.

    Attributes:
        clock: Where time comes from.
        start_ns: When the store began, on the monotonic clock.
        budgets: How much is kept.
        descriptions: Name to description.
        ruled: Name to what the application's rules say of it.
        default_buckets: Upper bounds where nobody says any; in seconds where they are times.
        claims: The names that metrics are exposed by, where they must differ.
        rejected: Counts the input that was refused where errors are not raised.
        overflowed: Counts the records that lost a tag, a name or an error type to a budget.
        dropped: Counts the records that found a buffer full.
        abandoned: Counts the timers that were started, never stopped, and given up.
        roughly_series: About how many series there are; exact after each read.
        tap: Where those are who listen to what is recorded.
    """

    def __init__(self, clock: Clock, retention: timedelta, on_error: OnError, budgets: Budgets) -> None:
        self.clock = clock
        self.budgets = budgets
        self.retention_ns = nanoseconds(retention)
        self.descriptions: dict[str, Description] = {}
        self.ruled: dict[str, Ruled] = {}
        self.default_buckets: tuple[float, ...] = ()
        self.claims: Claims | None = None
        self.roughly_series = 0
        self.tap = Tap()
        self._on_error = on_error
        self._notices: dict[str, dict[str, Any]] = {}
        self._said: dict[str, set[str]] = {}
        self.begin()

    def begin(self) -> None:
        """Start from zero, at first or in a child process."""
        self.start_ns = self.clock.monotonic_ns()
        self.tap.begin()
        self.rejected = Tally(self.clock)
        self.overflowed = Tally(self.clock)
        self.dropped = Tally(self.clock)
        self.abandoned = Tally(self.clock)

    def retention(self) -> int:
        """Return how far back a window may reach, in nanoseconds."""
        return self.retention_ns

    def drop(self) -> None:
        """Count a record that found its buffer full."""
        self.dropped.add(1)

    def refuse(self, error: InvalidInputError) -> None:
        """Raise an error, or count it and have the next read log it.

        Raises:
            InvalidInputError: ``error``, unless the store is to log.
        """
        if self._on_error == "raise":
            raise error
        self.rejected.add(1)
        self.notice("input refused", error=str(error))

    def notice(self, event: str, **fields: Any) -> None:
        """Have the next read log a warning, once for the same fields: a record never logs."""
        key = f"{event} {fields}"
        said = self._said.setdefault(event, set())
        if key not in said and len(said) < MAX_NOTICES:
            said.add(key)
            self._notices[key] = {"event": event, **fields}

    def say_notices(self) -> None:
        """Log what records had to say."""
        for key in list(self._notices):
            fields = self._notices.pop(key, None)
            if fields is not None:  # else another thread was faster
                log_event("warning", **fields)

    def describe(self, name: str) -> Description:
        """Return the description of a name; its buckets are those of the application's rules, if they say."""
        description, ruled = self.descriptions.get(name, NOT_DESCRIBED), self.ruled.get(name)
        return replace(description, buckets=ruled.buckets) if ruled and ruled.buckets else description

    def bounds(self, name: str, metric_type: MetricType) -> tuple[float, ...]:
        """Return the upper bounds that values are counted by; none where there is no distribution."""
        if metric_type not in (MetricType.HISTOGRAM, MetricType.TIMER):
            return ()
        description = self.describe(name)
        if description.buckets or not self.default_buckets:
            return description.buckets
        unit = MetricUnit.MILLISECONDS if metric_type is MetricType.TIMER else description.unit
        return seconds_as(unit, self.default_buckets)

    def max_series(self, name: str) -> int:
        """Return how many series a name may have."""
        ruled = self.ruled.get(name)
        return (ruled and ruled.max_series) or self.budgets.series_per_name


class Tally(CounterSeries):
    """A counter on its own, for the store's own accounts."""

    __slots__ = ()

    def __init__(self, clock: Clock) -> None:
        ledger = Ledger(clock.monotonic_ns, CounterTrace.of, self._itself, _one_slot, _nothing, _no_matter)
        super().__init__(_ALONE, (), ledger)

    @property
    def total(self) -> int | float:
        """What was counted."""
        value: int | float = self.ledger.read(lambda _: 0 if self.state is None else self.state.value)
        return value

    def _itself(self) -> Iterable[Series]:
        return (self,)


class _Alone:
    """The home of a series without a metric."""

    name = "account"
    error_types: Container[str] = ()

    def tags_of(self, key: Any) -> dict[str, str]:
        return {}

    def admit(self, series: Series) -> Series:
        return series

    def admit_error_type(self, error_type: str) -> str:
        return error_type

    def refuse(self, error: InvalidInputError) -> None:
        raise error


_ALONE = _Alone()


def _nothing() -> None:
    """Ignore what does not happen: nobody holds the lock of an account for long."""


def _no_matter(_: object) -> None:
    """Ignore which account is busy: they are not looked up."""


def _one_slot() -> int:
    """Keep no windows of accounts."""
    return SLOT_NS


def nanoseconds(duration: timedelta) -> int:
    """Return a duration in nanoseconds."""
    return duration // timedelta(microseconds=1) * 1_000
