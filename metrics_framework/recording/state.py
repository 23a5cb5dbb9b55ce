"""The state that all parts of a store share: time, budgets, descriptions and internal counters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, ParamSpec, Protocol, TypeVar, get_args
from weakref import WeakValueDictionary

from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import log_event
from metrics_framework.recording import engine
from metrics_framework.recording.buckets import check_bounds, default_bounds, seconds_as
from metrics_framework.recording.cardinality import Budgets, Cardinality
from metrics_framework.recording.engine import InternalCounter, Series
from metrics_framework.recording.exposed_names import Named, NameRegistry
from metrics_framework.recording.removals import Removal, RemovedSeries
from metrics_framework.recording.rules import Ruled
from metrics_framework.validation import check_choice, check_name, plain_tags, safe_repr
from metrics_framework.values import MetricType, MetricUnit

if TYPE_CHECKING:
    from metrics_framework.recording.engine import Slot
    from metrics_framework.recording.windows import RecentWindows, Windows

P = ParamSpec("P")
R = TypeVar("R")

OnError = Literal["raise", "log"]

MAX_SHARED_TEXTS = 1_024
"""How many tag values a store remembers, so that series share them."""

SLOTS_AT_ONCE = 8
"""How many closed slots of a name are moved into its windows at once: one by one takes longer."""

MAX_NOTICES = 100
"""How many warnings of one event are logged at most."""


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
        is_merge_given: Whether the application chose ``merge``. Otherwise, a gauge that is incremented and
            decremented is summed over several processes.
    """

    unit: MetricUnit | None = None
    help: str = ""
    merge: MergeLaw = "latest"
    buckets: tuple[float, ...] = ()
    window_by: tuple[str, ...] = ()
    expires: bool = True
    is_merge_given: bool = field(default=False, repr=False, compare=False)


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
        fields["is_merge_given"] = True
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


# -- other processes -------------------------------------------------------------------------------------


class OthersPart(NamedTuple):
    """What one other process recorded into a series, for windows by tags.

    Attributes:
        aggregate: All of its records.
        first_ns: Time of its first record.
        last_ns: Time of its last record.
        windows: Its recent windows; ``None`` if it has none.
        complete_ns: The moment from which on its windows are complete.
    """

    aggregate: Any
    first_ns: int
    last_ns: int
    windows: RecentWindows[Any] | None
    complete_ns: int


class Others(Protocol):
    """What other processes recorded, for a store that shares its numbers with them.

    Reads of the store rely on it. The numbers of single series are in the series; see `Series.set_others`.
    """

    @property
    def records(self) -> int:
        """The number of their records."""
        ...

    @property
    def rejected(self) -> int:
        """The number of records that they rejected and counted."""
        ...

    @property
    def overflowed(self) -> int:
        """How many of their records lost a tag value, a name or an error type to a budget."""
        ...

    @property
    def abandoned(self) -> int:
        """The number of timers that they abandoned."""
        ...

    def refresh(self) -> None:
        """Bring the series of the store up to date."""
        ...

    def windows(self, named: Named) -> list[tuple[Mapping[str, str], Windows[Any]]]:
        """Return the windows of a metric: those of each group of series, and the tags of the group."""
        ...

    def parts(self, series: Series) -> list[OthersPart]:
        """Return what each of the others recorded into a series."""
        ...

    def slot_closed(self, named: Named, slot: Slot) -> None:
        """Note that windows of a metric have grown. A record calls it."""
        ...

    def removed(self, named: Named, tags: Mapping[str, str] | None, time_ns: int) -> None:
        """Note that a name, or a series of it, was removed: with all records until a moment."""
        ...

    def bounds_changed(self, named: Named) -> None:
        """Note that values of a metric are counted by other bounds."""
        ...


# -- the state -------------------------------------------------------------------------------------------


