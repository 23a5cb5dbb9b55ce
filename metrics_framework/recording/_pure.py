"""The recording engine in pure Python: the same names and results as the compiled engine, but slower.

A record is one assignment, ``core.pending[object()] = (series, value, now, flag)``, and a check of whether to
flush. A flush takes the pending records, computes the new states of their series and slots on the side, and
appends a `_Commit` to a chain of commits. `dict.setdefault` on the last commit makes that one step: of
several flushes at the same time, one wins and the others start again.

Then the commit is applied: each old state is linked to the new one in its place, and the records are removed
from ``pending``. Applying a commit twice, late, or in several threads does no harm, because an old state
always leads to the same new one and each record has a key of its own. A flush applies the last commit before
it begins, so it finishes a flush that was interrupted anywhere. None of this needs a lock.

Everything else that changes a state (windows, bounds, a removal, a reset) is a commit, too.
"""

from __future__ import annotations

import struct
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, count
from operator import itemgetter
from typing import Any, Generic, NamedTuple, NoReturn, Self, TypeVar

from metrics_framework.errors import UnknownTimerError
from metrics_framework.recording.aggregates import (
    INT64_MAX,
    INT64_MIN,
    MAX_FLOAT,
    MIN_FLOAT,
    ZERO,
    CounterAggregate,
    GaugeAggregate,
    OutcomeAggregate,
    Sum,
    added,
    within_int64,
)
from metrics_framework.recording.distribution import Distribution, weighted_values
from metrics_framework.validation import OBJECT_ERRORS
from metrics_framework.values import MetricUnit, TimingResult, pending_timing

__all__ = [
    "LAYOUT",
    "RECENT_NS",
    "Core",
    "CounterAggregate",
    "CounterSeries",
    "Distribution",
    "ErrorTypes",
    "GaugeAggregate",
    "GaugeSeries",
    "HistogramSeries",
    "InternalCounter",
    "OperationRecorder",
    "OutcomeAggregate",
    "OutcomeSeries",
    "RecordLog",
    "Recorder",
    "RunningTimers",
    "Series",
    "SeriesIndex",
    "Slot",
    "Stopwatch",
    "TagSet",
    "TimerSeries",
    "monotonic_ns",
    "read_values",
    "read_versions",
]

LAYOUT = 3
"""The version of the engine interface; see ``engine.py``."""

MAX_PENDING_RECORDS = 512
"""How many records of a core may be pending before the next one flushes."""

MAX_FLUSHED_RECORDS = 4_096
MIN_FLUSHED_RECORDS = 16
"""How many records one commit adds: fewer after flushes that were interrupted, so that one gets through."""

MAX_NESTED_FLUSHES = 3
"""How many flushes the records that close a slot may begin before one of them has ended."""

SLOT_NS = 1_000_000_000
"""The width of a slot."""

RECENT_NS = 16_000_000_000
"""The width of a recent slot."""

MAX_NAMES = 10_000
"""How many names a `SeriesIndex` holds."""

MAX_ALIASES = 10_000
"""How many aliases of one name a `SeriesIndex` holds."""

MAX_READ_ATTEMPTS = 10
"""How often `read_values` starts again because of records that arrive while it reads."""

NEVER_NS = 1 << 63
MILLISECONDS = MetricUnit.MILLISECONDS  # a module global is cheaper than an attribute of the enumeration

monotonic_ns = time.perf_counter_ns

T = TypeVar("T")
S = TypeVar("S", bound="_State")

_Reading = tuple[Any, "tuple[int, ...] | None", int | float, int, int]
"""The aggregate of a series, its counts by bounds and their sum, and when it was recorded first and last."""

LoggedRecord = tuple["Series", Any, int, Any, int]
"""Series, value, number of the record within its series, the number of `RecordLog`, and time."""


# A pending record is a plain tuple: series, value, time, and a flag that says whether the value is the step
# of a gauge, or the duration of a failure. A gauge slot that changes without a record has no series.


class _Columns(NamedTuple):
    """Records, transposed: flushing columns is several times as fast as flushing one record after another.

    No method allocates an object for each record that the garbage collector counts. Otherwise a flush would
    start so many collections that a collector's callbacks that record could keep it from ever catching up.

    Attributes:
        has_flags: Whether one of the flags is true.
        is_rising: Whether no time is less than the one before it, as nearly always.
        earliest_ns: The least of the times.
        latest_ns: The greatest of the times.
    """

    series: Sequence[Any]
    values: Sequence[Any]
    times: Sequence[int]
    flags: Sequence[bool]
    has_flags: bool
    is_rising: bool
    earliest_ns: int
    latest_ns: int

    @classmethod
    def of(cls, records: Sequence[Any]) -> _Columns:
        """Transpose at least one record."""
        return cls.of_columns(*(list(map(item, records)) for item in _ITEMS))

    @classmethod
    def of_columns(
        cls, series: Sequence[Any], values: Sequence[Any], times: list[int], flags: Sequence[bool]
    ) -> _Columns:
        in_order = sorted(times)
        return cls(series, values, times, flags, any(flags), in_order == times, in_order[0], in_order[-1])

    @classmethod
    def of_one(cls, series: Any, value: Any, now: int, flag: bool) -> _Columns:
        return cls((series,), (value,), (now,), (flag,), flag, True, now, now)

    def at(self, places: Sequence[int]) -> _Columns:
        """Return the records at some places."""
        if len(places) == 1:  # frequent among many series
            place = places[0]
            return _Columns.of_one(
                self.series[place], self.values[place], self.times[place], self.flags[place]
            )
        columns: Any = ([column[place] for place in places] for column in self[:4])
        return _Columns.of_columns(*columns)

    def between(self, start: int, end: int) -> _Columns:
        """Return the records from one place up to another."""
        columns: Any = (column[start:end] for column in self[:4])
        return _Columns.of_columns(*columns)

    def records(self) -> Iterator[Any]:
        return zip(*self[:4], strict=True)

    def distinct_series(self) -> Iterable[Any]:
        """Return each series once."""
        first = self.series[0]
        if first is self.series[-1] and self.series.count(first) == len(self.series):
            return (first,)  # frequent, and faster than the set
        return set(self.series)


_ITEMS = tuple(map(itemgetter, range(4)))
"""Takes one item each out of a pending record."""


# -- states and commits ----------------------------------------------------------------------------------


