"""Cardinality: the budgets of a store, and what happens to records over budget.

No record is lost to a budget. Over the budget of series, only the tag that grew loses its new values, so that
totals and filters on every other tag stay exact. The windows of single series have a budget of memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording.engine import Core, ErrorTypes, InternalCounter, Series, Slot, TagSet
from metrics_framework.recording.windows import MAX_RECENT_NS, RECENT_SLOT_NS, RecentWindows
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.validation import check_count

OTHER = "__other__"
"""Stands for a tag's value, a name or an error type past its budget."""

MAX_COLLAPSED_TAGS = 16
"""How many tags of a metric may lose their new values before all of them do."""

COUNT_EVERY_NS = 1_000_000_000
"""How often a store that seems full counts its series again at most."""

MAX_ERROR_TYPES = 8_000
"""The limit of the budget of error types; an operation has one block of memory for their counts."""


class Budgets(NamedTuple):
    """Limits the names and series of a store.

    Attributes:
        series_per_name: Series of one metric or operation.
        series: Series in all.
        names: Metrics, timed operations and tracked operations, each.
        error_types: Error types of one operation.
        recent_bytes: Memory of the windows of single series, in bytes.
    """

    series_per_name: int = 10_000
    series: int = 100_000
    names: int = 2_000
    error_types: int = 100
    recent_bytes: int = 20_000_000


BUDGETS = Budgets()


def check_budgets(budgets: object) -> Budgets:
    """Return budgets.

    Raises:
        InvalidInputError: If they are not `Budgets`, or one is not a whole number of 1 or more, or too large.
    """
    if not isinstance(budgets, Budgets):
        raise InvalidInputError(
            f"budgets={budgets!r} must be a Budgets instance, like Budgets(series_per_name=1_000)"
        )
    for field, budget in budgets._asdict().items():
        check_count(f"budget {field}", budget)
    if budgets.error_types > MAX_ERROR_TYPES:
        raise InvalidInputError(
            f"budget error_types={budgets.error_types} is too large: pass {MAX_ERROR_TYPES} or fewer"
        )
    return budgets


class Cardinality:
    """The budgets of one store and how much of them is used.

    Args:
        budgets: The budgets.
        core: The numeric state of the store.
        notice: Has the next read log a warning.

    Attributes:
        overflowed: Counts the records that lost a tag's value, a name or an error type to a budget.
        series_count: About how many series there are; exact after each read, and counted again before a
            series is refused.
        count_series: Counts the series of the store.
        recent: The windows of single series.
    """

    def __init__(self, budgets: Budgets, core: Core, notice: Callable[..., None]) -> None:
        self.budgets = budgets
        self.overflowed = InternalCounter(core, "overflowed")
        self.series_count = 0
        self.count_series: Callable[[], int] = lambda: self.series_count
        self._now = core.now
        self._next_count_ns = 0
        self.recent = RecentMemory(core, budgets.recent_bytes)
        self.notice = notice

    def reset(self) -> None:
        """Start from zero in a child process; its series remain."""
        self.overflowed.reset()
        self.recent.reset()
        self._next_count_ns = 0

    def has_room(self) -> bool:
        """Return whether the store may have one more series."""
        most = self.budgets.series
        if self.series_count >= most and (now := self._now()) >= self._next_count_ns:
            # A handler that raises between a removal and its count leaves the number too high.
            self._next_count_ns = now + COUNT_EVERY_NS
            self.series_count = self.count_series()
        return self.series_count < most

    def admit_name(self, count: int) -> bool:
        """Return whether a namespace with ``count`` names accepts another one; count an overflow if not."""
        if count < self.budgets.names:
            return True
        self.overflowed.add(1)
        self.notice("too many names; new ones are counted together", kept_as=OTHER)
        return False

    def admit_error_type(self, error_types: ErrorTypes, error_type: str, operation: str) -> str:
        """Add an error type to those of an operation.

        Returns:
            The error type, or `OTHER` past the budget.
        """
        if len(error_types) < self.budgets.error_types:
            error_types.add(error_type)
            return error_type
        self.overflowed.add(1)
        self.notice("too many error types of one operation", operation=operation, kept_as=OTHER)
        if OTHER not in error_types:
            error_types.add(OTHER)
        return OTHER


class Limited(Protocol):
    """The metric that a `SeriesLimiter` limits."""

    name: str
    tag_sets: dict[tuple[str, ...], TagSet]

    @property
    def series_count(self) -> int:
        """The number of series."""
        ...

    def find(self, tags: Mapping[str, str]) -> Series | None:
        """Return the series of these tags if there is one."""
        ...

    def make(self, tags: Mapping[str, str]) -> Series:
        """Return the series of these tags, created if it does not exist, whatever the budget."""
        ...


