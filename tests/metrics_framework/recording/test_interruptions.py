"""Interruptions of records and reads by exceptions, signal handlers and the garbage collector.

The tests at each bytecode see the Python code of the package: with the compiled engine the code around it,
and with the engine in pure Python every few bytecodes of that as well.
"""

# ruff: noqa: D102 - the base class says what its methods do

from __future__ import annotations

import contextlib
import faulthandler
import gc
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTracker
from metrics_framework import recording
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store
from metrics_framework.recording.engine import ENGINE
from metrics_framework.recording.state import SLOTS_AT_ONCE

PACKAGE = str(Path(recording.__file__).parent)
HOUR = timedelta(hours=1)
BOUND = 4.0
SOON_S = 10
"""How long a thread may take that has nothing to wait for."""

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no interval timers here")


class RecordInterrupted(BaseException):
    """Raised in the middle of a record."""


class AtEvent:
    """Calls ``act`` at one bytecode of the recording package, the ``number``-th that the block executes.

    Nothing is traced while it acts. If the block has fewer bytecodes, ``where`` stays empty.
    """

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self._left = number
        self._act = act
        self.where = ""

    def __enter__(self) -> AtEvent:
        self._before = sys.gettrace()
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._on_event

    def _on_event(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "opcode":
            self._left -= 1
            if self._left == 0:
                code = frame.f_code
                self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name}@{frame.f_lasti}"
                self._act()
        return self._on_event


def in_a_thread(work: Callable[[], Any], where: str = "") -> Any:
    """Return the result of ``work`` in another thread, which must end soon."""
    result: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            result.append(work())
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(SOON_S)
    assert not thread.is_alive(), f"it waits for a lock that is never released: {where}"
    if errors:
        raise errors[0]
    return result[0]