class _State:
    """An immutable state of a series, a slot or a log.

    Attributes:
        epoch: The number of resets before it. After another reset, the state counts as empty.
        next: The state in its place, or ``None`` while it is the current one.
    """

    __slots__ = ("epoch", "next")

    epoch: int
    next: Self | None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some attributes changed."""
        copy = object.__new__(type(self))
        for name in self.__slots__:
            setattr(copy, name, getattr(self, name))
        copy.epoch, copy.next = self.epoch, None
        for name, value in changes.items():
            setattr(copy, name, value)
        return copy

    def emptied(self, epoch: int) -> Self:
        """Return the state after a reset."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """The approximate size of its numbers."""
        raise NotImplementedError


class _Stateful(Generic[S]):
    """An object whose state is replaced by commits: a series, a slot or a log."""

    __slots__ = ("_core", "_state")

    _core: Core
    _state: S

    def adopt(self, state: S) -> None:
        """Remember a state that may be the current one."""
        self._state = state

    def last_state(self) -> S:
        """Return the state of the last commit that was applied."""
        state = self._state
        while (following := state.next) is not None:
            state = following
        self._state = state
        return state

    def read(self) -> S:
        """Return the state with all pending records in it."""
        return self.state_at(self._core.flush())

    def state_at(self, commit: _Commit) -> S:
        """Return the last state, emptied if it is older than the last reset."""
        state = self.last_state()
        return state if state.epoch == commit.epoch else state.emptied(commit.epoch)


class _Commit:
    """The result of a flush.

    Attributes:
        number: Its position in the chain of commits.
        epoch: The number of resets so far.
        records: The number of records since the last reset.
        nbytes: The approximate size of all states.
        logs: The subscribed logs.
        links: Objects that changed, each with its old state and its new one.
        keys: The keys of the records that are in the new states.
        note: A removal's note of its final aggregate, if the commit removes a series: dict, key, aggregate.
        is_applied: Whether the old states lead to the new ones and the records are no longer pending.
        next: Holds the next commit, once there is one.
    """

    __slots__ = (
        "epoch",
        "is_applied",
        "keys",
        "links",
        "logs",
        "nbytes",
        "next",
        "note",
        "number",
        "records",
    )

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.epoch = 0
        self.records = 0
        self.nbytes = 0
        self.logs: tuple[RecordLog, ...] = ()
        self.links: Sequence[tuple[_Stateful[Any], _State, _State]] = ()
        self.keys: Sequence[object] = ()
        self.note: tuple[dict[Any, Any], object, Any] | None = None
        self.is_applied = False
        self.next: dict[None, _Commit] = {}


class _Draft:
    """The new states that a commit is going to publish. Only one thread sees it.

    Attributes:
        commit: The commit that it becomes.
    """

    def __init__(self, core: Core, last: _Commit) -> None:
        self.core = core
        commit = self.commit = _Commit(last.number + 1)
        commit.epoch, commit.records = last.epoch, last.records
        commit.nbytes, commit.logs = last.nbytes, last.logs
        self._changed: dict[_Stateful[Any], Any] = {}

    def get(self, one: _Stateful[S]) -> S:
        """Return the state of an object as it is in this draft."""
        state: S | None = self._changed.get(one)
        return one.state_at(self.commit) if state is None else state

    def put(self, one: _Stateful[S], state: S) -> None:
        """Replace the state of an object."""
        self.commit.nbytes += state.nbytes - self.get(one).nbytes
        self._changed[one] = state

    def finish(self, keys: Sequence[object]) -> _Commit:
        """Return the commit."""
        commit = self.commit
        commit.keys = keys
        commit.links = [(one, one.last_state(), state) for one, state in self._changed.items()]
        return commit

    def reset(self) -> None:
        """Empty every state."""
        self._changed.clear()
        commit = self.commit
        commit.epoch += 1
        commit.records = commit.nbytes = 0

    def add(self, records: Sequence[Any], removed: Series | None) -> None:
        """Add pending records, in their order.

        Args:
            records: The records.
            removed: A series that is being removed: the last moment for its records.
        """
        columns = self._with_live_series(_Columns.of(records), removed)
        if columns is None:
            return
        if columns.has_flags:
            columns = self._without_steps(columns)
        if self.commit.logs:
            self._log(columns)
        self.commit.records += len(columns.series)
        for slot, its_columns in _grouped(columns, lambda series: series.slot):
            self._add_to_slot(slot, its_columns)

    def _with_live_series(self, columns: _Columns, removed: Series | None) -> _Columns | None:
        """Redirect records of series that were removed after the records began; ``None`` if none is left."""
        redirected = {
            series: series.readmitted()
            for series in columns.distinct_series()
            if series is not removed and not series.is_live
        }
        if not redirected:
            return columns
        series = [redirected.get(one, one) for one in columns.series]
        kept = [place for place, one in enumerate(series) if one is not None]
        return columns._replace(series=series).at(kept) if kept else None

    def _without_steps(self, columns: _Columns) -> _Columns:
        """Return records with the values that gauges have after their steps."""
        after = list(columns.values)
        values: dict[Series, int | float] = {}
        for place, (series, value, _, flag) in enumerate(columns.records()):
            if not isinstance(series, GaugeSeries):
                continue
            if flag:
                if series not in values:
                    aggregate = self.get(series).aggregate
                    values[series] = 0 if aggregate is None else aggregate.last
                value = added(values[series], value)
            values[series] = after[place] = value
        return columns._replace(values=after)

    def _add_to_slot(self, slot: Slot, columns: _Columns) -> None:
        is_combined = slot.kind == "gauge" and slot.law != "latest"
        run, part = self._extend(slot, self._wholes(slot, columns) if is_combined else columns)
        for series, its_columns in _grouped(columns, lambda series: series):
            self._add_to_series(series, its_columns, part if run is its_columns else None)

    def _extend(self, slot: Slot, changes: _Columns) -> tuple[_Columns, Any]:
        """Add records to a slot, and return those of the last second with their aggregate."""
        state = self.get(slot)
        closed, opened = state.closed, state.open
        if slot.kind == "gauge":
            changes = _rising(changes, None if opened is None else opened[1])
        run, part = changes, None
        for start, run in _by_time(changes, slot.width_ns, None if opened is None else opened[0]):
            part = _aggregate(slot.kind, run)
            if opened is not None and opened[0] == start:
                opened = (start, opened[1].merge(part))
                continue
            if opened is not None and slot.keeps_closed:
                closed = (*closed, opened)
            opened = (start, part)
        self.put(slot, state.replace(closed=closed, open=opened))
        return run, part

    def _add_to_series(self, series: Series, columns: _Columns, part: Any) -> None:
        state, slot = self.get(series), series.slot
        aggregate = state.aggregate
        counting = self.get(slot).counting
        recent = self._with_recent(series, state, columns)
        after = _SeriesState(state.epoch)
        if part is None and isinstance(aggregate, CounterAggregate):  # faster than merging
            after.aggregate = aggregate.extend(columns.values)
        else:
            if part is None:
                run = _rising(columns, aggregate) if slot.kind == "gauge" else columns
                part = _aggregate(slot.kind, run)
            after.aggregate = part if aggregate is None else aggregate.merge(part)
        after.counted = None if counting is None else counting.extend(state, columns.values)
        after.created_ns = columns.times[0] if aggregate is None else state.created_ns
        after.last_ns = max(state.last_ns, columns.latest_ns)
        after.recent, after.recent_from_ns = recent.recent, recent.recent_from_ns
        after.recent_missed = recent.recent_missed
        after.others = state.others
        after.version = self.commit.number
        self.put(series, after)

    def _with_recent(self, series: Series, state: _SeriesState, columns: _Columns) -> _SeriesState:
        """Add records to the recent slot of a series, which gets one if they begin another 16 seconds."""
        recent, recent_from, is_missed = state.recent, state.recent_from_ns, state.recent_missed
        since = None if state.aggregate is None else _start(state.last_ns, RECENT_NS)
        if recent is None and since == _start(columns.latest_ns, RECENT_NS):  # nearly always
            return state
        for start, run in _by_time(columns, RECENT_NS, since):
            if recent is None and since is not None and start > since:
                if self.core.allows_recent:
                    recent, recent_from = Slot(self.core, series.slot.kind, width_ns=RECENT_NS), start
                else:
                    is_missed = True
            if recent is not None:
                self._extend(recent, run)
            since = start
        return state.replace(recent=recent, recent_from_ns=recent_from, recent_missed=is_missed)

    def remove(self, series: Series, now: int, notes: dict[Any, Any], key: object) -> Any:
        """Empty a series that is no longer live, note its aggregate, and return it."""
        if notes.get(key) is not series:  # another thread has finished this removal
            return None
        state, slot = self.get(series), series.slot
        self.commit.note = (notes, key, state.aggregate)
        empty = state.emptied(state.epoch)
        self.put(series, empty.replace(version=self.commit.number))
        if state.aggregate is not None and slot.kind == "gauge" and slot.law != "latest":
            whole = _combined(slot.law, self._last_values(slot))
            self._extend(slot, _Columns.of_one(None, whole, now, False))
        return state.aggregate

    def _wholes(self, slot: Slot, columns: _Columns) -> _Columns:
        """Return records with the combined value of all series of a gauge after each record."""
        law, lasts = slot.law, self._last_values(slot)
        whole = _combined(law, lasts)
        total, reals = ZERO.extend(list(lasts.values())), sum(map(_is_real, lasts.values()))
        wholes: list[int | float] = []
        for series, value, _, _ in columns.records():
            before = lasts.get(series)
            lasts[series] = value
            if law == "sum":
                reals += _is_real(value) - _is_real(before)
                if _is_real(before) and not reals:  # the sum of integers is an integer, and exact
                    total = ZERO.extend(list(lasts.values()))
                else:
                    total = total.add(0 if before is None else -before).add(value)
                whole = total.value
            elif len(lasts) == 1 or before == whole:
                whole = _combined(law, lasts)
            else:
                whole = _extreme(law, (whole, value))
            wholes.append(whole)
        return columns._replace(values=wholes)

    def _last_values(self, slot: Slot) -> dict[Series, int | float]:
        states = ((one, self.get(one)) for one in self.series_of(slot))
        return {one: state.aggregate.last for one, state in states if state.aggregate is not None}

    def series_of(self, slot: Slot) -> Iterator[Series]:
        """Yield the live series that count into a slot."""
        for tag_set in list(slot.tag_sets):
            yield from (one for one in tag_set.series() if one.slot is slot)

    def _log(self, columns: _Columns) -> None:
        entries: list[LoggedRecord] = []
        counts: dict[Series, int] = {}
        numbers: dict[Series, Any] = {}
        for series, value, now, _ in columns.records():
            if series not in counts:
                aggregate = self.get(series).aggregate
                counts[series] = 0 if aggregate is None else aggregate.records
                numbers[series] = series.first_logged_number(aggregate)
            counts[series] += 1
            numbers[series], number = series.logged_number(numbers[series], value)
            entries.append((series, value, counts[series], number, now))
        for log in self.commit.logs:
            self.put(log, self.get(log).extend(entries, log.capacity))


def _start(time_ns: int, width_ns: int) -> int:
    return time_ns - time_ns % width_ns


def _grouped(columns: _Columns, key: Callable[[Series], T]) -> Iterable[tuple[T, _Columns]]:
    """Group records by a key of their series."""
    keys = {series: key(series) for series in columns.distinct_series()}
    if len(set(keys.values())) == 1:  # frequent, and much faster
        return [(key(columns.series[0]), columns)]
    groups: dict[T, list[int]] = defaultdict(list)
    for place, series in enumerate(columns.series):
        groups[keys[series]].append(place)
    return [(group, columns.at(places)) for group, places in groups.items()]


def _rising(columns: _Columns, before: GaugeAggregate | None) -> _Columns:
    """Return records of gauges, with the time of the record before it for each one that is late."""
    last_ns = columns.earliest_ns if before is None else before.last_ns
    if columns.is_rising and last_ns <= columns.earliest_ns:
        return columns
    times = list(accumulate([last_ns, *columns.times], max))[1:]
    return columns._replace(times=times, is_rising=True, earliest_ns=times[0], latest_ns=times[-1])


def _by_time(columns: _Columns, width_ns: int, open_ns: int | None) -> Iterable[tuple[int, _Columns]]:
    """Split records by slots of time. A record older than the open slot belongs to the open slot."""
    latest, earliest = _start(columns.latest_ns, width_ns), _start(columns.earliest_ns, width_ns)
    if open_ns is not None:
        latest, earliest = max(latest, open_ns), max(earliest, open_ns)
    if latest == earliest:  # nearly always
        return [(latest, columns)]
    runs: list[tuple[int, _Columns]] = []
    begin, current = 0, max(_start(columns.times[0], width_ns), earliest)
    for place, now in enumerate(columns.times):
        if now >= current + width_ns:
            runs.append((current, columns.between(begin, place)))
            begin, current = place, _start(now, width_ns)
    runs.append((current, columns.between(begin, len(columns.times))))
    return runs


def _aggregate(kind: str, columns: _Columns) -> Any:
    """Return the aggregate of some records of one kind."""
    values = columns.values
    if kind == "counter":
        return _EMPTY_COUNTER.extend(values)
    if kind == "distribution":
        return Distribution.of(values, failures=sum(columns.flags) if columns.has_flags else 0)
    if kind == "outcome":
        return OutcomeAggregate.of(values)
    gauge = GaugeAggregate.of(values, columns.times, columns.has_flags)
    return gauge._replace(records=0) if columns.series[0] is None else gauge


_EMPTY_COUNTER = CounterAggregate()


def _is_real(value: object) -> bool:
    return isinstance(value, float)


def _combined(law: str, values: Mapping[Any, int | float]) -> int | float:
    """Return the combined value of all series; 0 without series."""
    if not values or law == "latest":
        return 0
    if law == "sum":
        return ZERO.extend(list(values.values())).value
    return _extreme(law, values.values())


def _extreme(law: str, values: Iterable[int | float]) -> int | float:
    """Return the extreme; of an integer and a float that are equal, the integer, whatever their order is."""
    if law == "min":
        return min(values, key=lambda value: (value, _is_real(value)))
    return max(values, key=lambda value: (value, not _is_real(value)))


# -- the core --------------------------------------------------------------------------------------------


class Core:
    """The numeric state of one store: memory, clock and log. Thread-safe; no call blocks.

    Args:
        now: Reads the monotonic clock, in nanoseconds; `monotonic_ns` by default.

    Attributes:
        now: Reads the clock.
        pending: The records that are not in any state yet, in their order.
        publish_at: How many closed slots of a second wait before their ``publish`` is called.
        publish_recent: Called with a series after the record that closed its recent slot.
        shows_written: Whether series show their numbers as of the last `Series.show`. Otherwise a reader in
            this process could see records that others, which read what was written, see later.
    """

    __slots__ = (
        "_allows_recent",
        "_flushes",
        "_last",
        "_max_flushed",
        "now",
        "pending",
        "publish_at",
        "publish_recent",
        "shows_written",
    )

    now: Callable[[], int]
    publish_recent: Callable[[Series], object] | None

    def __init__(self, now: Callable[[], int] | None = None) -> None:
        self.now = monotonic_ns if now is None else now
        self.publish_at = 1
        self.publish_recent = None
        self.shows_written = False
        self.pending: dict[object, Any] = {}
        self._allows_recent = False
        self._flushes = 0  # since the last commit: they are running, or were interrupted
        self._max_flushed = MAX_FLUSHED_RECORDS
        self._last = _Commit()

    @property
    def records(self) -> int:
        """The number of records of all series since the start or the last reset."""
        return self.flush().records

    @property
    def nbytes(self) -> int:
        """The approximate number of bytes of numeric state in use."""
        return self.flush().nbytes

    @property
    def allows_recent(self) -> bool:
        """Whether series get recent slots."""
        return self._allows_recent

    @allows_recent.setter
    def allows_recent(self, allows: bool) -> None:
        self.flush()
        self._allows_recent = allows

    def reset(self) -> None:
        """Empty every series, slot and log, for example in a child process. All objects stay valid."""
        self.change(_Draft.reset)

    def subscribe(self, capacity: int) -> RecordLog:
        """Return a log of the records from now on.

        Args:
            capacity: How many records it holds; later ones are counted as lost until it is drained.
        """
        log = RecordLog(self, capacity)

        def start(draft: _Draft) -> None:
            draft.commit.logs = (*draft.commit.logs, log)
            draft.put(log, draft.get(log).replace(start=draft.commit.records))

        self.change(start)
        return log

    def unsubscribe(self, log: RecordLog) -> None:
        """Write no more records to a log."""

        def stop(draft: _Draft) -> None:
            draft.commit.logs = tuple(other for other in draft.commit.logs if other is not log)

        self.change(stop)

    def flush(self) -> _Commit:
        """Add all pending records to their states, and return the last commit."""
        self._commit(None, None)
        return self.settle()

    def flush_if_due(self, closes: bool) -> bool:
        """Flush after a record, and return whether it was done.

        While other flushes run, more records may be pending. Otherwise the records of a signal handler
        would flush in the middle of a flush, and be interrupted by the next signal in the middle of that;
        and threads that flush at the same time waste their work.

        Args:
            closes: Whether the record closes a slot.
        """
        flushes = self._flushes
        is_due = len(self.pending) >= MAX_PENDING_RECORDS * (flushes + 1)
        if is_due or (closes and flushes < MAX_NESTED_FLUSHES):
            self.flush()
            return True
        return False

    def change(self, change: Callable[[_Draft], T], removed: Series | None = None) -> T:
        """Add all pending records and make a change, in one commit.

        Args:
            change: Makes the change in a draft. It may be called several times.
            removed: A series that the change removes: its records go into it although it is not live.
        """
        result: T = self._commit(change, removed)
        return result

    def _commit(self, change: Callable[[_Draft], Any] | None, removed: Series | None) -> Any:
        pending = self.pending
        if change is not None and len(pending) > self._max_flushed:
            self.flush()  # so that little is left that an exception could interrupt
        newest: object = None
        while True:
            last = self.settle()
            keys = list(pending)  # one step, as the keys are of no class that could run Python code
            if newest is None and keys:
                newest = keys[-1]
            if change is None and newest not in pending:  # this flush, or others, added all older records
                return None
            size = self._max_flushed
            if change is None:
                keys = keys[:size]
            try:
                records = list(map(pending.__getitem__, keys))
            except KeyError:  # another flush was faster
                continue
            self._flushes += 1
            # Fewer next time, unless this flush gets through: it must, however often handlers raise.
            self._max_flushed = max(size // 2, MIN_FLUSHED_RECORDS)
            draft = _Draft(self, last)
            if records:
                draft.add(records, removed)
            result = None if change is None else change(draft)
            commit = draft.finish(keys)
            if last.next.setdefault(None, commit) is commit:
                self.settle()
                self._max_flushed = min(size * 2, MAX_FLUSHED_RECORDS)
                if change is not None:
                    return result

    def settle(self) -> _Commit:
        """Apply the last commit, if an interrupted flush has not, and return it."""
        commit = self._last
        while commit.next:
            commit = commit.next[None]
        if not commit.is_applied:
            for one, before, after in commit.links:
                before.next = after
                one.adopt(after)
            if (note := commit.note) is not None:
                notes, key, aggregate = note
                notes[key] = aggregate
            pop = self.pending.pop
            for key in commit.keys:
                pop(key, None)
            commit.is_applied = True
            commit.links = commit.keys = ()
            commit.note = None
            self._flushes = 0
        self._last = commit
        return commit

    def consistent(self, read: Callable[[_Commit], T]) -> T:
        """Return a reading of several objects, all at the same commit if records leave the time for it."""
        for _ in range(MAX_READ_ATTEMPTS):
            commit = self.flush()
            reading = read(commit)
            if self.settle() is commit:
                return reading
        return read(self.flush())


class _LogState(_State):
    __slots__ = ("chunks", "lost", "size", "start")

    def __init__(self) -> None:
        self.epoch = 0
        self.next = None
        self.chunks: tuple[Any, list[LoggedRecord]] | None = None  # the earlier chunks, and the last one
        self.size = 0
        self.lost = 0
        self.start = 0

    def emptied(self, epoch: int) -> _LogState:
        return self.replace(epoch=epoch, chunks=None, size=0, lost=0, start=0)

    def extend(self, entries: list[LoggedRecord], capacity: int) -> _LogState:
        kept = entries[: capacity - self.size]
        return self.replace(
            chunks=(self.chunks, kept) if kept else self.chunks,
            size=self.size + len(kept),
            lost=self.lost + len(entries) - len(kept),
        )

    @property
    def nbytes(self) -> int:
        return 200 * self.size


class RecordLog(_Stateful[_LogState]):
    """A bounded log of records, for streams; see `Core.subscribe`.

    Attributes:
        capacity: How many records it holds.
    """

    __slots__ = ("capacity",)

    def __init__(self, core: Core, capacity: int) -> None:
        self._core = core
        self._state = _LogState()
        self.capacity = capacity

    @property
    def start(self) -> int:
        """The number of records of the core when it was subscribed."""
        return self.read().start

    def drain(self) -> tuple[int, list[LoggedRecord]]:
        """Take all records out of the log.

        Returns:
            How many records were lost because the log was full, all of them later than the returned ones;
            and the records in their order. The fourth item of a record is a counter's total, a gauge's
            value, an operation's number of successes, or 0.
        """

        def empty(draft: _Draft) -> _LogState:
            state = draft.get(self)
            draft.put(self, state.replace(chunks=None, size=0, lost=0))
            return state

        state = self._core.change(empty)
        chunks, reversed_chunks = state.chunks, []
        while chunks is not None:
            chunks, last = chunks
            reversed_chunks.append(last)
        return state.lost, [record for chunk in reversed(reversed_chunks) for record in chunk]


# -- slots -----------------------------------------------------------------------------------------------


class ErrorTypes:
    """The error types of one operation; append-only."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The error types, in the order in which they came."""
        return tuple(self._names)

    def __contains__(self, name: object) -> bool:
        return name.__class__ is str and name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def add(self, name: str) -> None:
        """Add an error type."""
        self._names[name] = None


