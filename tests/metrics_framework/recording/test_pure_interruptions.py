"""Interruptions of the pure-Python engine at every bytecode: exceptions, re-entrant calls, other threads.

A signal handler, a garbage collection callback or ``__del__`` runs between two bytecodes of any code. These
tests do the same with a trace function: at one bytecode of the engine they raise an exception, or record and
read. They do so at a sample of all bytecodes, the thorough versions at more of them. With
``METRICS_FRAMEWORK_EVERY_BYTECODE=1`` the thorough versions try every single one, which takes an hour.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from metrics_framework.recording import _pure

PACKAGE = str(Path(_pure.__file__).parent)
SECOND = 1_000_000_000
MAX_BYTECODES = 100_000
"""More bytecodes than any block of these tests has."""


class EngineInterrupted(BaseException):
    """Raised in the middle of the engine."""


class Interruption:
    """Calls functions at some bytecodes of the engine: one after another, each once.

    Args:
        plan: How many bytecodes after the one before it each function is called. While a function runs,
            bytecodes are not counted.

    Attributes:
        places: Where the functions were called.
    """

    def __init__(self, *plan: tuple[int, Callable[[], None]]) -> None:
        self._plan = list(plan)
        self._left = plan[0][0]
        self.places: list[str] = []

    @property
    def is_done(self) -> bool:
        """Whether all functions were called."""
        return not self._plan

    def __enter__(self) -> Interruption:
        self._before = sys.gettrace()
        # Python 3.12 reports opcodes only if a frame enables them before tracing begins.
        sys._getframe().f_trace_opcodes = True
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self._plan or not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode" and self._plan:
            self._left -= 1
            if self._left <= 0:
                code = frame.f_code
                self.places.append(f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}")
                _, act = self._plan.pop(0)
                plan, self._plan = self._plan, []
                self._left = plan[0][0] if plan else 0
                try:
                    act()
                finally:
                    self._plan = plan
        return self._on_event


def interrupt(*_: object) -> None:
    """Raise, as a signal handler may."""
    raise EngineInterrupted


class PermissiveOwner:
    """An owner that readmits every series and admits every error type."""

    name = "metric"

    def readmit(self, series: Any) -> Any:
        """Return the series itself, live again."""
        return series.tag_set.add(series)

    def error_type(self, error_type: str) -> str:
        """Return the error type."""
        return error_type


class SlotTrial:
    """Two series of one slot; record number ``i`` is worth ``2**i``, so that a sum identifies its records.

    Attributes:
        made: The numbers of the records that returned.
        interrupted: The numbers of those that raised.
        removals: The note of each removal: the final aggregate, or a series whose removal was interrupted.
    """

    series_class: Any
    slot_kind: str
    law = "latest"

    def __init__(self) -> None:
        self.time_ns = 100 * SECOND
        self.core = _pure.Core(lambda: self.time_ns)
        self.core.allows_recent = True
        self.core.publish_recent = lambda series: self.publish(series.recent or self.slot)
        self.slot = _pure.Slot(self.core, self.slot_kind, self.publish, windows=())
        self.slot.law = self.law
        self.tag_set = _pure.TagSet(PermissiveOwner(), ("one",))
        self.many = [self.tag_set.add(self.series_class(self.tag_set, (one,), self.slot)) for one in "ab"]
        self.next = 0
        self.made: set[int] = set()
        self.interrupted: set[int] = set()
        self.removals: dict[object, Any] = {}
        self.prepare()
        self.log = self.core.subscribe(1_000)
        self.logged: list[Any] = []
        for _ in range(3):  # among others, a recent slot for each series, and pending records
            self.record()
            self.record()
            self.time_ns += 16 * SECOND
        self.time_ns -= 16 * SECOND
        self.read()
        for _ in range(3):
            self.record()

    def prepare(self) -> None:
        """Prepare the slot."""

    def publish(self, slot: Any) -> None:
        """Move closed slots into the windows."""
        while True:
            windows, closed, _ = slot.peek()
            if not closed or slot.commit(windows, (*(windows or ()), *closed), len(closed)):
                return

    def record(self) -> None:
        """Make the next record."""
        number = self.next
        self.next += 1
        try:
            self.put(self.many[number % 2], number)
        except EngineInterrupted:
            self.interrupted.add(number)
            raise
        self.made.add(number)

    def put(self, series: Any, number: int) -> None:
        """Make a record."""
        raise NotImplementedError

    def read(self) -> None:
        """Read everything."""
        for series in self.many:
            series.state()
        self.slot.peek()
        assert self.core.records <= self.next

    def remove(self) -> None:
        """Remove one of the series."""
        self.tag_set.remove(self.many[1], self.removals, object())

    def removed(self) -> list[Any]:
        """Finish interrupted removals, and return the final aggregates of all."""
        for key, note in list(self.removals.items()):
            if note in self.many:
                self.tag_set.remove(note, self.removals, key)
        return [aggregate for aggregate in self.removals.values() if aggregate is not None]

    def numbers_in(self, aggregate: Any) -> set[int]:
        """Return the numbers of the records of an aggregate."""
        raise NotImplementedError

    def check(self, where: object) -> None:
        """Check that each record that returned is counted once, in every place where it can be read."""
        removed = self.removed()
        windows, closed, opened = self.slot.peek()
        in_slots = [aggregate for _, aggregate in (*windows, *closed, *([opened] if opened else []))]
        in_series = [state for series in self.many if (state := series.state()) is not None]
        counted = self.core.records
        self.logged += self.log.drain()[1]
        found = self.found(in_slots, in_series, removed, where)
        assert self.made <= found <= self.made | self.interrupted, where
        assert counted == len(found), where
        assert len(self.logged) == len(found), where
        assert [entry[2] for entry in self.logged if entry[0] is self.many[0]] == list(
            range(1, len([number for number in found if number % 2 == 0]) + 1)
        ), where
        for series in self.many:
            if series.recent is not None:
                windows, closed, opened = series.recent.peek()
                parts = [
                    aggregate for _, aggregate in (*(windows or ()), *closed, *([opened] if opened else []))
                ]
                assert sum(part.records for part in parts) <= series.state().records, where
        assert self.core.settle().links == (), where

    def found(self, in_slots: list[Any], in_series: list[Any], removed: list[Any], where: object) -> set[int]:
        """Return the numbers of the records that are there, from slots, series and removals."""
        found: set[int] = set()
        for aggregate in in_slots:
            numbers = self.numbers_in(aggregate)
            assert aggregate.records == len(numbers), where
            assert not numbers & found, where
            found |= numbers
        apart: set[int] = set()
        for aggregate in (*in_series, *removed):
            numbers = self.numbers_in(aggregate)
            assert not numbers & apart, where
            apart |= numbers
        assert apart == found, where
        return found


def bits(mask: int) -> set[int]:
    """Return which powers of two make up a number."""
    return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}


class Counters(SlotTrial):
    """Counters."""

    series_class = _pure.CounterSeries
    slot_kind = "counter"

    def put(self, series: Any, number: int) -> None:
        """Add a power of two."""
        series.add(2**number)

    def numbers_in(self, aggregate: Any) -> set[int]:
        """Return the powers of two in a total."""
        return bits(aggregate.value)


class Histograms(SlotTrial):
    """Histograms whose values are counted by a bound as well."""

    series_class = _pure.HistogramSeries
    slot_kind = "distribution"
    bound = 4.0

    def prepare(self) -> None:
        """Count by a bound."""
        self.slot.count_by((self.bound,), seed=True)

    def put(self, series: Any, number: int) -> None:
        """Observe a power of two."""
        series.observe(2**number)

    def numbers_in(self, aggregate: Any) -> set[int]:
        """Return the powers of two in a sum."""
        return bits(aggregate.sum)

    def check(self, where: object) -> None:
        """Check the counts by bounds, too."""
        super().check(where)
        for series in self.many:
            counted = series.counted()
            if counted is not None:
                distribution, (below, above), total = counted
                assert (below + above, total) == (distribution.count, distribution.sum), where
                assert below == sum(2**number <= self.bound for number in bits(total)), where


class Timers(SlotTrial):
    """Timers, which count every second duration as a failure."""

    series_class = _pure.TimerSeries
    slot_kind = "distribution"

    def put(self, series: Any, number: int) -> None:
        """Record a power of two."""
        series.elapse(2.0**number, number % 4 < 2)

    def numbers_in(self, aggregate: Any) -> set[int]:
        """Return the powers of two in a sum."""
        numbers = bits(int(aggregate.sum))
        assert aggregate.failures == sum(number % 4 >= 2 for number in numbers)
        return numbers


class Gauges(SlotTrial):
    """Gauges that are incremented; the whole is their sum."""

    series_class = _pure.GaugeSeries
    slot_kind = "gauge"
    law = "sum"

    def put(self, series: Any, number: int) -> None:
        """Add a power of two."""
        series.increment(2**number)

    def numbers_in(self, aggregate: Any) -> set[int]:
        """Return the powers of two in the last value."""
        return bits(aggregate.last)

    def found(self, in_slots: list[Any], in_series: list[Any], removed: list[Any], where: object) -> set[int]:
        """Return the numbers of the records, of which slots of gauges show the sum of the series."""
        present: set[int] = set()
        for state in in_series:
            assert not self.numbers_in(state) & present, where
            present |= self.numbers_in(state)
        assert bits(in_slots[-1].last) == present, where
        found = present.union(*map(self.numbers_in, removed))
        records = sum(aggregate.records for aggregate in in_slots)
        assert records == len(found), where
        return found


class Outcomes(SlotTrial):
    """Outcomes, each with an error type of its own."""

    series_class = _pure.OutcomeSeries
    slot_kind = "outcome"

    def put(self, series: Any, number: int) -> None:
        """Finish with an error."""
        series.finish(f"error {number}")

    def numbers_in(self, aggregate: Any) -> set[int]:
        """Return the numbers of the errors."""
        assert set(aggregate.endings.values()) <= {1}
        return {int(ending.split()[1]) for ending in aggregate.endings}


TRIALS = [Counters, Histograms, Timers, Gauges, Outcomes]
all_trials = pytest.mark.parametrize("trial_class", TRIALS)
EVERY = 1 if os.environ.get("METRICS_FRAMEWORK_EVERY_BYTECODE") == "1" else 31
thoroughly = pytest.mark.parametrize(
    "step",
    [1_009, pytest.param(EVERY, marks=[pytest.mark.heavy, pytest.mark.timeout(7_200)])],
    ids=["sample", "thorough"],
)
"""At which bytecodes to interrupt: every 1009th one, or every 31st; every single one on demand."""


def record_flushing(trial: SlotTrial) -> None:
    """Make a record that flushes, because many are pending."""
    trial.record()


def record_closing(trial: SlotTrial) -> None:
    """Make a record that flushes and publishes, because it closes the slot and a recent slot."""
    trial.time_ns += 17 * SECOND
    trial.record()


def read(trial: SlotTrial) -> None:
    """Read everything."""
    trial.read()


def remove(trial: SlotTrial) -> None:
    """Remove a series."""
    trial.remove()


def change(trial: SlotTrial) -> None:
    """Change the bucket bounds and drop the recent slot."""
    trial.slot.count_by(trial.slot.bounds, seed=True)
    trial.many[0].drop_recent()
    other = trial.core.subscribe(10)
    other.drain()
    trial.core.unsubscribe(other)


BLOCKS = [record_flushing, record_closing, read, remove, change]
all_blocks = pytest.mark.parametrize("block", BLOCKS)


@pytest.fixture(autouse=True)
def flush_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flush at the fourth pending record, so that three are pending when a block begins."""
    monkeypatch.setattr(_pure, "MAX_PENDING_RECORDS", 4)


