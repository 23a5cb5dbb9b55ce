"""The stream of a store: every record of it, once, as its folds say."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from metrics_framework.clock import utc
from metrics_framework.recording import Store
from metrics_framework.recording.commons import Tally
from metrics_framework.recording.kinds import records
from metrics_framework.recording.ledger import parts
from metrics_framework.recording.sums import ZERO, add, value_of
from metrics_framework.recording.taps import Folded, Folding
from metrics_framework.recording.traces import per_second
from metrics_framework.streams.events import Run, StreamEvent, Subject
from metrics_framework.values import MetricType, MetricUnit, MetricValue

SHARE = 0.1
"""How much of a CPU looking for records that wait may take: a store of very many series is looked at less
often."""

MAX_SECONDS = 1.0
"""How long a record waits at most until it is looked for."""

MAX_WAITING = 200_000
"""How many records may have been folded and not be published yet."""

MAX_SUBJECTS = 100_000

COUNT_SECONDS = 0.2
"""How long what came before is counted again where other threads record too much meanwhile to be exact."""


class Recorded:
    """Every record of a store, from the moment that it is started.

    Args:
        store: Where they are recorded.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._subjects: dict[Any, Subject] = {}
        self._begin()

    def forget(self) -> None:
        """Begin anew in a child process, where nobody listens to the store any more."""
        self._store.tap.begin()  # whose lock may have been held by a thread that is not here
        self._begin()

    def _begin(self) -> None:
        self._waiting: deque[Folding] = deque()
        self._weight = 0  # roughly: of two threads that add to it, one may be lost
        self._lost = Tally(self._store.clock)
        self._lost_before = 0
        self._due = 0.0
        self._subjects.clear()
        self._offset: int | None = None  # how many records there were before the first event

    def start(self, sequence: int) -> int:
        """Begin to listen; what was recorded before is left out.

        Args:
            sequence: The number of the last event.

        Returns:
            How many records there were since then.
        """
        recorded = self._count()
        if self._offset is None:
            self._offset = recorded - sequence
        return max(recorded - self._offset - sequence, 0)

    def _count(self) -> int:
        """Begin to listen, and return how many records came before what is listened to."""
        here, tap = threading.get_ident(), self._store.tap
        elsewhere: list[int] = []

        def notice(_: Folding) -> None:
            if (thread := threading.get_ident()) != here:
                elsewhere.append(thread)

        tap.add(notice)  # first: what waits has been noticed
        tap.add(self._take_in)
        try:
            until = time.monotonic() + COUNT_SECONDS
            while True:
                elsewhere.clear()
                recorded = self._store.recorded  # folds all there is
                waiting = len(self._waiting)
                # Of a fold of another thread nobody knows whether it was counted.
                if not elsewhere or time.monotonic() > until:
                    break
        finally:
            tap.remove(notice)
        for _ in range(waiting):
            self._next()
        return recorded

    def stop(self) -> None:
        """Listen no more."""
        self._store.tap.remove(self._take_in)
        self._waiting.clear()
        self._subjects.clear()

    def collect(self, *, now: bool) -> tuple[int, list[Run]]:
        """Return what was recorded since the last time.

        Args:
            now: Whether every finished record must be among it; else some of them may wait, for less than
                `MAX_SECONDS`.

        Returns:
            How many records were lost before them, as nobody collected them in time, and the others.
        """
        begin = time.monotonic()
        if now or begin >= self._due:
            self._store.catch_up()
            spent = time.monotonic() - begin
            self._due = begin + min(spent / SHARE, MAX_SECONDS)
        runs: list[Run] = []
        read_at, now_ns = utc(self._store.clock), self._store.clock.monotonic_ns()
        for _ in range(len(self._waiting)):  # and not until none is left: more may come all the time
            folding = self._next()
            if folding is not None:
                runs += [RecordedRun(self._subject(part.series), part, self._store, read_at, now_ns)
                         for part in folding.parts]  # fmt: skip
        lost = int(self._lost.total)
        lost, self._lost_before = lost - self._lost_before, lost
        return lost, runs

    def _take_in(self, folding: Folding) -> None:
        # In the middle of somebody's record: nothing here waits, and each step may be the last.
        self._waiting.append(folding)
        self._weight += _size(folding)
        while self._weight > MAX_WAITING and len(self._waiting) > 1:
            oldest = self._next()
            if oldest is not None:
                self._lost.add(_size(oldest))

    def _next(self) -> Folding | None:
        """Return the oldest fold that waits; ``None`` where there is none, or it was dealt with before."""
        try:
            folding = self._waiting.popleft()
        except IndexError:
            self._weight = 0
            return None
        self._weight -= _size(folding)
        mark = object()
        return folding if folding.taken.setdefault(self, mark) is mark else None

    def _subject(self, series: Any) -> Subject:
        subject = self._subjects.get(series)
        if subject is None:
            if len(self._subjects) >= MAX_SUBJECTS:
                self._subjects.clear()
            named = series.home.metric.named
            tags = {**self._store.tags, **series.tags}
            subject = Subject(named.name, named.metric_type, tags, named.is_operation)
            self._subjects[series] = subject
        return subject


