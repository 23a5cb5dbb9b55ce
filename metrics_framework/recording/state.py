"""The state that all parts of a store share: time, budgets, descriptions and internal counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, ParamSpec, TypeVar, get_args

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.recording import engine
from metrics_framework.recording.buckets import check_bounds, default_bounds, seconds_as
from metrics_framework.recording.cardinality import Budgets, Cardinality
from metrics_framework.recording.engine import InternalCounter, Series
from metrics_framework.recording.rules import Ruled
from metrics_framework.validation import check_choice, check_name, plain_tags
from metrics_framework.values import MetricType, MetricUnit

P = ParamSpec("P")
R = TypeVar("R")

OnError = Literal["raise", "log"]

MAX_NOTICES = 100
"""How many warnings of one event are logged at most."""


class Named(NamedTuple):
    """The owner of exposed names: a metric, or one half of an operation.

    Attributes:
        name: The name as it is recorded.
        metric_type: The kind of its numbers; the outcomes of an operation are a rate.
        is_operation: Whether it is the durations or outcomes of an operation.
    """

    name: str
    metric_type: MetricType
    is_operation: bool

    def __str__(self) -> str:
        return f"operation {self.name!r}" if self.is_operation else repr(self.name)


# -- descriptions ----------------------------------------------------------------------------------------

MergeLaw = Literal["latest", "sum", "min", "max"]


class NotGiven(Enum):
    """The type of `NOT_GIVEN`, the default of arguments that change nothing."""

    NOT_GIVEN = "not given"

    def __repr__(self) -> str:
        return "NOT_GIVEN"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN


@dataclass(frozen=True)
class Description:
    """The description of a metric by the application.

    Attributes:
        unit: The unit of its numbers; timers always use milliseconds.
        help: What it measures, in a sentence.
        merge: How the series of a gauge are combined.
        buckets: Ascending upper bounds that values of a histogram or timer are counted by.
        window_by: Tags that time windows are kept apart for.
        expires: Whether idle series may be forgotten.
    """

    unit: MetricUnit | None = None
    help: str = ""
    merge: MergeLaw = "latest"
    buckets: tuple[float, ...] = ()
    window_by: tuple[str, ...] = ()
    expires: bool = True


NOT_DESCRIBED = Description()


def checked_fields(
    unit: object,
    help: object,
    merge: object,
    buckets: Iterable[float] | NotGiven,
    window_by: Iterable[str] | NotGiven,
    expires: object,
) -> dict[str, Any]:
    """Return the fields of a `Description` that are given.

    Raises:
        InvalidInputError: If an argument breaks its rule.
    """
    fields: dict[str, Any] = {"unit": unit, "help": help, "merge": merge, "expires": expires}
    fields = {name: value for name, value in fields.items() if value is not NOT_GIVEN}
    if not isinstance(fields.get("unit"), MetricUnit | None):
        raise InvalidInputError(f"unit={unit!r} is not a MetricUnit, like MetricUnit.BYTES")
    if not isinstance(fields.get("help", ""), str):
        raise InvalidInputError(f"help={help!r} is not a string")
    if "merge" in fields:
        check_choice("merge", merge, get_args(MergeLaw))
    if not isinstance(fields.get("expires", True), bool):
        raise InvalidInputError(f"expires={expires!r} is not true or false")
    if buckets is not NOT_GIVEN:
        fields["buckets"] = check_bounds(buckets) if buckets else ()
    if window_by is not NOT_GIVEN:
        fields["window_by"] = _tag_names(window_by)
    return fields


def _tag_names(window_by: Iterable[str]) -> tuple[str, ...]:
    if isinstance(window_by, str):
        raise InvalidInputError(f"window_by={window_by!r} is one string; pass a list: [{window_by!r}]")
    try:
        names = tuple(window_by)
    except TypeError:
        raise InvalidInputError(f"window_by={window_by!r} is not a list of tag names") from None
    return tuple(check_name(name, "tag name") for name in names)


# -- the state -------------------------------------------------------------------------------------------


class Removal:
    """The removal of a series, and the steps that follow it.

    Args:
        steps: Called with the removal and the final aggregate, before the listeners.
        series: The series.
        had_records: Whether it had records before.
        listeners: Called with the series and its final aggregate.
    """

    def __init__(
        self,
        steps: Iterable[Callable[[Removal, Any], None]],
        series: Series,
        had_records: bool,
        listeners: Iterable[Callable[[Named, Series, Any], object]],
    ) -> None:
        self.steps = iter(steps)
        self.series = series
        self.named: Named = series.owner.named
        self.recent = series.recent
        self.last_ns = series.last_ns
        self.had_records = had_records
        self.listeners = iter(listeners)


class StoreState:
    """The state that all parts of a store share: time, budgets, descriptions and internal counters.

    Attributes:
        core: The numeric state.
        clock: The source of time.
        start_ns: When the store began, on the monotonic clock.
        tags: Constant tags.
        retention_ns: The maximum length of a window.
        expire_ns: How long a series may be idle before it is removed; ``None`` is forever.
        cardinality: The budgets.
        descriptions: Name to description.
        ruled: Name to the buckets and budget that rules set.
        default_buckets: Upper bounds without a description; times are in seconds. ``"by_unit"`` chooses them
            by the unit of the metric.
        on_removed: Called with each series that is removed: its owner's `Named`, the series, and its final
            aggregate.
        removals: The removals that are not reported yet, and the final aggregates of their series.
        rejected: Counts rejected input, if errors are not raised.
        abandoned: Counts the timers that were started, never stopped, and abandoned.
    """

    def __init__(
        self,
        clock: Clock,
        retention: timedelta,
        on_error: OnError,
        budgets: Budgets,
        expire_after: timedelta | None,
        tags: Mapping[str, str] | None,
    ) -> None:
        self.clock = clock
        self.core = engine.Core(None if clock is SYSTEM_CLOCK else clock.monotonic_ns)
        self.start_ns = self.core.now()
        self.tags = plain_tags(tags)
        self.retention_ns = nanoseconds(retention)
        self.expire_ns = None if expire_after is None else nanoseconds(expire_after)
        self.cardinality = Cardinality(budgets, self.core, self.notice)
        self.descriptions: dict[str, Description] = {}
        self.ruled: dict[str, Ruled] = {}
        self.default_buckets: tuple[float, ...] | Literal["by_unit"] = ()
        self.on_removed: list[Callable[[Named, Series, Any], object]] = []
        self.removals: dict[Removal, Any] = {}
        self.rejected = InternalCounter()
        self.abandoned = InternalCounter()
        self._on_error = on_error
        self._notices: dict[str, dict[str, Any]] = {}
        self._noticed: dict[str, set[str]] = {}

    def reset(self) -> None:
        """Start from zero in a child process."""
        self.core.reset()
        self.start_ns = self.core.now()
        self.cardinality.reset()
        self.rejected.reset()
        self.abandoned.reset()

    def refuse(self, error: InvalidInputError) -> None:
        """Raise an error, or count it and have the next read log it.

        Raises:
            InvalidInputError: ``error``, unless the store logs errors.
        """
        if self._on_error == "raise":
            raise error
        self.rejected.add(1)
        self.notice("input refused", error=str(error))

    def checked(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """Return the result of a function; ``None`` if it rejected its input and that was counted.

        Raises:
            InvalidInputError: If it rejected its input, unless the store logs errors.
        """
        try:
            return function(*args, **kwargs)
        except InvalidInputError as error:
            self.refuse(error)
            return None

    def report_removals(self) -> None:
        """Count removed series and call the listeners, also after removals that were interrupted.

        Each step is taken from an iterator. If one raises, or a handler in the middle of it, the next call
        continues with the next step. Several threads share the steps of one removal.
        """
        for removal, final in list(self.removals.items()):
            for step in removal.steps:
                step(removal, final)
            for listener in () if final is None else removal.listeners:
                listener(removal.named, removal.series, final)
            self.removals.pop(removal, None)

    def notice(self, event: str, **fields: Any) -> None:
        """Schedule a warning for the next read, once for the same fields. A record never logs."""
        key = f"{event} {fields}"
        noticed = self._noticed.setdefault(event, set())
        if key not in noticed and len(noticed) < MAX_NOTICES:
            noticed.add(key)
            self._notices[key] = {"event": event, **fields}

    def log_notices(self) -> None:
        """Log the warnings of records."""
        for key in list(self._notices):
            fields = self._notices.pop(key, None)
            if fields is not None:  # otherwise another thread was faster
                log_event("warning", **fields)

    def describe(self, name: str) -> Description:
        """Return the description of a name; buckets that a rule sets win."""
        description, ruled = self.descriptions.get(name, NOT_DESCRIBED), self.ruled.get(name)
        return replace(description, buckets=ruled.buckets) if ruled and ruled.buckets else description

    def bounds(self, name: str, metric_type: MetricType) -> tuple[float, ...]:
        """Return the bucket bounds of a metric; empty for counters and gauges."""
        if metric_type not in (MetricType.HISTOGRAM, MetricType.TIMER):
            return ()
        description = self.describe(name)
        if description.buckets:
            return description.buckets
        unit = MetricUnit.MILLISECONDS if metric_type is MetricType.TIMER else description.unit
        if self.default_buckets == "by_unit":
            return default_bounds(unit, name)
        return seconds_as(unit, self.default_buckets) if self.default_buckets else ()

    def max_series(self, name: str) -> int:
        """Return the maximum number of series of a name."""
        ruled = self.ruled.get(name)
        return (ruled and ruled.max_series) or self.cardinality.budgets.series_per_name


def nanoseconds(duration: timedelta) -> int:
    """Return a duration in nanoseconds."""
    return duration // timedelta(microseconds=1) * 1_000
