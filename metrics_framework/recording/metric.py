"""One metric: its series by their tags, within a budget, and the ledgers that fold them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import kinds
from metrics_framework.recording.bounds import BucketCounts
from metrics_framework.recording.claims import Named
from metrics_framework.recording.commons import Commons
from metrics_framework.recording.gauges import GaugeLedger
from metrics_framework.recording.hot import NOBODY, Lookup
from metrics_framework.recording.instruments import Series
from metrics_framework.recording.kinds import Kind
from metrics_framework.recording.ledger import TOGETHER, Ledger, parts
from metrics_framework.recording.windows import Window
from metrics_framework.turns import rest

OTHER = "__other__"
"""What stands for a tag's value, a name or an error type past its budget."""

LINGER_NS = 60_000_000_000
"""How long a removed series is still folded: a thread may have been about to record into it."""

MAX_COLLAPSED = 16
"""How many tags of a metric may lose their values before all of them do."""

MAX_WINDOW_GROUPS = 100
"""How many groups of series a metric may keep windows apart for."""


class Shape:
    """The series of a metric that have the same tag names, and their home.

    Attributes:
        metric: The metric.
        names: The tag names, sorted.
        known: Series by the values of those tags: a tuple, or the value itself where there is one name.
        values_of: Gets that key out of tags.
    """

    __slots__ = ("known", "metric", "names", "values_of")

    def __init__(self, metric: Metric, names: tuple[str, ...]) -> None:
        self.metric = metric
        self.names = names
        self.known: dict[Any, Series] = {}
        self.values_of: Callable[[Any], Any] = itemgetter(*names) if names else _no_values

    @property
    def name(self) -> str:
        """The metric's name."""
        return self.metric.name

    @property
    def error_types(self) -> dict[str, None]:
        """The error types that an operation has seen, as far as its budget goes."""
        return self.metric.error_types

    def tags_of(self, key: Any) -> dict[str, str]:
        """Return the tags that a key stands for."""
        return dict(zip(self.names, (key,) if len(self.names) == 1 else key, strict=True))

    def admit(self, series: Series) -> Series | None:
        """Return the series to record into in place of ``series``: itself, unless it was removed."""
        if self.known.get(series.key) is series:
            return series
        try:
            return self.metric.readmit(self, series)
        except InvalidInputError as error:
            self.refuse(error)
            return None

    def admit_error_type(self, error_type: str) -> str:
        """Return what a new error type is counted as."""
        return self.metric.admit_error_type(error_type)

    def refuse(self, error: InvalidInputError) -> None:
        """Raise an error, or count it."""
        self.metric.commons.refuse(error)