class _Counting:
    """Counts the values of a slot's series by bounds.

    The counts of a series begin when they are needed: at its next record, or at a read.
    """

    __slots__ = ("bounds", "is_seeded")

    def __init__(self, bounds: tuple[float, ...], is_seeded: bool) -> None:
        self.bounds = bounds
        self.is_seeded = is_seeded

    def counted(self, state: _SeriesState) -> _Counted:
        """Return the counts of a series."""
        if state.counted is not None and state.counted.counting is self:
            return state.counted
        counted = _Counted(self, (0,) * (len(self.bounds) + 1), ZERO)
        if not self.is_seeded or state.aggregate is None:
            return counted
        return counted.extend(weighted_values(state.aggregate), state.aggregate.state.sum)

    def extend(self, state: _SeriesState, values: Sequence[Any]) -> _Counted:
        """Return the counts of a series with more values."""
        before = self.counted(state)
        return before.extend(((value, 1) for value in values), before.total.extend(values))


class _Counted(NamedTuple):
    counting: _Counting
    counts: tuple[int, ...]
    total: Sum

    def extend(self, values: Iterable[tuple[int | float, int]], total: Sum) -> _Counted:
        counts = list(self.counts)
        for value, number in values:
            counts[bisect_left(self.counting.bounds, value)] += number
        return _Counted(self.counting, tuple(counts), total)