def _size(folding: Folding) -> int:
    return sum(len(part.values) for part in folding.parts)


class RecordedRun:
    """What one fold took out of the buffer of one series: its events are made when somebody takes them.

    Args:
        subject: The series.
        folded: The records.
        store: Where they were recorded.
        read_at: When they were read.
        now_ns: The same on the monotonic clock.
    """

    __slots__ = (
        "_events",
        "_folded",
        "_made",
        "_now_ns",
        "_read_at",
        "_store",
        "first",
        "subject",
    )

    def __init__(
        self, subject: Subject, folded: Folded, store: Store, read_at: datetime, now_ns: int
    ) -> None:
        self.subject = subject
        self.first = 0
        self._folded = folded
        self._store = store
        self._read_at = read_at
        self._now_ns = now_ns
        self._made: Callable[[int], MetricValue] | None = None
        self._events: dict[int, StreamEvent] = {}

    def __len__(self) -> int:
        return len(self._folded.values)

    def __getitem__(self, index: int, /) -> StreamEvent:
        event = self._events.get(index)
        if event is None:
            made = self._made = self._made or self._maker()
            # Of two threads that make it at once, both get the same one.
            event = self._events.setdefault(index, StreamEvent(self.first + index, made(index)))
        return event

    def _maker(self) -> Callable[[int], MetricValue]:
        subject, folded = self.subject, self._folded
        name, metric_type, tags = subject.name, subject.metric_type, subject.tags
        recorded = [each[0] if each.__class__ is tuple else each for each in folded.values]
        after = parts(folded.after)[0]
        counted = records(after) - len(recorded)
        unit = self._unit()
        numbers = self._numbers(recorded, after)
        read_at = self._read_at
        successes = self._successes(recorded) if metric_type is MetricType.RATE else ()

        def make(index: int) -> MetricValue:
            count = counted + index + 1
            metadata: dict[str, Any] = {"count": count, "recorded": recorded[index]}
            if successes:
                metadata["success_rate"] = successes[index] / count
            if subject.is_operation:
                metadata["operation"] = True
            return MetricValue(name, numbers[index], metric_type, unit, read_at, tags, metadata)

        return make

    def _successes(self, recorded: Sequence[Any]) -> Sequence[int]:
        """Return how many endings were successes with each one."""
        before = parts(self._folded.before)[0]
        start = before.successes if before else 0
        return list(accumulate((ending is None for ending in recorded), initial=start))[1:]

    def _unit(self) -> MetricUnit:
        if self.subject.metric_type is MetricType.TIMER:
            return MetricUnit.MILLISECONDS
        if self.subject.metric_type is MetricType.RATE:
            return MetricUnit.OPERATIONS_PER_SECOND
        return self._store.description(self.subject.name).unit or MetricUnit.COUNT

    def _numbers(self, recorded: Sequence[Any], after: Any) -> Sequence[int | float]:
        """Return what `MetricValue.value` is with each record."""
        metric_type = self.subject.metric_type
        if metric_type is MetricType.GAUGE:
            return recorded
        if metric_type is MetricType.COUNTER:
            return self._totals(recorded, after)
        if metric_type is MetricType.RATE:
            seconds = (self._now_ns - self._store.start_ns) / 1e9
            last = records(after)
            return [per_second(count, seconds) for count in range(last - len(recorded) + 1, last + 1)]
        p95: list[float] = after.quantiles(0.95)
        return p95 * len(recorded)

    def _totals(self, recorded: Sequence[Any], after: Any) -> Sequence[int | float]:
        before = parts(self._folded.before)[0]
        start = (before.total, before.compensation) if before else ZERO
        if start[0].__class__ is int and {each.__class__ for each in recorded} == {int}:
            return list(accumulate(recorded, initial=start[0]))[1:]
        running = list(accumulate(recorded, add, initial=start))[1:]
        # The last one as the store has it: it adds a batch at once.
        return [*map(value_of, running[:-1]), after.value]
