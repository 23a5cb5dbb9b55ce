"""Folding gauges: what a gauge with several series is as a whole depends on the order of their records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from metrics_framework.recording import ledger, sums
from metrics_framework.recording.instruments import MAX, MIN, Step
from metrics_framework.recording.ledger import UNCUT, Buffered, Ledger
from metrics_framework.recording.taps import Folded, Folding, Tap
from metrics_framework.recording.traces import GaugeTrace
from metrics_framework.recording.windows import SLOT_NS

GONE = None
"""Stands in a buffer for a number: the series was removed."""

FEW = 4
"""Up to how many records a series are followed one by one."""

ITEMS = 3
"""How many items of the buffer make a record: the series, what was recorded in it, and when."""

PENDING_ITEMS = 512 * ITEMS


class GaugeLedger(Ledger):
    """Folds the gauges of one name, whose records are in one buffer, in their order.

    Args:
        now: Reads the monotonic clock.
        members: Returns the series of the name.
        retention_ns: Returns how long slots are kept.
        dropped: Called for each record that did not fit under the hard cap.
        busy: Called with a series that has many records.
        law: Returns the merge law: ``latest``, ``sum``, ``min`` or ``max``.
        tap: Where those are who listen.
    """

    __slots__ = ("_last", "_law", "_of_series", "buffer", "state")

    def __init__(
        self,
        now: Callable[[], int],
        members: Callable[[], Iterable[Buffered]],
        retention_ns: Callable[[], int],
        dropped: Callable[[], None],
        busy: Callable[[Any], None],
        law: Callable[[], str],
        tap: Tap,
    ) -> None:
        super().__init__(now, _never, members, retention_ns, dropped, self._say_busy, tap)
        self._of_series = busy
        self._law = law

    def reset(self) -> None:
        """Begin anew, in a child process or at the start; nobody else may be at work."""
        super().reset()
        self.buffer: list[Any] = [UNCUT]
        self.state = None

    def share(self, members: int) -> None:
        """Hold back as much for many series as for one, since they have one buffer."""
        self.limit = PENDING_ITEMS

    def fold_all(self) -> None:
        """Fold what is in the buffer; the lock is held."""
        self.fold_some(())

    def fold_some(self, many: Iterable[Buffered]) -> None:
        """Fold what is in the buffer, whosever it is: all series have one; the lock is held."""
        super().fold_some((self,))

    def forget(self, series: Buffered) -> None:
        """Let a series begin at nothing; what it recorded stays in the windows. The lock is held."""
        super().forget(series)
        if self._law() != "latest":  # the others make another value from now on
            self.buffer += (series, GONE, self.now())

    def _say_busy(self, _: Buffered) -> None:
        self._of_series(self._last)

    def _shorten(self, series: Buffered) -> None:
        del series.buffer[1 + (ledger.HARD_CAP - 1) // ITEMS * ITEMS :]

    def _absorb(
        self,
        series: Buffered,
        slot: int,
        batch: Sequence[Any],
        states: list[tuple[Buffered, Any]],
        slots: dict[int, list[tuple[Sequence[Any], Any]]],
        folding: Folding | None,
    ) -> int:
        members, values, times = batch[::ITEMS], batch[1::ITEMS], batch[2::ITEMS]
        self._last = members[-1]
        law = self._law()
        try:
            sum(values)
            numbers = True
        except OverflowError:
            numbers = True
        except TypeError:  # there are steps among them, or series that are gone
            values = list(_resolved(members, values))
            numbers = GONE not in values
        only = members[0]
        in_one_slot = _slot(times[0]) == _slot(times[-1])
        if numbers and law == "latest" and in_one_slot:  # nearly always
            course = GaugeTrace.of(values, times)
            slots[_slot(times[0])] = [((), course)]
            if members.count(only) == len(members):
                states.append(_extended(only, course))
            else:
                states += _by_series(members, values, times)
            if folding is not None:
                folding.parts += _folded(members, values, states)
            return slot
        wholes = self._combined(law, members, values)
        for start, events in groupby(zip(wholes, times, values, strict=True), lambda event: _slot(event[1])):
            part = [event for event in events if event[0] is not GONE]
            if part:
                course = GaugeTrace.of(*zip(*(event[:2] for event in part), strict=True))
                course = course._replace(records=sum(event[2] is not GONE for event in part))
                before = slots.get(start)
                slots[start] = [((), course if before is None else before[0][1].merge(course))]
        states += _by_series(members, values, times)
        if folding is not None:
            folding.parts += _folded(members, values, states)
        return slot

    def _combined(self, law: str, members: Sequence[Any], values: Sequence[Any]) -> Iterable[Any]:
        """Return what all series together are after each record."""
        return values if law == "latest" else self._lawful(law, members, values)

    def _lawful(self, law: str, members: Sequence[Any], values: Sequence[Any]) -> Iterator[int | float]:
        lasts = {one: one.state.last for one in self._members() if one.state is not None}
        total = (sums.sum_of(list(lasts.values())), 0.0)
        pick = {"min": min, "max": max}.get(law)
        for member, value in zip(members, values, strict=True):
            total = sums.add(total, -lasts.pop(member, 0))
            if value is not GONE:
                lasts[member] = value
                total = sums.add(total, value)
            yield pick(lasts.values(), default=0) if pick else sums.value_of(total)


def _slot(time_ns: int) -> int:
    return time_ns - time_ns % SLOT_NS


def _resolved(members: Sequence[Any], values: Sequence[Any]) -> Iterator[Any]:
    """Turn steps into what they lead to."""
    lasts: dict[Any, int | float] = {}
    for member, value in zip(members, values, strict=True):
        if value.__class__ is Step:
            if member not in lasts:
                lasts[member] = 0 if member.state is None else member.state.last
            value = _moved(lasts[member], value.by)
        lasts[member] = 0 if value is GONE else value
        yield value


def _by_series(
    members: Sequence[Any], values: Sequence[Any], times: Sequence[int]
) -> Iterable[tuple[Buffered, GaugeTrace]]:
    if len(set(members)) * FEW > len(members):
        # Among many series each has few records, and going on is faster than gathering them.
        courses: dict[Any, GaugeTrace] = {}
        for member, value, time in zip(members, values, times, strict=True):
            if value is not GONE:
                course = courses.get(member) or member.state
                courses[member] = (
                    GaugeTrace.start(value, time) if course is None else course.go_on(value, time)
                )
        return courses.items()
    gathered: dict[Any, tuple[list[int | float], list[int]]] = {}
    for member, value, time in zip(members, values, times, strict=True):
        if value is not GONE:
            its_values, its_times = gathered.get(member) or gathered.setdefault(member, ([], []))
            its_values.append(value)
            its_times.append(time)
    return [
        _extended(member, GaugeTrace.of(its_values, its_times))
        for member, (its_values, its_times) in gathered.items()
    ]


def _folded(
    members: Sequence[Any], values: Sequence[Any], states: Iterable[tuple[Buffered, Any]]
) -> Iterable[Folded]:
    after: dict[Any, Any] = dict(states)
    gathered: dict[Any, list[int | float]] = {}
    for member, value in zip(members, values, strict=True):
        if value is not GONE:
            gathered.setdefault(member, []).append(value)
    return [
        Folded(member, its_values, member.state, after[member]) for member, its_values in gathered.items()
    ]


def _moved(value: int | float, step: int | float) -> int | float:
    """Take a step, as far as the largest float."""
    try:
        moved = value + step
    except OverflowError:  # an integer that large meets a float
        moved = float(value) + float(step)
    return min(max(moved, MIN), MAX)


def _extended(series: Any, course: GaugeTrace) -> tuple[Buffered, GaugeTrace]:
    before = series.state
    return series, course if before is None else before.merge(course)


def _never(_: Sequence[Any]) -> None:
    """Stand where other ledgers make traces of batches: records of a gauge bear their times."""
    raise TypeError