class _SlotState(_State):
    __slots__ = ("closed", "counting", "open", "windows")

    def __init__(self, windows: object) -> None:
        self.epoch = 0
        self.next = None
        self.windows = windows
        self.closed: tuple[tuple[int, Any], ...] = ()
        self.open: tuple[int, Any] | None = None
        self.counting: _Counting | None = None

    def emptied(self, epoch: int) -> _SlotState:
        return self.replace(epoch=epoch, windows=None, closed=(), open=None)

    @property
    def nbytes(self) -> int:
        return sum(_nbytes(part) for _, part in self.closed) + (
            0 if self.open is None else _nbytes(self.open[1])
        )


class Slot(_Stateful[_SlotState]):
    """The open time slot of one second that several series count into.

    Args:
        core: The core.
        kind: ``"counter"``, ``"gauge"``, ``"distribution"`` or ``"outcome"``.
        publish: Called with the slot right after a record that closed a slot of time, once enough of them
            wait. Without it, closed slots are dropped.
        error_types: The error types of an operation.
        windows: The closed slots that were published before; opaque.
        width_ns: The width of a slot of time.

    Attributes:
        core: The core.
        kind: The kind of series.
        error_types: The error types of an operation.
        publish: Called with the slot right after a record that closed a slot of time, once enough wait.
        width_ns: The width of a slot of time.
        keeps_closed: Whether closed slots are kept until they are committed.
        ends_ns: The end of the open slot of time, or an earlier time.
        tag_sets: The tag sets of its series.
    """

    __slots__ = (
        "_has_law",
        "_law",
        "core",
        "ends_ns",
        "error_types",
        "keeps_closed",
        "kind",
        "publish",
        "tag_sets",
        "width_ns",
    )

    def __init__(
        self,
        core: Core,
        kind: str,
        publish: Callable[[Slot], object] | None = None,
        error_types: ErrorTypes | None = None,
        windows: Any = None,
        *,
        width_ns: int = SLOT_NS,
    ) -> None:
        self.core = self._core = core
        self.kind = kind
        self.publish = publish
        self.error_types = error_types
        self.width_ns = width_ns
        self.keeps_closed = publish is not None or width_ns == RECENT_NS
        self.tag_sets: dict[TagSet, None] = {}
        self._law = "latest"
        self._has_law = False
        self.adopt(_SlotState(windows))

    def adopt(self, state: _SlotState) -> None:
        """Remember a state that may be the current one."""
        self._state = state
        self.ends_ns = 0 if state.open is None else state.open[0] + self.width_ns

    @property
    def windows(self) -> Any:
        """The closed slots that were published; see `commit`."""
        return self.state_at(self.core.settle()).windows

    @property
    def bounds(self) -> tuple[float, ...]:
        """Upper bounds that the values of its series are counted by."""
        counting = self.state_at(self.core.settle()).counting
        return () if counting is None else counting.bounds

    @property
    def law(self) -> str:
        """How the series of a gauge, and its parts in several processes, are combined.

        It is ``"latest"``, ``"sum"``, ``"min"`` or ``"max"``. Until it is set, processes are summed if the
        gauge is incremented or decremented; otherwise the latest value wins.
        """
        return self._law

    @law.setter
    def law(self, law: str) -> None:
        def change(draft: _Draft) -> None:
            for series in draft.series_of(self):  # their values may change without a record
                if draft.get(series).others is not None:
                    draft.put(series, draft.get(series).replace(version=draft.commit.number))

        self.core.change(change)
        self._law = law
        self._has_law = True

    def law_of_others(self, is_stepped: bool) -> str:
        """Return how the parts of a gauge in several processes are combined."""
        return "sum" if is_stepped and not self._has_law else self._law

    def peek(self) -> tuple[Any, tuple[tuple[int, Any], ...], tuple[int, Any] | None]:
        """Return the windows, the closed slots that are not in them yet, and the open slot.

        Returns:
            The windows; the start and aggregate of each closed slot, oldest first; and those of the open
            slot, or ``None`` if it is empty.
        """
        state = self.read()
        return state.windows, state.closed, state.open

    def commit(self, before: object, after: object, n: int) -> bool:
        """Replace the windows and drop the oldest closed slots, in one step.

        Args:
            before: The windows that were read.
            after: The new windows.
            n: How many closed slots are in the new windows.

        Returns:
            Whether it was done: ``False`` if the windows are no longer ``before``.
        """

        def swap(draft: _Draft) -> bool:
            state = draft.get(self)
            if state.windows is not before or len(state.closed) < n:
                return False
            draft.put(self, state.replace(windows=after, closed=state.closed[n:]))
            return True

        return self.core.change(swap)

    def publish_closed(self) -> None:
        """Call ``publish`` if enough closed slots wait."""
        if self.publish is not None and len(self.last_state().closed) >= self.core.publish_at:
            self.publish(self)

    def count_by(self, bounds: tuple[float, ...], *, seed: bool) -> None:
        """Count the values of each series by bounds.

        Args:
            bounds: Ascending upper bounds.
            seed: Whether to start from the values so far instead of zero.
        """
        counting = _Counting(tuple(bounds), seed) if bounds else None

        def count(draft: _Draft) -> None:
            draft.put(self, draft.get(self).replace(counting=counting))
            for series in draft.series_of(self):  # their counts change without a record
                draft.put(series, draft.get(series).replace(version=draft.commit.number))

        self.core.change(count)


# -- series ----------------------------------------------------------------------------------------------