def trials(trial_class: type[SlotTrial], step: int, first: int = 1) -> Iterator[tuple[SlotTrial, int]]:
    """Yield a trial and the number of a bytecode until the test sends that none is left."""
    for number in range(first, MAX_BYTECODES, step):
        yield trial_class(), number
    raise AssertionError("the block never ends")


def check_and_go_on(trial: SlotTrial, where: object) -> None:
    """Check everything, record into both series, and check again."""
    trial.check(where)
    trial.record()
    trial.record()
    trial.time_ns += SECOND
    trial.record()
    trial.record()
    trial.check(where)
    assert trial.tag_set.series() in (trial.many, trial.many[::-1]), where


@thoroughly
@all_blocks
@all_trials
def test_an_exception_at_any_bytecode_costs_the_interrupted_record_at_most(trial_class, block, step):
    """After any exception only the interrupted record may be missing, and recording continues."""
    for trial, number in trials(trial_class, step):
        interruption = Interruption((number, interrupt))
        with contextlib.suppress(EngineInterrupted), interruption:
            block(trial)
        check_and_go_on(trial, interruption.places)
        if not interruption.is_done:
            assert number > 50
            return


SECOND_BYTECODES = [1, 10, 100, 1_000]


@pytest.mark.slow
@thoroughly
@pytest.mark.parametrize("block", [record_flushing, record_closing, read, remove])
@all_trials
def test_two_exceptions_in_a_row_cost_no_more(trial_class, block, step):
    """If the next call is interrupted as well, only interrupted records are missing."""
    for soon in SECOND_BYTECODES:
        for trial, number in trials(trial_class, 2 * step - 1, first=1 + soon % 7):
            interruption = Interruption((number, interrupt), (soon, interrupt))
            with interruption:
                for again in (block, SlotTrial.read, SlotTrial.record, SlotTrial.read):
                    with contextlib.suppress(EngineInterrupted):
                        again(trial)
                    if not interruption.places:
                        break
            check_and_go_on(trial, interruption.places)
            if not interruption.places:
                break