class StoreTrial:
    """Two series of one name; record number ``i`` is worth ``2**i``, so that a sum identifies its records."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store = Store(self.clock)
        self.collector = InMemoryCollector(self.store)
        self.next = 0
        self.lost: set[int] = set()
        self.underway: int | None = None
        self.prepare()
        self.tags = ({"one": "a"}, {"one": "b"})
        for tags in (*self.tags, *self.tags):
            self.record(tags)
        self.found()
        for tags in (*self.tags, self.tags[0]):
            self.record(tags)

    def prepare(self) -> None:
        """Describe the name."""

    def record(self, tags: dict[str, str]) -> None:
        """Make the next record."""
        number = self.next
        self.next += 1
        self.put(number, tags)

    def record_under(self, event: AtEvent, tags: dict[str, str]) -> None:
        """Make the next record, which others may interrupt."""
        self.underway = self.next
        self.next += 1
        with event:
            self.put(self.underway, tags)
        self.underway = None

    def put(self, number: int, tags: dict[str, str]) -> None:
        """Make a record."""
        raise NotImplementedError

    def found(self) -> set[int]:
        """Return the counted records, after a check that all reads agree."""
        raise NotImplementedError

    def look(self) -> None:
        """Read once: all series, and one."""
        self.store.summary("name", HOUR)
        if not isinstance(self, StepTrial | SetTrial):
            self.store.summary("name", HOUR, self.tags[0])

    def pass_edge(self) -> None:
        """Close slots until the next record publishes those of the name and of its series."""
        for _ in range(SLOTS_AT_ONCE - 1):
            self.clock.advance(1)
            self.record(self.tags[0])
        self.clock.advance(17)


def members(mask: int) -> set[int]:
    """Return which powers of two make up a sum."""
    return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}


class CounterTrial(StoreTrial):
    """A counter."""

    def put(self, number: int, tags: dict[str, str]) -> None:
        self.collector.record_counter("name", 2**number, tags)

    def found(self) -> set[int]:
        parts = [reading.summary for reading in self.store.readings()]
        whole, window = self.store.summary("name"), self.store.summary("name", HOUR)
        count, total = sum(part["count"] for part in parts), sum(part["sum"] for part in parts)
        assert (whole["count"], whole["sum"], whole["total"]) == (count, total, total)
        assert (window["count"], window["sum"]) == (count, total)
        assert len(members(int(total))) == count
        return members(int(total))


class HistogramTrial(StoreTrial):
    """A histogram with one bucket bound."""

    def prepare(self) -> None:
        self.collector.describe("name", buckets=(BOUND,))

    def put(self, number: int, tags: dict[str, str]) -> None:
        self.collector.record_histogram("name", float(2**number), tags)

    def found(self) -> set[int]:
        readings = self.store.readings()
        whole, window = self.store.summary("name"), self.store.summary("name", HOUR)
        total = sum(reading.summary["sum"] for reading in readings)
        found = members(int(total))
        assert whole["count"] == window["count"] == sum(reading.summary["count"] for reading in readings)
        assert whole["sum"] == window["sum"] == total
        assert whole["count"] == len(found)
        below = sum(reading.buckets.counts[0] for reading in readings)
        above = sum(reading.buckets.counts[1] for reading in readings)
        assert (below, above) == (
            sum(2**number <= BOUND for number in found),
            sum(2**number > BOUND for number in found),
        )
        assert sum(reading.buckets.total for reading in readings) == total
        assert (whole["min"], whole["max"]) == (2.0 ** min(found), 2.0 ** max(found))
        return found


class StepTrial(StoreTrial):
    """A gauge that is only incremented; its combined value is the sum of its series."""

    def prepare(self) -> None:
        self.collector.describe("name", merge="sum")

    def put(self, number: int, tags: dict[str, str]) -> None:
        self.collector.gauge("name", tags).increment(2**number)

    def found(self) -> set[int]:
        parts = [reading.summary for reading in self.store.readings()]
        whole, window = self.store.summary("name"), self.store.summary("name", HOUR)
        total = sum(part["last"] for part in parts)
        assert whole["last"] == window["last"] == whole["max"] == total
        assert whole["count"] == window["count"] == sum(part["count"] for part in parts)
        assert len(members(int(total))) == whole["count"]
        return members(int(total))


class SetTrial(StoreTrial):
    """A gauge that is set; its number of records, last value and extremes identify the records."""

    def put(self, number: int, tags: dict[str, str]) -> None:
        self.collector.record_gauge("name", number, tags)

    def found(self) -> set[int]:
        parts = [reading.summary for reading in self.store.readings()]
        whole, window = self.store.summary("name"), self.store.summary("name", HOUR)
        assert whole["count"] == window["count"] == sum(part["count"] for part in parts)
        assert whole["last"] == window["last"]
        assert whole["last"] in {part["last"] for part in parts}
        assert whole["max"] == window["max"] == max(part["max"] for part in parts)
        assert whole["min"] == 0
        # It does not show which records it is of: all but those that were lost, the newest.
        here = set(range(self.next)) - self.lost
        if whole["count"] < len(here) and self.underway is not None:
            here.remove(self.underway)
        elif whole["count"] < len(here):
            self.lost.add(max(here))
            here.remove(max(here))
        assert (whole["count"], whole["max"]) == (len(here), max(here))
        return here


class OutcomeTrial(StoreTrial):
    """An operation that fails each time with another error type."""

    def put(self, number: int, tags: dict[str, str]) -> None:
        self.store.fail("name", f"e{number}", tags=tags)

    def found(self) -> set[int]:
        parts = [reading.failures for reading in self.store.outcome_readings()]
        whole, window = self.store.outcomes("name"), self.store.outcomes("name", HOUR)
        merged: dict[str, int] = {}
        for part in parts:
            assert not merged.keys() & part.keys()
            merged.update(part)
        assert whole.failures == window.failures == merged
        assert set(merged.values()) <= {1}
        return {int(error[1:]) for error in merged}

    def look(self) -> None:
        self.store.outcomes("name", HOUR)
        self.store.outcomes("name", HOUR, self.tags[0])


TRIALS = [CounterTrial, HistogramTrial, StepTrial, SetTrial, OutcomeTrial]
all_kinds = pytest.mark.parametrize("kind", TRIALS)
MANY = 100_000
"""More bytecodes than any block here has."""

STEP = 1 if ENGINE == "compiled" else 23


def events(kind: type[StoreTrial], act: Callable[[StoreTrial], None]) -> Iterator[tuple[StoreTrial, AtEvent]]:
    """Yield a trial and a block to run for each bytecode of it, or every few, until none is left."""
    for number in range(1, MANY, STEP):
        trial = kind()
        event = AtEvent(number, lambda trial=trial: act(trial))
        yield trial, event
        if not event.where:
            assert number > 20
            return
    raise AssertionError("the block never ends")


def raise_it(_: StoreTrial) -> None:
    """Raise, as a signal handler may."""
    raise RecordInterrupted


def check_after(trial: StoreTrial, sure: set[int], unsure: set[int], where: str) -> None:
    """Check in another thread that all certain records are counted once, and that recording continues."""

    def look() -> None:
        found = trial.found()
        assert sure <= found <= sure | unsure, where
        trial.record(trial.tags[0])
        trial.record(trial.tags[1])
        assert trial.found() == found | {trial.next - 2, trial.next - 1}, where

    in_a_thread(look, where)


@pytest.mark.heavy
@all_kinds
def test_an_exception_at_any_bytecode_of_a_publishing_record_loses_only_that_record(kind):
    """The record publishes slots; all others are counted once."""
    for trial, event in events(kind, raise_it):
        trial.pass_edge()
        sure = set(range(trial.next))
        try:
            with event:
                trial.record(trial.tags[0])
        except RecordInterrupted:
            unsure = {trial.next - 1}
        else:
            assert not event.where
            sure, unsure = sure | {trial.next - 1}, set()
        check_after(trial, sure, unsure, event.where)


@pytest.mark.heavy
@all_kinds
def test_an_exception_at_any_bytecode_of_a_read_loses_nothing(kind):
    """All records are counted once, and later reads work."""
    for trial, event in events(kind, raise_it):
        with contextlib.suppress(RecordInterrupted), event:
            trial.look()
        check_after(trial, set(range(trial.next)), set(), event.where)


@pytest.mark.heavy
@all_kinds
def test_an_exception_at_any_bytecode_of_a_first_record_loses_only_that_record(kind):
    """The first record creates the series."""
    new = {"one": "c"}
    for trial, event in events(kind, raise_it):
        sure, unsure = set(range(trial.next)), set()
        try:
            with event:
                trial.record(new)
        except RecordInterrupted:
            unsure = {trial.next - 1}
        else:
            sure |= {trial.next - 1}
        trial.tags = (new, trial.tags[0])
        check_after(trial, sure, unsure, event.where)


def record_and_read(trial: StoreTrial) -> None:
    """Record into both series and read all, as a signal handler may."""
    trial.record(trial.tags[0])
    trial.record(trial.tags[1])
    # In the middle of a record a set does not show which records it is of.
    trial.look() if isinstance(trial, SetTrial) else trial.found()


def record_elsewhere(trial: StoreTrial) -> None:
    """Record in another thread; it must not block."""

    def work() -> None:
        for tags in (*trial.tags, *trial.tags):
            trial.record(tags)

    in_a_thread(work)


@pytest.mark.heavy
@pytest.mark.parametrize("act", [record_and_read, record_elsewhere])
@all_kinds
def test_records_and_reads_in_the_middle_of_a_record(kind, act):
    """At any bytecode of a record that publishes slots, other records and reads work and count once."""
    for trial, event in events(kind, act):
        trial.pass_edge()
        trial.record_under(event, trial.tags[0])
        check_after(trial, set(range(trial.next)), set(), event.where)


@pytest.mark.heavy
@pytest.mark.parametrize("act", [record_and_read, record_elsewhere])
@all_kinds
def test_records_and_reads_in_the_middle_of_a_read(kind, act):
    """At any bytecode of a read, other records and reads work and count once."""
    for trial, event in events(kind, act):
        with event:
            trial.look()
        check_after(trial, set(range(trial.next)), set(), event.where)


@pytest.mark.heavy
@all_kinds
def test_records_in_the_middle_of_a_first_record(kind):
    """Concurrent first records at any bytecode create one series."""
    new = {"one": "c"}

    def same(trial: StoreTrial) -> None:
        trial.record(new)
        trial.record(new)

    for trial, event in events(kind, same):
        trial.record_under(event, new)
        assert trial.store.series_count == 3
        check_after(trial, set(range(trial.next)), set(), event.where)


# -- signals and garbage ----------------------------------------------------------------------------------


@contextlib.contextmanager
def ticking(handler: Callable[[], None], seconds: float = 0.0005) -> Iterator[None]:
    """Call ``handler`` from a signal twice per millisecond; a deadlock ends the process with a trace."""
    timer_before = signal.getitimer(signal.ITIMER_REAL)
    handler_before = signal.signal(signal.SIGALRM, lambda *_: handler())
    faulthandler.dump_traceback_later(120, exit=True)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        while True:  # the handler may raise here, too
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, handler_before)
                break
            except RecordInterrupted:
                pass
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, *timer_before)


class Everything:
    """A store with a counter, a histogram, a gauge and an operation, and their expected counts."""

    names = ("counter", "histogram", "gauge", "operation")

    def __init__(self) -> None:
        self.store = Store()
        self.collector = InMemoryCollector(self.store)
        self.tracker = InMemoryTracker(self.store)
        self.aggregator = InMemoryAggregator(self.store)
        self.collector.describe("gauge", merge="sum")
        self.collector.describe("histogram", buckets=(0.5, 1.0))

    def record(self, series: int) -> None:
        """Record once of each kind."""
        tags = {"series": str(series)}
        self.collector.record_counter("counter", 1, tags)
        self.collector.record_histogram("histogram", 1.0, tags)
        self.collector.gauge("gauge", tags).increment(1)
        self.tracker.record_success("operation")

    def check(self, rounds: int) -> None:
        """Check the number of records in every read."""

        def look() -> None:
            for window in (None, HOUR):
                counter = self.store.summary("counter", window)
                histogram = self.store.summary("histogram", window)
                gauge = self.store.summary("gauge", window)
                assert (counter["count"], counter["sum"], counter["total"]) == (rounds, rounds, rounds)
                assert (histogram["count"], histogram["sum"]) == (rounds, rounds)
                assert (gauge["count"], gauge["last"], gauge["max"]) == (rounds, rounds, rounds)
                assert self.store.outcomes("operation", window).successes == rounds
            readings = self.store.readings()
            for name, key in (("counter", "sum"), ("histogram", "sum"), ("gauge", "last")):
                assert sum(each.summary[key] for each in readings if each.name == name) == rounds
                assert sum(each.summary["count"] for each in readings if each.name == name) == rounds
            assert sum(each.buckets.counts[1] for each in readings if each.buckets) == rounds

        in_a_thread(look)


@pytest.mark.heavy
@needs_timer
def test_signal_handlers_record_beside_threads():
    """All records of a signal handler count, also into series that its thread and two others use."""
    everything = Everything()
    in_handler = 0

    def handler() -> None:
        nonlocal in_handler
        everything.record(in_handler % 4)
        in_handler += 1

    rounds = 15_000
    threads = [
        threading.Thread(target=lambda: [everything.record(each % 3) for each in range(rounds)])
        for _ in range(2)
    ]
    with ticking(handler):
        for thread in threads:
            thread.start()
        for each in range(4 * rounds):
            everything.record(each % 3)
        for thread in threads:
            thread.join()
    assert in_handler > 100
    everything.check(6 * rounds + in_handler)


@pytest.mark.heavy
@needs_timer
def test_signal_handlers_read():
    """A full read in a signal handler never blocks, amid records and reads of the same thread."""
    everything = Everything()
    reads = 0

    def handler() -> None:
        nonlocal reads
        everything.record(9)
        assert "counter" in everything.aggregator.export_metrics()
        summary = everything.store.summary("histogram")
        assert summary["count"] == summary["sum"]
        reads += 1

    rounds = 40_000
    other = threading.Thread(target=lambda: [everything.record(each % 3) for each in range(rounds)])
    everything.record(0)
    with ticking(handler, 0.003):
        other.start()
        for each in range(rounds):
            everything.record(each % 3)
            if each % 64 == 0:
                everything.store.readings()
        other.join()
    assert reads > 50
    everything.check(2 * rounds + reads + 1)


@pytest.mark.heavy
@pytest.mark.usefixtures("no_gc_callbacks")
@needs_timer
def test_signal_handlers_raise():
    """Records that returned count, interrupted ones count at most once, and every later read works."""
    gc.collect()  # otherwise the weak reference of an earlier test's store may be interrupted
    everything = Everything()
    counter = everything.collector.counter("counter")
    histogram = everything.collector.histogram("histogram")
    gauge = everything.collector.gauge("gauge")
    everything.collector.describe("gauge", merge="latest")
    raised, armed = 0, False

    def handler() -> None:
        nonlocal raised, armed
        if armed:
            armed = False
            raised += 1
            raise RecordInterrupted

    records: list[Callable[[], None]] = [
        counter.add,
        lambda: histogram.observe(1.0),
        gauge.increment,
        lambda: everything.tracker.record_success("operation"),
    ]
    done = [0, 0, 0, 0]
    with ticking(handler):
        while raised <= 50 or done[0] < 10_000:
            for each, record in enumerate(records):
                try:
                    armed = True
                    record()
                    done[each] += 1
                    armed = False
                except RecordInterrupted:
                    pass
            try:
                armed = True
                if done[0] % 50 == 0:
                    everything.store.readings()
                armed = False
            except RecordInterrupted:
                pass
    summaries = in_a_thread(lambda: [everything.store.summary(name) for name in everything.names[:3]])
    outcomes = in_a_thread(lambda: everything.store.outcomes("operation"))
    counts = [summary["count"] for summary in summaries] + [outcomes.count]
    for count, returned in zip(counts, done, strict=True):
        assert returned <= count
    assert sum(counts) <= sum(done) + raised
    assert [summaries[0]["sum"], summaries[1]["sum"], summaries[2]["last"]] == counts[:3]

    def go_on() -> list[int]:
        for record in records:
            record()
        return [
            *(everything.store.summary(name)["count"] for name in everything.names[:3]),
            everything.store.outcomes("operation").count,
        ]

    assert in_a_thread(go_on) == [count + 1 for count in counts]


@pytest.mark.heavy
def test_the_garbage_collector_records():
    """All records of the collector's callbacks count, in the middle of any code."""
    everything = Everything()
    calls = 0

    def callback(phase: str, info: dict[str, int]) -> None:
        nonlocal calls
        everything.record(calls % 4)
        calls += 1

    rounds = 20_000
    before = gc.get_threshold()
    gc.callbacks.append(callback)
    try:
        gc.set_threshold(20, 50, 1_000)
        for each in range(rounds):
            everything.record(each % 3)
            if each % 256 == 0:
                everything.store.readings()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(callback)
    assert calls > 100
    everything.check(rounds + calls)