class TagSet:
    """The series of a metric that have the same tag names.

    Args:
        owner: The metric; see `engine.Owner`.
        names: The tag names, sorted.
        key: Identifies the metric and the tag names for other processes.

    Attributes:
        owner: The metric.
        names: The tag names, sorted.
        key: Identifies the metric and the tag names for other processes.
        live: The live series by their values.
    """

    __slots__ = ("key", "live", "names", "owner")

    def __init__(self, owner: Any, names: tuple[str, ...], key: bytes = b"") -> None:
        self.owner = owner
        self.names = names
        self.key = key
        self.live: dict[tuple[str, ...], Series] = {}

    def __len__(self) -> int:
        return len(self.live)

    def __iter__(self) -> Iterator[Series]:
        return iter(self.series())

    def series(self) -> list[Series]:
        """Return the live series, in the order in which they came."""
        return list(self.live.values())

    def get(self, values: tuple[str, ...]) -> Series | None:
        """Return the live series with these values, in the order of ``names``."""
        return self.live.get(values)

    def add(self, series: Series) -> Series:
        """Return the live series with the values of ``series``: this one, unless there is one already."""
        live = self.live.setdefault(series.values, series)
        if live is series:
            series.slot.tag_sets.setdefault(self)
            series.seems_live = True
        return live

    def remove(self, series: Series, notes: dict[Any, Any] | None = None, key: object = None) -> Any:
        """Take a series out and empty it.

        Args:
            series: The series.
            notes: Where to note its aggregate, in the same step. After an exception, the note may be the
                series itself: then its records are still in it, and another call finishes the removal.
            key: The key of the note. A removal has a key of its own.

        Returns:
            The aggregate of its own records; ``None`` if it is not live or has none.
        """
        core, slot = series._core, series.slot
        notes = {} if notes is None else notes
        now = core.now()
        if notes.get(key) is not series:
            if not series.is_live:
                return None
            core.flush()
            # One call without Python code of its own: no handler raises between its two effects.
            notes.update(zip([key], filter(None, map(self.live.pop, [series.values], [None])), strict=False))
            removed = notes.get(key)
            if removed is not series:
                if removed is not None:  # a removal in between, and then a new series: put that one back
                    self.live.setdefault(series.values, removed)
                    notes.pop(key, None)
                return None
            series.seems_live = False
        closes = slot.kind == "gauge" and slot.law != "latest" and now >= slot.ends_ns
        aggregate = core.change(lambda draft: draft.remove(series, now, notes, key), removed=series)
        if closes and aggregate is not None:  # the whole of the gauge has changed
            slot.publish_closed()
        return aggregate


class _Others(NamedTuple):
    """What other processes recorded into a series; see `Series.set_others`."""

    aggregate: Any
    counts: tuple[int, ...] | None
    total: int | float
    created_ns: int
    last_ns: int


_AGGREGATES: Mapping[str, type] = {
    "counter": CounterAggregate,
    "gauge": GaugeAggregate,
    "distribution": Distribution,
    "outcome": OutcomeAggregate,
}


def _checked_others(others: Any, kind: str) -> _Others:
    if others.__class__ is not tuple or len(others) != len(_Others._fields):
        raise TypeError(f"{others!r} is not a tuple of aggregate, counts, total, created_ns and last_ns")
    checked = _Others(*others)
    if checked.aggregate.__class__ is not _AGGREGATES[kind]:
        raise TypeError(f"the aggregate {checked.aggregate!r} is not a {_AGGREGATES[kind]!r}")
    counts = checked.counts
    if counts is not None and (
        counts.__class__ is not tuple or any(count.__class__ is not int for count in counts)
    ):
        raise TypeError(f"counts={counts!r} is neither a tuple of integers nor None")
    if checked.total.__class__ not in (int, float):
        raise TypeError(f"total={checked.total!r} is not a number")
    if checked.created_ns.__class__ is not int or checked.last_ns.__class__ is not int:
        raise TypeError(f"{checked[3:]!r} are not times in nanoseconds")
    return checked


class _SeriesState(_State):
    __slots__ = (
        "aggregate",
        "counted",
        "created_ns",
        "last_ns",
        "others",
        "recent",
        "recent_from_ns",
        "recent_missed",
        "version",
    )

    def __init__(self, epoch: int = 0) -> None:
        self.epoch = epoch
        self.next = None
        self.aggregate: Any = None
        self.counted: _Counted | None = None
        self.created_ns = 0
        self.last_ns = 0
        self.others: _Others | None = None
        self.recent: Slot | None = None
        self.recent_from_ns = 0
        self.recent_missed = False
        self.version = 0

    def emptied(self, epoch: int) -> _SeriesState:
        return _SeriesState(epoch)

    @property
    def nbytes(self) -> int:
        return 0 if self.aggregate is None else _nbytes(self.aggregate)


def _nbytes(aggregate: Any) -> int:
    """Return the approximate size of an aggregate."""
    if isinstance(aggregate, Distribution):
        scale_and_counts = aggregate._buckets
        packed = scale_and_counts.negative.packed.bit_length() + scale_and_counts.positive.packed.bit_length()
        return 300 + packed // 8 + 8 * len(aggregate._exact or ())
    return 300 + (100 * len(aggregate.endings) if isinstance(aggregate, OutcomeAggregate) else 0)


class Series(_Stateful[_SeriesState]):
    """One series of a metric: the base class of the five kinds. Thread-safe; no call blocks.

    Args:
        tag_set: The tag set that it belongs to. The series is not live until `TagSet.add`.
        values: Its tag values, in the order of the tag names.
        slot: The slot that it counts into.

    Attributes:
        tag_set: The tag set; ``None`` for a null series.
        values: The tag values.
        slot: The slot; ``None`` for a null series.
        owner: The metric.
        seems_live: Whether to record without a closer look; `is_live` is exact.
        recent_ends_ns: The end of the open recent slot, or an earlier time.
        ends_ns: The end of the open slot that ends first, or an earlier time.
    """

    __slots__ = ("_shown", "ends_ns", "owner", "recent_ends_ns", "seems_live", "slot", "tag_set", "values")

    owner: Any
    slot: Slot
    tag_set: TagSet
    values: tuple[str, ...]

    def __init__(self, tag_set: TagSet, values: tuple[str, ...], slot: Slot) -> None:
        self._core = slot.core
        self.owner = tag_set.owner
        self.tag_set = tag_set
        self.values = values
        self.slot = slot
        self.seems_live = False
        self._shown: _SeriesState | None = None
        self.adopt(_SeriesState())

    @classmethod
    def null(cls, core: Core, owner: Any) -> Self:
        """Return a series that checks its input and keeps nothing."""
        series = cls.__new__(cls)
        nothing: Any = None
        series._core = core
        series.owner = owner
        series.tag_set = series.slot = nothing
        series.values = ()
        series.seems_live = False
        series._shown = None
        series.adopt(_SeriesState())
        return series

    def adopt(self, state: _SeriesState) -> None:
        """Remember a state that may be the current one."""
        self._state = state
        self.recent_ends_ns = (
            NEVER_NS if state.recent is None else _start(state.last_ns, RECENT_NS) + RECENT_NS
        )
        self.ends_ns = 0 if self.is_null else min(self.slot.ends_ns, self.recent_ends_ns)

    def closes(self, now: int) -> bool:
        """Return whether a record closes a slot. Not before `ends_ns`, which is faster to compare."""
        return now >= self.slot.ends_ns or now >= self.recent_ends_ns

    @property
    def tags(self) -> dict[str, str]:
        """The tags, sorted by name."""
        return {} if self.is_null else dict(zip(self.tag_set.names, self.values, strict=True))

    @property
    def is_null(self) -> bool:
        """Whether it keeps nothing."""
        return self.slot is None

    @property
    def is_live(self) -> bool:
        """Whether it is in its tag set; a null series always is."""
        return self.is_null or self.tag_set.get(self.values) is self

    @property
    def created_ns(self) -> int:
        """Time of the first record since it became live, in any process; 0 without records."""
        state = self.shown_at(self._core.flush())
        others_ns = 0 if state.others is None else state.others.created_ns
        return min(state.created_ns or others_ns, others_ns or state.created_ns)

    @property
    def last_ns(self) -> int:
        """Time of the last record in any process; 0 without records."""
        state = self.shown_at(self._core.flush())
        return state.last_ns if state.others is None else max(state.last_ns, state.others.last_ns)

    @property
    def recent(self) -> Slot | None:
        """Its own slot of 16 seconds, if it has one."""
        return self.read().recent

    @property
    def recent_from_ns(self) -> int:
        """The time from which on the recent slot is complete."""
        return self.read().recent_from_ns

    @property
    def recent_missed(self) -> bool:
        """Whether the series recorded in several 16-second slots without a recent slot."""
        return self.read().recent_missed

    def state(self) -> Any:
        """Return the aggregate of all records since it became live, in any process; ``None`` without any."""
        return self.combined(self.shown_at(self._core.flush()))

    def own_state(self) -> Any:
        """Return the aggregate of the records of this process; ``None`` without any."""
        return self.read().aggregate

    def own_reading(self) -> _Reading | None:
        """Return the numbers of this process in one reading, as `set_others` takes them, or ``None``."""
        return self.take_reading()[0]

    def take_reading(self) -> tuple[_Reading | None, _SeriesState]:
        """Return what `own_reading` returns, and the state to `show` after it was written for others."""
        return self._core.consistent(self._take_reading)

    def _take_reading(self, commit: _Commit) -> tuple[_Reading | None, _SeriesState]:
        state = self.state_at(commit)
        if state.aggregate is None:
            return None, state
        counting = self.slot.state_at(commit).counting
        counted = None if counting is None else counting.counted(state)
        if counted is None:
            return (state.aggregate, None, 0, state.created_ns, state.last_ns), state
        return (state.aggregate, counted.counts, counted.total.value, state.created_ns, state.last_ns), state

    def show(self, state: _SeriesState) -> None:
        """Show a state to readers, if the core shows what was written."""
        self._shown = state

    def shown_at(self, commit: _Commit) -> _SeriesState:
        """Return the state to show: the current one, or the one that was written last."""
        state = self.state_at(commit)
        if not self._core.shows_written or state.aggregate is None:
            return state
        shown = self._shown
        if shown is None or shown.epoch != state.epoch or shown.created_ns != state.created_ns:
            return state.emptied(state.epoch).replace(others=state.others)
        return state if shown.aggregate is state.aggregate else shown.replace(others=state.others)

    def set_others(self, others: _Reading | None) -> None:
        """Replace what other processes recorded into it.

        Args:
            others: Their aggregate; the number of values in each bucket and the sum of the counted values, as
                `HistogramSeries.counted` returns them; and the times of their first and last records.

        Raises:
            TypeError: If they are anything else.
        """
        if self.is_null:
            return
        kept = None if others is None else _checked_others(others, self.slot.kind)

        def replace(draft: _Draft) -> None:
            draft.put(self, draft.get(self).replace(others=kept, version=draft.commit.number))

        self._core.change(replace)

    def combined(self, state: _SeriesState) -> Any:
        """Return the aggregate of a state together with what other processes recorded."""
        own, others = state.aggregate, state.others
        if others is None:
            return own
        if own is None:
            return others.aggregate
        if not isinstance(own, GaugeAggregate):
            return own.merge(others.aggregate)
        law = self.slot.law_of_others(own.is_stepped or others.aggregate.is_stepped)
        return own.combine(others.aggregate, law)

    def drop_recent(self) -> None:
        """Drop the recent slot."""

        def drop(draft: _Draft) -> None:
            state = draft.get(self)
            if state.recent is not None:
                draft.put(self, state.replace(recent=None, recent_from_ns=0, recent_missed=True))

        self._core.change(drop)

    def record(self, value: Any, flag: bool, now: int) -> None:
        """Record a checked value.

        Args:
            value: The value.
            flag: Whether it is the step of a gauge, or the duration of a failure.
            now: The time.
        """
        live = self if self.seems_live else self.live_series()
        if live is None:
            return
        pending = live._core.pending
        closes = now >= live.ends_ns and live.closes(now)
        pending[object()] = (live, value, now, flag)
        if closes or len(pending) >= MAX_PENDING_RECORDS:
            live.flush_if_due(closes)

    def flush_if_due(self, closes: bool) -> None:
        """Flush and publish after a record; see `Core.flush_if_due`."""
        if self._core.flush_if_due(closes) and closes:
            self.publish()

    def publish(self) -> None:
        """Call the functions that publish its slots, if some are closed."""
        recent = self.last_state().recent
        self.slot.publish_closed()
        publish_recent = self._core.publish_recent
        if publish_recent is not None and recent is not None and recent.last_state().closed:
            publish_recent(self)

    def live_series(self) -> Series | None:
        """Return the series to record into; ``None`` if there is none."""
        if self.seems_live:
            return self
        if self.is_null:
            return None
        if self.is_live:
            self.seems_live = True
            return self
        live: Series | None = self.owner.readmit(self)
        return None if live is None or live.is_null else live

    def readmitted(self) -> Series | None:
        """Return the series that pending records go into if this one was removed in the meantime."""
        self.seems_live = False
        try:
            return self.live_series()
        except OBJECT_ERRORS:  # the caller is not the one that recorded, and the owner counts bad input
            return None

    def first_logged_number(self, aggregate: Any) -> Any:
        """Return what `logged_number` starts from."""
        return 0

    def logged_number(self, before: Any, value: Any) -> tuple[Any, int | float]:
        """Return the state after a record, and the number that a log shows."""
        return before, 0