class Metric:
    """A name with its series.

    Windows are kept by ledger. A metric has one, unless its description asks for windows by tag: then it
    has one for each combination of those tags' values.

    Args:
        commons: What it shares with the rest of the store.
        named: Its name, and whether it is an operation.
        kind: What is kept of it.
        lookup: Where its series can be found fast.
        successor: Returns the metric that has the name now, a new one if need be.

    Attributes:
        shapes: Series by the set of their tag names.
        declared: Whether it is known without any record.
        version: Another object each time that a series came or went.
        error_types: Those that an operation has seen, as far as its budget goes.
    """

    def __init__(
        self,
        commons: Commons,
        named: Named,
        kind: Kind,
        lookup: Lookup,
        successor: Callable[[], Metric],
    ) -> None:
        self.commons = commons
        self.name = name = named.name
        self.named = named
        self.kind = kind
        self.shapes: dict[tuple[str, ...], Shape] = {}
        self.declared = False
        self.version = object()
        self.error_types: dict[str, None] = {}
        self.window_by = commons.describe(name).window_by if kind is not kinds.GAUGE else ()
        self._lookup = lookup
        self._successor = successor
        self._ledgers: dict[tuple[str, ...], Ledger] = {}
        self._leaving: dict[Series, int] = {}
        self._busy: Series | None = None
        self._collapsed: tuple[str, ...] = ()
        self._collapsed_series = 0

    # -- series ----------------------------------------------------------------------------------------

    def series(self) -> Iterator[Series]:
        """Yield all series as they are now."""
        for shape in list(self.shapes.values()):
            yield from list(shape.known.values())

    @property
    def series_count(self) -> int:
        """How many series there are."""
        return sum(len(shape.known) for shape in list(self.shapes.values()))

    def find(self, tags: Mapping[str, str]) -> Series | None:
        """Return the series of these tags if there is one."""
        shape = self.shapes.get(tuple(tags))
        return None if shape is None else shape.known.get(shape.values_of(tags))

    def find_or_make(self, tags: Mapping[str, str]) -> Series:
        """Return the series of these tags: a new one while the budget lasts, else one that shares them.

        Args:
            tags: Tags as `plain_tags` returns them.
        """
        budgets, max_series = self.commons.budgets, self.commons.max_series(self.name)
        found = self.find(tags)
        if found is not None:
            self._learn(self.shapes[tuple(tags)], found)
            return found
        if (
            self.series_count < max_series
            and len(self.shapes) < max_series
            and self.commons.roughly_series < budgets.series
        ):
            return self._make(tags)
        self.commons.overflowed.add(1)
        return self._collapse(dict(tags))

    def readmit(self, shape: Shape, series: Series) -> Series:
        """Take a removed series that somebody holds on to back in, or return the one in its place."""
        successor = self._successor()
        if successor is not self:
            return successor.find_or_make(series.tags)
        live = shape.known.setdefault(series.key, series)
        self.version = object()
        self._learn(shape, live)
        return live

    def remove(self, series: Series) -> None:
        """Forget a series; what it recorded stays in the metric's windows and totals."""
        shape = self.shapes[tuple(series.tags)]
        # First into the one place, then out of the other: a read in between must not miss it.
        self._leaving[series] = self.commons.clock.monotonic_ns()
        if shape.known.get(series.key) is series:
            shape.known.pop(series.key, None)
            self.version = object()
            if OTHER in series.tags.values():
                self._collapsed_series = max(self._collapsed_series - 1, 0)
        if not shape.names and self._lookup.untagged.get(self.name) is series:
            self._lookup.untagged.pop(self.name, None)
        entry = self._lookup.tagged.get(self.name)
        if entry is not None and entry[1] is series:
            self._lookup.tagged[self.name] = (NOBODY, None, entry[2])
        series.ledger.remove(series)
        series.slot_end = 0  # the next record into it, if there is one, has to look around

    def expire(self, many: Iterable[Series], before_ns: int) -> None:
        """Remove those of some series whose last record is older than a moment."""
        for series in many:
            if 0 < series.slot_end < before_ns:
                self.remove(series)

    def _make(self, tags: Mapping[str, str]) -> Series:
        names = tuple(tags)
        shape = self.shapes.get(names) or self.shapes.setdefault(names, Shape(self, names))
        key = shape.values_of(tags)
        ledger = self._ledger(tags)
        # setdefault is one step: of two threads that get here at once, both get the same series.
        series = shape.known.setdefault(key, self.kind.series(shape, key, ledger))
        self.version = object()
        self.commons.roughly_series += 1
        ledger.share(self.series_count)
        self._learn(shape, series)
        return series

    def _learn(self, shape: Shape, series: Series) -> None:
        """Let a series be found fast."""
        if not shape.names:
            if shape.known.get(()) is series:
                self._lookup.untagged[self.name] = series
        else:
            tagged = self._lookup.tagged
            entry = tagged.get(self.name) or tagged.setdefault(self.name, (series.tags, series, {}))
            entry[2].setdefault(len(shape.names), (shape.values_of, shape.known))
        self._unlearn_if_gone()

    def _favour(self, series: Series) -> None:
        """Let a series be found fastest that filled its buffer twice, and no other one in between."""
        if series is not self._busy:
            self._busy = series
            return
        tagged = self._lookup.tagged
        entry = tagged.get(self.name)
        if entry is not None and entry[1] is not series and series.key != ():
            tagged[self.name] = (series.tags, series, entry[2])
            self._unlearn_if_gone()

    def _unlearn_if_gone(self) -> None:
        if not self._is_current():  # the name was removed meanwhile: nobody may find this metric any more
            self._lookup.untagged.pop(self.name, None)
            self._lookup.tagged.pop(self.name, None)

    def _is_current(self) -> bool:
        try:
            return self._successor() is self
        except InvalidInputError:  # it is another kind of metric now
            return False

    def count_by(self, bounds: tuple[float, ...]) -> None:
        """Count values by bounds, from zero where they are others than before."""
        for ledger in self.ledgers:
            ledger.count_by(bounds)

    # -- reading ---------------------------------------------------------------------------------------

    @property
    def ledgers(self) -> list[Ledger]:
        """All ledgers."""
        return list(self._ledgers.values())

    def window(self, window_ns: int | None, tags: Mapping[str, str] | None = None) -> Window[Any]:
        """Return what all series recorded in a window, or those in the groups that carry ``tags``."""
        asked, start = set((tags or {}).items()), self.commons.start_ns
        now, nothing = self.commons.clock.monotonic_ns(), self.kind.nothing
        edge = start if window_ns is None else max(now - window_ns, start)
        joined = Window(nothing, edge, now, None)
        groups = [dict(zip(self.window_by, group, strict=True)) for group in list(self._ledgers)]
        if asked and {OTHER} in (set(group.values()) for group in groups) and dict(asked) not in groups:
            raise InvalidInputError(
                f"{self.name!r} has more than {MAX_WINDOW_GROUPS} combinations of {list(self.window_by)!r},"
                f" so those of {dict(asked)!r} cannot be told apart any more"
            )
        for group, ledger in list(self._ledgers.items()):
            if asked <= set(zip(self.window_by, group, strict=True)):
                windows = ledger.read(lambda windows: windows)
                now = self.commons.clock.monotonic_ns()
                joined = joined.join(windows.since(window_ns, start, now, nothing))
        return joined

    def states(self) -> Iterator[tuple[int, Series, Any, BucketCounts | None]]:
        """Yield each series that has records with its trace and bucket counts, and when those were read."""
        for ledger in self.ledgers:
            states = ledger.read(partial(self._states, ledger))
            now = self.commons.clock.monotonic_ns()
            for series, state in zip(*states, strict=True):
                if state is not None:
                    yield now, series, *parts(state)

    def catch_up(self) -> None:
        """Publish every finished record; a series that has none waiting costs a look at its buffer."""
        # A removed series that came back is listed twice, and must not be folded twice at once.
        waiting: dict[Ledger, dict[Series, None]] = {}
        for series in (*self.series(), *list(self._leaving)):
            if len(series.buffer) > 1:
                waiting.setdefault(series.ledger, {})[series] = None
        for ledger in self.ledgers:
            if ledger in waiting or isinstance(ledger, GaugeLedger):  # whose series share one buffer
                many = iter(waiting.get(ledger, ()))
                ledger.catch_up(islice(many, TOGETHER))
                while some := list(islice(many, TOGETHER)):
                    rest()
                    ledger.catch_up(some)

    def _states(self, ledger: Ledger, _: object) -> tuple[list[Series], list[Any]]:
        # No pair of each: a hundred thousand would have the garbage collector look at all that there is.
        many = [series for series in self.series() if series.ledger is ledger]
        return many, [series.state for series in many]

    def reset(self) -> None:
        """Begin anew in a child process: what is held stays valid, what was recorded is the parent's."""
        for ledger in self.ledgers:
            ledger.reset()
        for series in (*self.series(), *self._leaving):
            series.reset()
        self.error_types.clear()

    # -- ledgers ---------------------------------------------------------------------------------------

    def _ledger(self, tags: Mapping[str, str]) -> Ledger:
        group = tuple(tags.get(name, "") for name in self.window_by)
        if group not in self._ledgers and len(self._ledgers) >= MAX_WINDOW_GROUPS:
            self.commons.notice(
                "too many groups of one name; windows of new ones are kept together", metric=self.name
            )
            group = (OTHER,) * len(group)
        ledger = self._ledgers.get(group)
        if ledger is None:
            ledger = self._ledgers.setdefault(group, self._new_ledger(group))
        return ledger

    def _new_ledger(self, group: tuple[str, ...]) -> Ledger:
        commons = self.commons
        members = partial(self._members, group)
        ledger: Ledger
        if self.kind is kinds.GAUGE:
            ledger = GaugeLedger(
                commons.clock.monotonic_ns,
                members,
                commons.retention,
                commons.drop,
                self._favour,
                self._merge_law,
                commons.tap,
            )
        else:
            ledger = Ledger(
                commons.clock.monotonic_ns,
                self.kind.of,
                members,
                commons.retention,
                commons.drop,
                self._favour,
                commons.tap,
            )
            ledger.bounds = commons.bounds(self.name, self.kind.metric_type)
        return ledger

    def _members(self, group: tuple[str, ...]) -> Iterator[Series]:
        ledger = self._ledgers[group]
        for series in self.series():
            if series.ledger is ledger:
                yield series
        if self._leaving:
            long_ago = self.commons.clock.monotonic_ns() - LINGER_NS
            leaving = [item for item in list(self._leaving.items()) if item[0].ledger is ledger]
            yield from (series for series, _ in leaving)
            for series, since in leaving:
                if since < long_ago and len(series.buffer) <= 1:
                    self._leaving.pop(series, None)

    def _merge_law(self) -> str:
        return self.commons.describe(self.name).merge

    # -- budgets ---------------------------------------------------------------------------------------

    def admit_error_type(self, error_type: str) -> str:
        """Return what an error type that was not seen before is counted as: itself while the budget lasts."""
        if len(self.error_types) < self.commons.budgets.error_types:
            self.error_types[error_type] = None
            return error_type
        self.commons.overflowed.add(1)
        self.commons.notice("too many error types of one operation", operation=self.name, kept_as=OTHER)
        return OTHER

    def _collapse(self, tags: dict[str, str]) -> Series:
        """Return the series that stands for these tags once there is no room for one of their own.

        Only the tag that grew loses its value, so that a filter on any other tag stays exact. Where the
        series that are left over by that grow as well, the next worst tag follows. A single series is last.
        """
        budgets = self.commons.budgets
        room = max(self.commons.max_series(self.name) // 10, 1)
        if self.commons.roughly_series >= budgets.series + budgets.series // 10:
            room = 0
        while True:
            shared = {name: OTHER if name in self._collapsed else value for name, value in tags.items()}
            if shared != tags:
                found = self.find(shared)
                if found is not None:
                    return found
                if self._collapsed_series < room:
                    self._collapsed_series += 1
                    return self._make(shared)
            growing = [name for name in tags if name not in self._collapsed]
            if not growing or len(self._collapsed) >= MAX_COLLAPSED:
                last = {OTHER: OTHER}
                return self.find(last) or self._make(last)
            worst = self._most_varied(growing)
            self._collapsed = (*self._collapsed, worst)
            self._collapsed_series = 0
            self.commons.notice(
                "too many series of one name; a tag's new values are counted together",
                metric=self.name,
                tag=worst,
                counted_as=OTHER,
            )

    def _most_varied(self, names: list[str]) -> str:
        values: dict[str, set[str]] = {name: set() for name in names}
        for series in self.series():
            for name, value in series.tags.items():
                if name in values:
                    values[name].add(value)
        return max(names, key=lambda name: len(values[name]))


def _no_values(_: object) -> tuple[()]:
    return ()