@pytest.mark.heavy
def test_garbage_records():
    """All records and reads of the ``__del__`` of cycles count, in the middle of any code."""
    everything = Everything()
    deleted = 0

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            nonlocal deleted
            everything.record(deleted % 4)
            if deleted % 100 == 0:
                everything.store.readings()
            deleted += 1

    rounds = 20_000
    before = gc.get_threshold()
    try:
        gc.set_threshold(20, 50, 1_000)
        for each in range(rounds):
            Cycle()
            everything.record(each % 3)
            if each % 256 == 0:
                everything.store.readings()
    finally:
        gc.set_threshold(*before)
        gc.collect()
    assert deleted == rounds
    everything.check(rounds + deleted)


@pytest.mark.parametrize("method", ["__str__", "__hash__", "__repr__"])
def test_a_time_limit_in_the_middle_of_a_tag_reaches_the_application(clock, method):
    """What a signal handler raises while a tag is converted is never taken for bad input."""

    class TimeLimit(Exception):
        pass

    limits = []

    def end_time(*_: object) -> None:
        limits.append(TimeLimit())
        raise limits[-1]

    def interrupted(self: object) -> Any:
        signal.raise_signal(signal.SIGINT)
        return object.__hash__(self) if method == "__hash__" else "text"

    value = type("Value", (), {method: interrupted})()
    tags = [value] if method == "__repr__" else {"tag": value}
    store = Store(clock, on_error="log")
    collector = InMemoryCollector(store)
    collector.record_counter("name", 1, {"tag": "other"})
    before = signal.signal(signal.SIGINT, end_time)
    try:
        collector.record_counter("name", 1, tags)
    except TimeLimit:
        limits.pop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert limits == []
    assert store.rejected == 0