class CounterSeries(Series):
    """A counter of one set of tags."""

    __slots__ = ()

    def add(self, value: int | float = 1) -> None:
        """Add to the counter.

        Args:
            value: The amount: finite and not negative.

        Raises:
            InvalidInputError: If it is anything else.
        """
        if not (
            (value.__class__ is int and 0 <= value <= INT64_MAX)
            or (value.__class__ is float and 0.0 <= value <= MAX_FLOAT)
        ):
            checked = self.owner.number(value, False)
            if checked is None:
                return
            value = within_int64(checked)
        self.record(value, False, self._core.now())

    def first_logged_number(self, aggregate: CounterAggregate | None) -> Sum:
        """Return the running sum."""
        return ZERO if aggregate is None else aggregate.running_sum

    def logged_number(self, before: Sum, value: int | float) -> tuple[Sum, int | float]:
        """Return the running sum and its value."""
        total = before.add(value)
        return total, total.value


class GaugeSeries(Series):
    """A gauge of one set of tags."""

    __slots__ = ()

    @property
    def is_stepped(self) -> bool:
        """Whether it was incremented or decremented since it became live."""
        aggregate = self.state()
        return aggregate is not None and aggregate.is_stepped

    def set(self, value: int | float) -> None:
        """Set the gauge.

        Args:
            value: Its new value: finite. ``True`` and ``False`` are 1 and 0.

        Raises:
            InvalidInputError: If it is anything else.
        """
        checked = self._checked(value)
        if checked is not None:
            self.record(checked, False, self._core.now())

    def increment(self, step: int | float = 1) -> None:
        """Move the gauge up.

        Args:
            step: The step: finite.

        Raises:
            InvalidInputError: If it is anything else.
        """
        checked = self._checked(step)
        if checked is not None:
            self.record(checked, True, self._core.now())

    def decrement(self, step: int | float = 1) -> None:
        """Move the gauge down.

        Args:
            step: The step: finite.

        Raises:
            InvalidInputError: If it is anything else.
        """
        checked = self._checked(step)
        if checked is not None:
            self.record(within_int64(-checked), True, self._core.now())

    def _checked(self, value: Any) -> int | float | None:
        if (value.__class__ is float and MIN_FLOAT <= value <= MAX_FLOAT) or (
            value.__class__ is int and INT64_MIN <= value <= INT64_MAX
        ):
            number: int | float = value
            return number
        if value.__class__ is bool:
            return int(value)
        checked = self.owner.number(value, True)
        return None if checked is None else within_int64(checked)

    def logged_number(self, before: Any, value: int | float) -> tuple[Any, int | float]:
        """Return the value."""
        return before, value


class _DistributionSeries(Series):
    """The base of histograms and timers."""

    __slots__ = ()

    def counted(self) -> tuple[Distribution, tuple[int, ...] | None, int | float] | None:
        """Return the aggregate and the counts by bounds, in one consistent reading.

        Returns:
            The distribution; the number of values in each bucket, the last one without an upper bound, or
            ``None`` if the slot has no bounds; and the sum of the counted values. ``None`` without records.
        """

        def read(commit: _Commit) -> tuple[Distribution, tuple[int, ...] | None, int | float] | None:
            state = self.shown_at(commit)
            aggregate, others = self.combined(state), state.others
            if aggregate is None:
                return None
            counting = self.slot.state_at(commit).counting
            if counting is None:
                return aggregate, None, aggregate.sum
            own = counting.counted(state)
            if others is None or others.counts is None or len(others.counts) != len(own.counts):
                return aggregate, own.counts, own.total.value
            counts = tuple(map(int.__add__, own.counts, others.counts))
            return aggregate, counts, own.total.add(others.total).value

        return self._core.consistent(read)


class HistogramSeries(_DistributionSeries):
    """A histogram of one set of tags."""

    __slots__ = ()

    def observe(self, value: int | float) -> None:
        """Add a value to the distribution.

        Args:
            value: The value: finite, of either sign.

        Raises:
            InvalidInputError: If it is anything else.
        """
        if not (
            (value.__class__ is float and MIN_FLOAT <= value <= MAX_FLOAT)
            or (value.__class__ is int and INT64_MIN <= value <= INT64_MAX)
        ):
            checked = self.owner.number(value, True)
            if checked is None:
                return
            value = within_int64(checked)
        self.record(value, False, self._core.now())


class TimerSeries(_DistributionSeries):
    """A timer of one set of tags."""

    __slots__ = ()

    def observe(self, duration: float, unit: MetricUnit = MILLISECONDS) -> None:
        """Add a duration.

        Args:
            duration: The duration: finite and not negative.
            unit: The unit of ``duration``: seconds, milliseconds or microseconds.

        Raises:
            InvalidInputError: If it is anything else.
        """
        if unit is not MILLISECONDS or duration.__class__ is not float or not 0.0 <= duration <= MAX_FLOAT:
            checked = self.owner.milliseconds(duration, unit)
            if checked is None:
                return
            duration = float(checked)
        self.record(duration, False, self._core.now())

    def elapse(self, ms: float, success: bool = True) -> None:
        """Add a duration that was measured.

        Args:
            ms: The duration in milliseconds.
            success: Whether the operation succeeded.
        """
        if ms.__class__ is not float or not 0.0 <= ms <= MAX_FLOAT:
            checked = self.owner.milliseconds(ms, MILLISECONDS)
            if checked is None:
                return
            ms = float(checked)
        self.record(ms, not success, self._core.now())

    def time(self) -> Stopwatch:
        """Return a context manager that times its block; a block that raises counts as a failure."""
        return Stopwatch(self)