class SharingWorker(Protocol):
    """This process as a worker of a group that shares its numbers. `Store.worker` is one."""

    @property
    def number(self) -> int:
        """The number of this worker, 0 or more; -1 if it has none, because the disk is full or gone."""
        ...

    @property
    def is_elected(self) -> bool:
        """Whether this worker does the work that one worker does for all."""
        ...


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
        descriptions_version: Another object after each change of a description.
        ruled: Name to what rules set: buckets, budget, exemption from expiry.
        default_buckets: Upper bounds without a description; times are in seconds. ``"by_unit"`` chooses them
            by the unit of the metric.
        name_registries: The exposed names, once for each place where they must be unique.
        on_removed: Called with each series that is removed: its owner's `Named`, the series, and its final
            aggregate.
        removals: The removals that are not reported yet, and the final aggregates of their series.
        consumers: Exporters of increments, which get the final aggregates too.
        others: What other processes recorded; ``None`` if the store is not shared.
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
        self.core.publish_at = SLOTS_AT_ONCE
        self.start_ns = self.core.now()
        self.tags = plain_tags(tags)
        self.retention_ns = nanoseconds(retention)
        self.expire_ns = None if expire_after is None else nanoseconds(expire_after)
        self.cardinality = Cardinality(budgets, self.core, self.notice)
        self.descriptions: dict[str, Description] = {}
        self.descriptions_version = object()
        self.ruled: dict[str, Ruled] = {}
        self.default_buckets: tuple[float, ...] | Literal["by_unit"] = ()
        self.name_registries: tuple[NameRegistry, ...] = ()
        self.on_removed: list[Callable[[Named, Series, Any], object]] = []
        self.removals: dict[Removal, Any] = {}
        self.consumers: WeakValueDictionary[int, RemovedSeries] = WeakValueDictionary()
        self.others: Others | None = None
        self.rejected = InternalCounter(self.core, "rejected")
        self.abandoned = InternalCounter(self.core, "abandoned")
        self._texts = [""] * MAX_SHARED_TEXTS
        self._on_error = on_error
        self._notices: dict[str, dict[str, Any]] = {}
        self._noticed: dict[str, set[str]] = {}

    def reset(self) -> None:
        """Start from zero in a child process."""
        self.core.reset()
        self.start_ns = self.core.now()
        self.removals.clear()
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
        self.count_rejected(error)

    def count_rejected(self, error: Exception) -> None:
        """Count an error that is not raised, and have the next read log it."""
        self.rejected.add(1)
        self.notice(
            "input refused", error=str(error) if isinstance(error, InvalidInputError) else safe_repr(error)
        )

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

    def live_consumers(self) -> list[RemovedSeries]:
        """Return the exporters of increments that still exist."""
        return [consumer for ref in self.consumers.valuerefs() if (consumer := ref()) is not None]

    def report_removals(self) -> None:
        """Count removed series, and call listeners and consumers, also after removals that were interrupted.

        Each step is taken from an iterator. If one raises, or a handler in the middle of it, the next call
        continues with the next step. Several threads share the steps of one removal.
        """
        for removal in list(self.removals):
            final = self._finished(removal)
            if final is removal:
                continue
            for step in removal.steps:
                step(removal, final)
            if final is not None:
                removal.give(final)
                for listener in removal.listeners:
                    listener(removal.named, removal.series, final)
            self.removals.pop(removal, None)
        for consumer in self.live_consumers():
            consumer.merge_if_many()

    def _finished(self, removal: Removal) -> Any:
        """Return the final aggregate of a removal; the removal itself if another thread has reported it.

        The pure engine can be interrupted in the middle of a removal, which is finished here.
        """
        final = self.removals.get(removal, removal)
        if final is removal.series:
            removal.series.tag_set.remove(removal.series, self.removals, removal)
            final = self.removals.get(removal, removal)
        return final

    def share_text(self, text: str) -> str:
        """Return an equal string that other series have too, if there is one.

        Many series have the same few tag values. One string for all of them saves memory, and stays in the
        processor's cache, where each record compares it with the tags that it is given.
        """
        place = hash(text) % MAX_SHARED_TEXTS
        known = self._texts[place]
        if known == text:
            return known
        self._texts[place] = text
        return text

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

    def set_description(self, name: str, description: Description) -> None:
        """Describe a name."""
        self.descriptions[name] = description
        self.descriptions_version = object()

    def describe(self, name: str) -> Description:
        """Return the description of a name; the fields that a rule sets win."""
        description, ruled = self.descriptions.get(name, NOT_DESCRIBED), self.ruled.get(name)
        if ruled is None:
            return description
        return replace(
            description,
            buckets=ruled.buckets or description.buckets,
            expires=description.expires if ruled.expires is None else ruled.expires,
        )

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