class SeriesLimiter:
    """The budget of series of one metric.

    Args:
        cardinality: The budgets of the store.
        metric: The metric.
        max_series: Returns the budget of the metric.

    Attributes:
        collapsed_tags: The tags whose new values are counted together.
    """

    def __init__(self, cardinality: Cardinality, metric: Limited, max_series: Callable[[], int]) -> None:
        self._cardinality = cardinality
        self._metric = metric
        self._max_series = max_series
        self.collapsed_tags: tuple[str, ...] = ()
        self._collapsed_series = 0
        self._has_lost_all_tags = False

    def has_room(self) -> bool:
        """Return whether the metric may have one more series."""
        most = self._max_series()
        return (
            self._metric.series_count < most
            and len(self._metric.tag_sets) < most
            and self._cardinality.has_room()
        )

    def forget(self, series: Series) -> None:
        """Note that a series was removed."""
        if OTHER in series.values:
            self._collapsed_series = max(self._collapsed_series - 1, 0)

    def loses(self, tags: Mapping[str, str]) -> bool:
        """Return whether records with these tags may be counted in a series without them."""
        if any(name in self.collapsed_tags and value != OTHER for name, value in tags.items()):
            return True
        return self._has_lost_all_tags and tags.keys() != {OTHER}

    def collapse(self, tags: Mapping[str, str]) -> Series:
        """Return the series that records with these tags share over the budget, and count the overflow.

        Only the tag that grew loses its value, so that a filter on any other tag stays exact. If the series
        without it grow as well, the tag with the most values of the others follows. The last resort is a
        single series.
        """
        cardinality, metric = self._cardinality, self._metric
        cardinality.overflowed.add(1)
        most = cardinality.budgets.series
        room = max(self._max_series() // 10, 1)
        if cardinality.series_count >= most + most // 10:
            room = 0
        while True:
            shared = {name: OTHER if name in self.collapsed_tags else value for name, value in tags.items()}
            if shared != tags:
                found = metric.find(shared)
                if found is not None:
                    return found
                if self._collapsed_series < room:
                    self._collapsed_series += 1
                    return metric.make(shared)
            growing = [name for name in tags if name not in self.collapsed_tags]
            if not growing or len(self.collapsed_tags) >= MAX_COLLAPSED_TAGS:
                self._has_lost_all_tags = True  # permanently: this series may expire before the windows do
                last = {OTHER: OTHER}
                return metric.find(last) or metric.make(last)
            worst = self._most_varied(growing)
            self.collapsed_tags = (*self.collapsed_tags, worst)
            self._collapsed_series = 0
            cardinality.notice(
                "too many series of one name; a tag's new values are counted together",
                metric=metric.name,
                tag=worst,
                counted_as=OTHER,
            )

    def _most_varied(self, names: list[str]) -> str:
        values: dict[str, set[str]] = {name: set() for name in names}
        for tag_names, tag_set in list(self._metric.tag_sets.items()):
            places = [(place, name) for place, name in enumerate(tag_names) if name in values]
            for series in tag_set if places else ():
                for place, name in places:
                    values[name].add(series.values[place])
        return max(names, key=lambda name: len(values[name]))


# -- memory of the windows of single series --------------------------------------------------------------

QUIETER_NS = 60_000_000_000
"""How much longer than a series without windows one with windows is idle before it makes room."""

_SLOT_BYTES = 800
"""About how many bytes a recent slot takes beside its windows, as the operating system sees it."""

_NO_WINDOWS: RecentWindows[Any] = RecentWindows()


class RecentMemory:
    """Keeps the windows of single series within a limit of memory.

    At the limit, no further series gets windows, and a series whose windows would grow loses them. `reclaim`
    makes room.

    Args:
        core: The numeric state of the store.
        limit: The limit in bytes.

    Attributes:
        used: The approximate size of the windows in bytes.
        on_closed: Called with a series whose windows have grown.
    """

    def __init__(self, core: Core, limit: int) -> None:
        self._core = core
        self._limit = limit
        self.on_closed: Callable[[Series], object] | None = None
        core.publish_recent = self.publish
        self.reset()

    def reset(self) -> None:
        """Start without windows, at first or in a child process."""
        self.used = 0
        self._next_reclaim_ns = 0
        self._core.allows_recent = True

    def publish(self, series: Series) -> None:
        """Move the closed slots of a series into its windows; the engine calls it after a record."""
        slot = series.recent
        while slot is not None:
            windows, closed, _ = slot.peek()
            if not closed:
                return
            after = (_NO_WINDOWS if windows is None else windows).extend(closed)
            if slot.commit(windows, after, len(closed)):
                grown = after.nbytes + _SLOT_BYTES if windows is None else after.nbytes - windows.nbytes
                self.used += grown
                if self.used > self._limit:
                    self._core.allows_recent = False
                    if grown > 0:
                        self.drop(series)
                if self.on_closed is not None:
                    self.on_closed(series)
                return

    def drop(self, series: Series) -> None:
        """Drop the windows of a series."""
        slot = series.recent
        series.drop_recent()
        self.forget(slot)

    def forget(self, slot: Slot | None) -> None:
        """Note that the windows of a series, in its recent slot, were removed."""
        if slot is not None and slot.windows is not None:
            self.used = max(self.used - _nbytes(slot), 0)

    def reclaim(self, every: Iterable[Series]) -> None:
        """Make room at the limit: reads call it with all series of the store.

        Series that are idle for longer than windows reach back lose their windows first, then the quietest
        ones, if a series that recorded later has none.
        """
        core, now = self._core, self._core.now()
        if core.allows_recent or now < self._next_reclaim_ns:
            return
        self._next_reclaim_ns = now + RECENT_SLOT_NS
        holders: list[tuple[int, Series]] = []
        used, last_refused_ns = 0, 0
        for series in every:
            yield_gil()
            slot = series.recent
            if slot is not None:
                holders.append((series.last_ns, series))
                used += _nbytes(slot)
            elif series.recent_missed:
                last_refused_ns = max(last_refused_ns, series.last_ns)
        self.used = used
        enough = self._limit * 9 // 10
        for last_ns, series in sorted(holders, key=lambda holder: holder[0]):
            is_idle = last_ns < now - MAX_RECENT_NS
            if not is_idle and (self.used <= enough or last_ns >= last_refused_ns - QUIETER_NS):
                break
            self.drop(series)
        core.allows_recent = self.used <= enough


def _nbytes(slot: Slot) -> int:
    """Return the approximate size of the recent slot and the windows of a series, in bytes."""
    return _SLOT_BYTES + (0 if slot.windows is None else slot.windows.nbytes)