class Stopwatch:
    """Times a ``with`` block; see `TimerSeries.time`."""

    __slots__ = ("_idle", "_running", "_series")

    _running: int

    def __init__(self, series: TimerSeries) -> None:
        self._series = series
        self._idle = True

    def __enter__(self) -> None:
        now = self._series._core.now()
        try:
            del self._idle  # one step: of several threads, only one succeeds
        except AttributeError:
            raise RuntimeError("this stopwatch is running already; call time() for each block") from None
        self._running = now

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        series = self._series
        now = series._core.now()
        try:
            start_ns = self._running
            del self._running
        except AttributeError:
            raise RuntimeError("this stopwatch is not running; use it in a with block") from None
        self._idle = True
        series.record((now - start_ns) / 1e6, kind is not None, now)

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise TypeError(
            "time() times a block and decorates no function: use `with timer.time():` inside the function, or"
            " decorate it with metrics.measure(name)"
        )


class OutcomeSeries(Series):
    """The outcomes of an operation for one set of tags."""

    __slots__ = ()

    def finish(self, error_type: str | None) -> None:
        """Count an outcome.

        Args:
            error_type: The type of the error; ``None`` for success.
        """
        admitted = self.admitted(error_type)
        if admitted is error_type or admitted is not None:
            self.record(admitted, False, self._core.now())

    def admitted(self, error_type: str | None) -> str | None:
        """Return the name under which an error type is counted; ``None`` if it is rejected."""
        if error_type is None or self.is_null:
            return error_type
        known = self.slot.error_types
        if error_type.__class__ is str and (known is None or error_type in known):
            return error_type
        admitted: str | None = self.owner.error_type(error_type)
        return admitted

    def first_logged_number(self, aggregate: OutcomeAggregate | None) -> int:
        """Return the number of successes."""
        return 0 if aggregate is None else aggregate.successes

    def logged_number(self, before: int, value: str | None) -> tuple[int, int]:
        """Return the number of successes."""
        successes = before + (value is None)
        return successes, successes


def read_versions(series: Sequence[Series]) -> bytes:
    """Return bytes that differ if anything was recorded in, or removed from, some series of one core."""
    if not series:
        return b""
    core = series[0]._core
    commit = core.flush()
    versions = [one.state_at(commit).version for one in series]
    if core.shows_written:
        versions += [0 if one._shown is None else one._shown.version for one in series]
    return struct.pack(f"<{len(versions)}Q", *versions)


def read_values(series: Sequence[Series]) -> tuple[int | float, ...]:
    """Return the totals of counters and the last values of gauges of one core, in one step."""
    if not series:
        return ()
    return series[0]._core.consistent(
        lambda commit: tuple(_number_of(one.combined(one.shown_at(commit))) for one in series)
    )


def _number_of(aggregate: Any) -> int | float:
    if isinstance(aggregate, CounterAggregate):
        return aggregate.value
    return aggregate.last if isinstance(aggregate, GaugeAggregate) else 0


# -- recording by name -----------------------------------------------------------------------------------


class _Entry:
    """The series of one name in an index that were given with the same tag names.

    Attributes:
        tag_set: The tag set whose series are all found, if there is one.
        aliases: Other series, by the values that were given.
    """

    __slots__ = ("aliases", "tag_set")

    def __init__(self) -> None:
        self.tag_set: TagSet | None = None
        self.aliases: dict[tuple[str, ...], Series] = {}

    def get(self, values: tuple[str, ...]) -> Series | None:
        """Return the live series of some values."""
        series = None if self.tag_set is None else self.tag_set.get(values)
        if series is None:
            series = self.aliases.get(values)
        return None if series is None or not series.is_live else series


class _Name:
    """One name in an index.

    Attributes:
        entries: Its series by tag names, sorted.
        nulls: Null series by number of tags.
        fast: The series that are looked up first, by number of tags: a function that takes the values out
            of tags, and series by values.
        aliases: About how many aliases it has.
    """

    __slots__ = ("aliases", "entries", "fast", "nulls")

    def __init__(self) -> None:
        self.aliases = 0
        self.entries: dict[tuple[str, ...], _Entry] = {}
        self.nulls: dict[int, Series] = {}
        self.fast: dict[int, tuple[Callable[[Any], Any], Mapping[Any, Any]]] = {}

    def drop_aliases(self) -> None:
        """Drop all aliases. The next record of each one is slow, as its first record was."""
        self.aliases = 0
        kept: list[Mapping[Any, Series]] = []
        for names, entry in list(self.entries.items()):
            entry.aliases.clear()
            if entry.tag_set is None:
                self.entries.pop(names, None)
            else:
                kept.append(entry.tag_set.live)
        for number, (_, series) in list(self.fast.items()):
            if not any(series is one for one in kept):
                self.fast.pop(number, None)


def _values_getter(names: tuple[str, ...]) -> Callable[[Any], Any]:
    """Return a function that takes the values of tags out of a dict, as a tuple."""
    if len(names) > 1:
        return itemgetter(*names)
    return (lambda tags: (tags[names[0]],)) if names else lambda tags: ()


class SeriesIndex:
    """Finds series by name and tags as they are given."""

    __slots__ = ("_names", "_untagged")

    def __init__(self) -> None:
        self._names: dict[str, _Name] = {}
        self._untagged: dict[str, Mapping[Any, Series]] = {}

    def get(self, name: Any, tags: Any = None) -> Series | None:
        """Return the live series of a name and tags, or ``None`` if it is not known.

        Args:
            name: The name; any object.
            tags: The tags as they were given; any object.
        """
        try:
            if tags is None:
                return self._untagged[name][()]
            if tags.__class__ is dict:  # another mapping may make up values
                values_of, known = self._names[name].fast[len(tags)]
                series: Series = known[values_of(tags)]
                if series.seems_live:
                    return series
        except OBJECT_ERRORS:  # not known, or an odd object that cannot be compared
            pass
        return self._find(name, tags)

    def _find(self, name: Any, tags: Any) -> Series | None:
        tags = {} if tags is None else tags
        if name.__class__ is not str or tags.__class__ is not dict:
            return None
        known, items = self._names.get(name), list(tags.items())
        if known is None or any(item.__class__ is not str for pair in items for item in pair):
            return None
        items.sort()
        names, values = tuple(name for name, _ in items), tuple(value for _, value in items)
        entry = known.entries.get(names)
        series = None if entry is None else entry.get(values)
        return known.nulls.get(len(items)) if series is None else series

    def learn(self, name: str, tags: Mapping[str, str], series: Series) -> None:
        """Find a series by a name and tags from now on.

        Args:
            name: The name as it was given.
            tags: The tags as they were given, as plain strings. If they are those of the series, all series
                of its tag set are found, also later ones. Otherwise they are an alias of this series.
            series: The series. A null series is found for all tags of the same number.
        """
        known = self._names.get(name)
        if known is None:
            if len(self._names) >= MAX_NAMES:
                return
            known = self._names.setdefault(name, _Name())
        if series.is_null:
            known.nulls[len(tags)] = series
            return
        if known.aliases >= MAX_ALIASES:
            # All of them: a search for unused ones would slow each record down.
            known.drop_aliases()
        names = tuple(sorted(tags))
        entry = known.entries.setdefault(names, _Entry())
        if series.tags == tags:
            entry.tag_set = series.tag_set
            known.fast[len(names)] = (_values_getter(names), series.tag_set.live)
            if not names:
                self._untagged[name] = series.tag_set.live
        else:
            # Another thread may have dropped the entry: then the next record adds the alias again.
            entry.aliases[tuple(tags[tag] for tag in names)] = series
            known.aliases += 1
            known.fast.setdefault(len(names), (_values_getter(names), entry.aliases))

    def forget(self, name: str) -> None:
        """Stop finding any series by a name."""
        self._names.pop(name, None)
        self._untagged.pop(name, None)