def record_and_read(trial: SlotTrial) -> None:
    """Record and read, as a signal handler may."""
    for _ in range(5):
        trial.record()
    trial.read()


def record_and_raise(trial: SlotTrial) -> None:
    """Record, and raise at the end."""
    trial.record()
    trial.read()
    raise EngineInterrupted


def record_elsewhere(trial: SlotTrial) -> None:
    """Record and read in another thread, which never blocks."""
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                trial.record()
            trial.read()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it waits for something"
    if errors:
        raise errors[0]


def remove_and_record(trial: SlotTrial) -> None:
    """Remove a series, which the next record restores."""
    trial.remove()
    trial.record()
    trial.record()


@pytest.mark.slow
@thoroughly
@pytest.mark.parametrize("act", [record_and_read, record_and_raise, record_elsewhere, remove_and_record])
@pytest.mark.parametrize("block", [record_closing, read, remove])
@all_trials
def test_calls_at_any_bytecode_are_counted_once(trial_class, block, act, step):
    """Records, reads and removals in the middle of other calls all count once."""
    for trial, number in trials(trial_class, 3 * step - 2):
        underway = trial.next

        def inside(trial: SlotTrial = trial, underway: int = underway) -> None:
            # The interrupted record may be there already, or not yet.
            trial.interrupted.add(underway) if block is record_closing else None
            act(trial)

        interruption = Interruption((number, inside))
        with contextlib.suppress(EngineInterrupted), interruption:
            block(trial)
        trial.interrupted -= trial.made
        check_and_go_on(trial, interruption.places)
        if not interruption.is_done:
            return