class Recorder:
    """Records by name and tags: the recording half of the in-memory collector. Thread-safe.

    The four ``record_`` methods begin with the whole way of a usual record, `SeriesIndex.get` and
    `Series.record` in one: each call of a function would cost 3 % of a record.

    Args:
        core: The core.
        finder: Finds series that are not known yet; see `engine.Finder`.
    """

    def __init__(self, core: Core, finder: Any) -> None:
        self._now = core.now
        self._pending = core.pending
        self._finder = finder
        self._counters: SeriesIndex = finder.index("counter")
        self._gauges: SeriesIndex = finder.index("gauge")
        self._histograms: SeriesIndex = finder.index("histogram")
        self._timers: SeriesIndex = finder.index("timer")

    def record_counter(self, name: str, value: int | float = 1, tags: dict[str, str] | None = None) -> None:
        """Add to a counter; see `MetricCollector.record_counter`."""
        series: Any
        if value.__class__ is int and 0 <= value <= INT64_MAX and tags.__class__ is dict:
            try:
                values_of, known = self._counters._names[name].fast[len(tags)]  # pyright: ignore[reportArgumentType]
                series = known[values_of(tags)]
            except OBJECT_ERRORS:
                pass
            else:
                if series.seems_live:
                    now, pending = self._now(), self._pending
                    closes = now >= series.ends_ns and series.closes(now)
                    pending[object()] = (series, value, now, False)
                    if closes or len(pending) >= MAX_PENDING_RECORDS:
                        series.flush_if_due(closes)
                    return
        series = self._counters.get(name, tags) or self._finder.find("counter", name, tags)
        if series is not None:
            series.add(value)

    def record_gauge(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Set a gauge; see `MetricCollector.record_gauge`."""
        series: Any
        if value.__class__ is float and MIN_FLOAT <= value <= MAX_FLOAT and tags.__class__ is dict:
            try:
                values_of, known = self._gauges._names[name].fast[len(tags)]  # pyright: ignore[reportArgumentType]
                series = known[values_of(tags)]
            except OBJECT_ERRORS:
                pass
            else:
                if series.seems_live:
                    now, pending = self._now(), self._pending
                    closes = now >= series.ends_ns and series.closes(now)
                    pending[object()] = (series, value, now, False)
                    if closes or len(pending) >= MAX_PENDING_RECORDS:
                        series.flush_if_due(closes)
                    return
        series = self._gauges.get(name, tags) or self._finder.find("gauge", name, tags)
        if series is not None:
            series.set(value)

    def record_histogram(self, name: str, value: int | float, tags: dict[str, str] | None = None) -> None:
        """Add to a distribution; see `MetricCollector.record_histogram`."""
        series: Any
        if value.__class__ is float and MIN_FLOAT <= value <= MAX_FLOAT and tags.__class__ is dict:
            try:
                values_of, known = self._histograms._names[name].fast[len(tags)]  # pyright: ignore[reportArgumentType]
                series = known[values_of(tags)]
            except OBJECT_ERRORS:
                pass
            else:
                if series.seems_live:
                    now, pending = self._now(), self._pending
                    closes = now >= series.ends_ns and series.closes(now)
                    pending[object()] = (series, value, now, False)
                    if closes or len(pending) >= MAX_PENDING_RECORDS:
                        series.flush_if_due(closes)
                    return
        series = self._histograms.get(name, tags) or self._finder.find("histogram", name, tags)
        if series is not None:
            series.observe(value)

    def record_timer(
        self,
        name: str,
        duration: float,
        unit: MetricUnit = MILLISECONDS,
        tags: dict[str, str] | None = None,
    ) -> None:
        """Add a duration; see `MetricCollector.record_timer`."""
        series: Any
        if (
            unit is MILLISECONDS
            and duration.__class__ is float
            and 0.0 <= duration <= MAX_FLOAT
            and tags.__class__ is dict
        ):
            try:
                values_of, known = self._timers._names[name].fast[len(tags)]  # pyright: ignore[reportArgumentType]
                series = known[values_of(tags)]
            except OBJECT_ERRORS:
                pass
            else:
                if series.seems_live:
                    now, pending = self._now(), self._pending
                    closes = now >= series.ends_ns and series.closes(now)
                    pending[object()] = (series, duration, now, False)
                    if closes or len(pending) >= MAX_PENDING_RECORDS:
                        series.flush_if_due(closes)
                    return
        series = self._timers.get(name, tags) or self._finder.find("timer", name, tags)
        if series is not None:
            series.observe(duration, unit)

    def increment(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Add one to a counter or a gauge; see `MetricCollector.increment`."""
        series: Any = (
            self._counters.get(name, tags)
            or self._gauges.get(name, tags)
            or self._finder.find_step(name, 1, tags)
        )
        if isinstance(series, CounterSeries):
            series.add(1)
        elif series is not None:
            series.increment(1)

    def decrement(self, name: str, tags: dict[str, str] | None = None) -> None:
        """Subtract one from a gauge; see `MetricCollector.decrement`."""
        series: Any = self._gauges.get(name, tags) or self._finder.find_step(name, -1, tags)
        if isinstance(series, GaugeSeries):
            series.decrement(1)


class RunningTimers:
    """Timers that are started and stopped by id: a part of the in-memory timer. Thread-safe.

    Args:
        core: The core.
        timings: Finds the series of known operations.
        finder: Finds or creates all others; see `engine.TimerFinder`.
        clock: Reads the wall clock for results.
        limit: The maximum number of running timers. Beyond it, the oldest is abandoned.
    """

    def __init__(self, core: Core, timings: SeriesIndex, finder: Any, clock: Any, limit: int) -> None:
        self._core = core
        self._timings = timings
        self._finder = finder
        self._clock = clock
        self._limit = limit
        self._next_id = count(1).__next__
        self._running: dict[str, tuple[Any, str, dict[str, Any] | None, int]] = {}

    def start_timer(self, operation_name: str, metadata: dict[str, Any] | None = None) -> str:
        """Start timing; see `PerformanceTimer.start_timer`."""
        if metadata is not None:
            is_plain = metadata.__class__ is dict
            metadata = dict(metadata) if is_plain else self._finder.plain_metadata(metadata)
        series = self._timings.get(operation_name, None) or self._finder.find_timing(operation_name)
        timer_id = f"{self._next_id():06x}"
        running = self._running
        running[timer_id] = (series, operation_name, metadata, self._core.now())
        while len(running) > self._limit:
            self._abandon_oldest()
        return timer_id

    def stop_timer(self, timer_id: str, success: bool = True) -> TimingResult:
        """Stop a timer and record its duration; see `PerformanceTimer.stop_timer`."""
        now = self._core.now()
        try:
            timing = self._running.pop(timer_id)
        except (KeyError, TypeError):
            raise UnknownTimerError(
                f"no timer {timer_id!r} is running: it was stopped already, never started, or given up"
                f" when {self._limit} newer ones ran"
            ) from None
        series, name, metadata, start_ns = timing
        if series is not None:  # None if a bad name was counted instead of raised
            series.record((now - start_ns) / 1e6, not success, now)
        return pending_timing((name, metadata, start_ns, now, success, self._clock))

    def _abandon_oldest(self) -> None:
        running = self._running
        try:
            abandoned = running.pop(next(iter(running)), None)
        except (RuntimeError, StopIteration):  # another thread changes them
            return
        if abandoned is not None:
            self._finder.count_abandoned()


class OperationRecorder:
    """Records the duration and the outcome of an operation in one step. Thread-safe.

    Args:
        core: The core.
        timings: Finds the durations of known operations.
        outcomes: Finds the outcomes of known operations.
        finder: Finds or creates all others; see `engine.OperationFinder`.
    """

    def __init__(self, core: Core, timings: SeriesIndex, outcomes: SeriesIndex, finder: Any) -> None:
        self._core = core
        self._timings = timings
        self._outcomes = outcomes
        self._finder = finder

    def record(
        self, operation: str, tags: dict[str, str] | None, elapsed_ns: int, error_type: str | None
    ) -> None:
        """Record one call of an operation.

        Args:
            operation: The name of the operation.
            tags: Its tags.
            elapsed_ns: How long it took.
            error_type: The type of its error; ``None`` for success.
        """
        timing: Any = self._timings.get(operation, tags) or self._finder.find_timing(operation, tags)
        outcome: Any = self._outcomes.get(operation, tags) or self._finder.find_outcomes(operation, tags)
        admitted = None if outcome is None else outcome.admitted(error_type)
        now = self._core.now()
        records: dict[object, Any] = {}
        if timing is not None:
            records[object()] = (timing.live_series(), elapsed_ns / 1e6, now, error_type is not None)
        if outcome is not None and (admitted is not None or error_type is None):
            records[object()] = (outcome.live_series(), admitted, now, False)
        records = {key: record for key, record in records.items() if record[0] is not None}
        many = [record[0] for record in records.values()]
        closing = [one for one in many if one.closes(now)]
        pending = self._core.pending
        pending.update(records)  # one step, like a single record
        if self._core.flush_if_due(bool(closing)):
            for series in closing:
                series.publish()


class InternalCounter:
    """A counter that a store uses internally. Thread-safe; no call blocks.

    Args:
        core: The core that other processes may read the counter of. This engine has no pages to read.
        name: ``"rejected"``, ``"overflowed"`` or ``"abandoned"``; other processes read it by this name.

    Raises:
        ValueError: If a core is given with another name.
    """

    __slots__ = ("_core", "_series")

    def __init__(self, core: Core | None = None, name: str = "") -> None:
        if core is not None and name not in ("rejected", "overflowed", "abandoned"):
            raise ValueError(f"name={name!r} is not 'rejected', 'overflowed' or 'abandoned'")
        self._core = Core(now=int)  # a clock that stands still at 0
        tag_set = TagSet(None, ())
        self._series = CounterSeries(tag_set, (), Slot(self._core, "counter"))
        tag_set.add(self._series)

    @property
    def value(self) -> int:
        """The total."""
        aggregate = self._series.state()
        return 0 if aggregate is None else aggregate.value

    def add(self, n: int = 1) -> None:
        """Add to the counter."""
        self._series.add(n)

    def reset(self) -> None:
        """Start again at 0."""
        self._core.reset()