@thoroughly
def test_a_reset_at_any_bytecode_is_atomic(step):
    """An interrupted reset has either happened or not."""
    for trial, number in trials(Counters, step):
        before = len(trial.made)
        interruption = Interruption((number, interrupt))
        with contextlib.suppress(EngineInterrupted), interruption:
            trial.core.reset()
        states = [series.state() for series in trial.many]
        records = sum(0 if state is None else state.records for state in states)
        assert trial.core.records == records, interruption.places
        assert records in (0, before), interruption.places
        trial.many[0].add(1)
        assert trial.core.records == records + 1, interruption.places
        if not interruption.is_done:
            return


@thoroughly
def test_an_operation_is_recorded_atomically(step):
    """An interrupted operation has a duration and an outcome, or neither."""
    for number in range(1, MAX_BYTECODES, step):
        core = _pure.Core(lambda: 100 * SECOND)
        timings, outcomes = _pure.SeriesIndex(), _pure.SeriesIndex()
        states = []
        for index, series_class, kind in (
            (timings, _pure.TimerSeries, "distribution"),
            (outcomes, _pure.OutcomeSeries, "outcome"),
        ):
            tag_set = _pure.TagSet(PermissiveOwner(), ())
            series = tag_set.add(series_class(tag_set, (), _pure.Slot(core, kind, lambda slot: None)))
            index.learn("operation", {}, series)
            states.append(series.state)
        operations = _pure.OperationRecorder(core, timings, outcomes, None)
        operations.record("operation", None, 1, None)
        interruption = Interruption((number, interrupt))
        with contextlib.suppress(EngineInterrupted), interruption:
            operations.record("operation", None, 1, "ValueError")
        first, second = (state().records for state in states)
        assert first == second == core.records / 2, interruption.places
        if not interruption.is_done:
            return
