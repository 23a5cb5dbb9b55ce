"""Calls an engine in random order with input that is chosen to break it, and checks its invariants."""

from __future__ import annotations

import gc
import math
import os
import random
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

KINDS = {"counter": "c", "gauge": "g", "histogram": "h", "timer": "t", "outcome": "o"}

ODD_NUMBERS: list[Any] = [
    0, -1, 1, 3, 2**31, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 2**64, 10**400,
    -0.0, 0.5, 1e308, -1e308, 5e-324, 1e-300, math.nan, math.inf, -math.inf, True, None, "x",
]  # fmt: skip


class RejectedNumber(Exception):
    """Raised by the owner of a series that rejects a number."""


class Hostile:
    """A small set of cores, series and instruments.

    Args:
        core: The module of the engine.
        seed: Makes a run repeatable.
        fails: Whether allocations fail now and then; needs the debug build.
        folder: If given, the cores share pages in it, and readers compare them with the series.
    """

    def __init__(self, core: Any, seed: int, *, fails: bool = False, folder: Path | None = None) -> None:
        self.core = core
        self.pages = None if folder is None else (folder / f"{seed}-{number}" for number in count())
        self.chance = random.Random(seed)
        self.fails = fails
        self.depth = 0
        self.worlds = [World(self) for _ in range(3)]
        self.words = make_words(self)

    def run(self, steps: int) -> None:
        """Take some steps; an unexpected error ends the test."""
        threshold = gc.get_threshold()
        gc.freeze()  # otherwise each full collection visits all objects of the test process
        gc.set_threshold(50)
        gc.callbacks.append(self._on_collection)
        try:
            for _ in range(steps):
                if self.fails:
                    failing = self.chance.random() < 0.3
                    self.core.debug_fail_after(self.chance.randrange(30) if failing else -1)
                self.step()
        finally:
            if self.fails:
                self.core.debug_fail_after(-1)
            gc.callbacks.remove(self._on_collection)
            gc.set_threshold(*threshold)
            gc.unfreeze()
            gc.collect()
            gc.freeze()  # as it was before: see `tests/conftest.py`
        for world in self.worlds:
            world.check()

    def step(self) -> None:
        """Take one step; only expected errors may be raised."""
        with suppress(RejectedNumber, TypeError, MemoryError, KeyError, OverflowError):
            self.chance.choice(self.worlds).step()

    def interrupt(self) -> None:
        """Do something in the middle of another call, as a signal handler or a finalizer would."""
        if self.depth < 2:
            self.depth += 1
            try:
                self.step()
            finally:
                self.depth -= 1

    def _on_collection(self, phase: str, info: object) -> None:
        if self.chance.random() < 0.05:
            self.interrupt()


def make_words(hostile: Hostile) -> type[str]:
    """Return a class of strings that run code when they are hashed or compared."""

    class Word(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            hostile.interrupt()
            return str.__eq__(self, other)

        def __hash__(self) -> int:
            hostile.interrupt()
            return str.__hash__(self)

    return Word


class World:
    """One core with its names: the owner of all series, the finder and the publisher."""

    name = "metric"

    def __init__(self, hostile: Hostile) -> None:
        self.hostile, self.core, self.chance = hostile, hostile.core, hostile.chance
        self.moment = 10**9
        core = self.core
        self.home = core.Core(self.chance.choice([None, self.clock]))
        self.home.allows_recent = self.chance.random() < 0.7
        self.home.publish_recent = self.chance.choice([None, self.publish_recent])
        self.page: Page | None = None
        self.removed = 0
        self.indexes = {kind: core.SeriesIndex() for kind in KINDS}
        self.tag_sets: dict[Any, Any] = {}
        self.slots: dict[Any, Any] = {}
        self.bound: list[Any] = []
        self.ids: list[str] = []
        self.logs: list[Any] = []
        self.aggregates: list[Any] = []
        self.recorder = core.Recorder(self.home, self)
        self.timers = core.RunningTimers(self.home, self.indexes["timer"], self, self, 20)
        self.operations = core.OperationRecorder(
            self.home, self.indexes["timer"], self.indexes["outcome"], self
        )
        self.share()

    def share(self) -> None:
        """Share an empty core in a new page."""
        if self.hostile.pages is not None:
            path = next(self.hostile.pages)
            with suppress(
                RuntimeError, MemoryError, OSError
            ):  # it was recorded into meanwhile, or memory is short
                self.home.share(path)
                self.page = Page(self.core, path)

    # -- what the engine calls -------------------------------------------------------------------------

    def clock(self) -> int:
        """Advance, sometimes go back, and sometimes record."""
        if self.chance.random() < 0.2:
            self.moment += self.chance.choice([0, 1_000, 10**6, 10**9, 20 * 10**9])
        if self.chance.random() < 0.005:
            self.hostile.interrupt()
        return self.moment - (3 * 10**9 if self.chance.random() < 0.01 else 0)

    monotonic_ns = time_ns = clock

    def number(self, value: Any, signed: bool) -> Any:
        """Accept finite numbers."""
        if self.chance.random() < 0.05:
            self.hostile.interrupt()
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RejectedNumber
        try:
            finite = math.isfinite(value)
        except OverflowError:
            raise RejectedNumber from None
        if not finite or (value < 0 and not signed):
            raise RejectedNumber
        return value

    def milliseconds(self, value: Any, unit: object) -> Any:
        """Accept durations."""
        return float(self.number(value, signed=False))

    def error_type(self, error_type: Any) -> str | None:
        """Admit all error types but one."""
        if self.chance.random() < 0.05:
            self.hostile.interrupt()
        return None if error_type == "refused" else str.__str__(error_type)

    def readmit(self, series: Any) -> Any:
        """Readmit a series, unless it is rejected."""
        if self.chance.random() < 0.1:
            self.hostile.interrupt()
        return None if self.chance.random() < 0.05 else series.tag_set.add(series)

    def index(self, kind: str) -> Any:
        """Return the index of a kind."""
        return self.indexes[kind]

    def find(self, kind: str, name: Any, tags: Any) -> Any:
        """Find or make a series."""
        if not isinstance(name, str) or (tags is not None and not isinstance(tags, dict)):
            raise RejectedNumber
        if self.chance.random() < 0.02:
            self.hostile.interrupt()
        plain = {str.__str__(key): str(value) for key, value in (tags or {}).items()}
        plain = dict(sorted(plain.items()))
        key, names = (kind, name), tuple(plain)
        slot_kind = {"histogram": "distribution", "timer": "distribution"}.get(kind, kind)
        slot = self.slots.get(key) or self.slots.setdefault(
            key, self.core.Slot(self.home, slot_kind, self.publish)
        )
        tag_set = self.tag_sets.get((key, names)) or self.tag_sets.setdefault(
            (key, names), self.core.TagSet(self, names, repr((key, names)).encode())
        )
        made = getattr(self.core, f"{kind.title()}Series")(tag_set, tuple(plain.values()), slot)
        series = tag_set.add(made)
        self.indexes[kind].learn(name, plain, series)
        return series

    def find_step(self, name: Any, step: int, tags: Any) -> Any:
        """Find or create the series that a step changes."""
        return self.find("gauge" if step < 0 else "counter", name, tags)

    def find_timing(self, operation: Any, tags: Any = None) -> Any:
        """Find or create the durations of an operation."""
        return self.find("timer", operation, tags)

    def find_outcomes(self, operation: Any, tags: Any = None) -> Any:
        """Find or create the outcomes of an operation."""
        return self.find("outcome", operation, tags)

    def count_abandoned(self) -> None:
        """Count an abandoned timer."""

    def publish(self, slot: Any) -> None:
        """Commit closed slots; sometimes record, sometimes raise."""
        if self.chance.random() < 0.1:
            self.hostile.interrupt()
        if self.chance.random() < 0.1:
            raise KeyError
        windows, closed, _ = slot.peek()
        for _, aggregate in closed:
            windows = aggregate if windows is None else windows.merge(aggregate)
        slot.commit(slot.windows, windows, len(closed))

    def publish_recent(self, series: Any) -> None:
        """Commit the closed slots of a series' recent slot."""
        if series.recent is not None:
            self.publish(series.recent)

    # -- input -----------------------------------------------------------------------------------------

    def value(self) -> Any:
        """Return a number, or another value."""
        if self.chance.random() < 0.2:
            return self.chance.choice(ODD_NUMBERS)
        if self.chance.random() < 0.5:
            return self.chance.lognormvariate(0, self.chance.choice([0.1, 1, 40]))
        return self.chance.randrange(-1_000, 1_000)

    def tags(self) -> Any:
        """Return tags, or another value."""
        chance, words = self.chance, self.hostile.words
        names = "abcdef" if chance.random() < 0.98 else [str(number) for number in range(40)]
        tags = {name: str(chance.randrange(20)) for name in chance.sample(names, chance.randrange(4))}
        if len(names) == 40:
            tags = dict.fromkeys(names, "many")
        return chance.choices(
            [
                tags,
                {words(name): value for name, value in tags.items()},
                {name: words(value) for name, value in tags.items()},
                dict.fromkeys(tags, 1),
                None,
                7,
            ],
            [80, 5, 5, 4, 5, 1],
        )[0]

    # -- steps -----------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do one thing."""
        chance = self.chance
        name = chance.choice("xyz")
        steps = [
            lambda: self.recorder.record_counter(f"c{name}", self.value(), self.tags()),
            lambda: self.recorder.record_gauge(f"g{name}", self.value(), tags=self.tags()),
            lambda: self.recorder.record_histogram(f"h{name}", self.value(), self.tags()),
            lambda: self.recorder.record_timer(f"t{name}", self.value(), tags=self.tags()),
            lambda: self.recorder.increment(f"c{name}", self.tags()),
            lambda: self.recorder.decrement(f"g{name}", self.tags()),
            lambda: self.operations.record(f"t{name}", self.tags(), chance.randrange(10**9), "Error"),
            self.bind,
            self.use_bound,
            self.use_bound,
            self.use_bound,
            self.time,
            self.read,
            self.merge,
            self.rarely,
        ]
        chance.choice(steps)()

    def bind(self) -> None:
        """Bind a series."""
        kind = self.chance.choice(list(KINDS))
        self.bound.append(self.find(kind, f"{KINDS[kind]}x", {"q": str(self.chance.randrange(9))}))
        if len(self.bound) > 40:
            del self.bound[self.chance.randrange(40)]

    def use_bound(self) -> None:
        """Record into a bound series, which may have been removed."""
        if not self.bound:
            return
        core, series = self.core, self.chance.choice(self.bound)
        if isinstance(series, core.CounterSeries):
            series.add(self.value())
        elif isinstance(series, core.GaugeSeries):
            self.chance.choice([series.set, series.increment, series.decrement])(self.value())
        elif isinstance(series, core.HistogramSeries):
            series.observe(self.value())
        elif isinstance(series, core.TimerSeries):
            with series.time():
                self.hostile.interrupt()
        else:
            number = self.chance.randrange(60)
            series.finish(self.chance.choice([None, "A", self.hostile.words("B"), "refused", f"D{number}"]))

    def time(self) -> None:
        """Start or stop a timer by id."""
        if self.chance.random() < 0.5:
            metadata = self.chance.choice([None, {}, {"a": 1}])
            self.ids.append(self.timers.start_timer(f"t{self.chance.choice('xyz')}", metadata))
        elif self.ids:
            timer_id = self.ids.pop()
            try:
                assert self.timers.stop_timer(timer_id, self.chance.random() < 0.5).duration >= -4_000
            except LookupError:
                pass  # it was given up
            except Exception as error:
                if type(error).__name__ != "UnknownTimerError":
                    raise

    def read(self) -> None:
        """Read the series of one tag set in every way."""
        if not self.tag_sets:
            return
        tag_set = self.chance.choice(list(self.tag_sets.values()))
        many = tag_set.series()
        self.core.read_versions(many)
        for series in many[:4]:
            _ = (
                series.tags,
                series.values,
                series.created_ns,
                series.last_ns,
                series.recent_from_ns,
                repr(series),
            )
            state = series.state()
            if state is not None:
                self.aggregates.append(state)
                check_aggregate(state)
            if (
                hasattr(series, "counted")
                and (counted := series.counted()) is not None
                and counted[1] is not None
            ):
                assert sum(counted[1]) <= counted[0].count
            series.slot.peek()
        if many and isinstance(many[0], self.core.CounterSeries | self.core.GaugeSeries):
            assert len(self.core.read_values(many)) == len(many)
        del self.aggregates[:-100]

    def merge(self) -> None:
        """Merge two aggregates."""
        if len(self.aggregates) > 2:
            one, other = self.chance.sample(self.aggregates, 2)
            if type(one) is type(other):
                merged = one.merge(other)
                assert merged.records == one.records + other.records
                check_aggregate(merged)

    def rarely(self) -> None:
        """Do one of the rare things."""
        chance = self.chance
        tag_sets, slots = list(self.tag_sets.values()), list(self.slots.values())
        counters = [series for series in self.bound if isinstance(series, self.core.CounterSeries)]

        def remove() -> None:
            if tag_sets and (many := chance.choice(tag_sets).series()):
                self.removed += 1
                many[0].tag_set.remove(many[0])

        def change_slot() -> None:
            slot = chance.choice(slots) if slots else None
            if slot is not None and slot.kind == "distribution":
                slot.count_by(
                    chance.choice([(), (1.0, 2.0), tuple(map(float, range(40)))]), seed=chance.random() < 0.5
                )
            elif slot is not None and slot.kind == "gauge":
                slot.law = chance.choice(["latest", "sum", "min", "max"])

        def log() -> None:
            if chance.random() < 0.3 and len(self.logs) < 4:
                self.logs.append(self.home.subscribe(chance.choice([1, 10, 1_000])))
            for each in self.logs:
                lost, records = each.drain()
                assert lost >= 0
                assert len(records) <= 1_000
            if self.logs and chance.random() < 0.3:
                self.home.unsubscribe(self.logs.pop())

        def alias() -> None:
            index = self.indexes["counter"]
            if counters:
                index.learn("alias", {"z": str(chance.randrange(99))}, chance.choice(counters))
            index.get("alias", {"z": self.hostile.words("1")})
            if chance.random() < 0.1:
                index.forget(chance.choice(["alias", "cx", "null"]))
            index.learn("null", {"z": "1"}, self.core.CounterSeries.null(self.home, self))
            self.recorder.record_counter("null", self.value(), {"k": "9"})

        def replace() -> None:
            if chance.random() < 0.02:
                worlds = self.hostile.worlds
                worlds[chance.randrange(len(worlds))] = World(self.hostile)

        def reset() -> None:
            if chance.random() < 0.05:
                self.page = None
                self.home.reset()
                self.share()

        def change_key() -> None:
            if tag_sets and chance.random() < 0.3:
                tag_set = chance.choice(tag_sets)
                tag_set.key = tag_set.key.partition(b"+")[0] + b"+" * chance.randrange(300)

        def unshare() -> None:
            if chance.random() < 0.02:
                self.page = None
                self.home.unshare()

        def drop_recent() -> None:
            if self.bound:
                chance.choice(self.bound).drop_recent()

        def hear_of_others() -> None:
            if self.bound:
                series = chance.choice(self.bound)
                reading = chance.choice(self.bound).own_reading()
                series.set_others(chance.choice([None, reading]))

        def compare() -> None:
            if self.page is not None:
                self.page.compare(self)

        steps: list[Callable[[], object]] = [
            *(remove, change_slot, log, alias, replace, reset, drop_recent, gc.collect),
            *(change_key, unshare, hear_of_others, compare),
        ]
        chance.choice(steps)()

    def check(self) -> None:
        """Check all series again."""
        for tag_set in self.tag_sets.values():
            assert len(tag_set) == len(tag_set.series())
            for series in tag_set.series():
                assert tag_set.get(series.values) is series
                state = series.state()
                if state is not None:
                    check_aggregate(state)


class Page:
    """The page of a core, and what a reader knows of it."""

    def __init__(self, core: Any, path: Path) -> None:
        file = os.open(path, os.O_RDONLY)
        self.reader = core.PageReader(file)
        os.close(file)
        self.entries: dict[int, tuple[bytes, tuple[str, ...], int]] = {}
        self.is_reading = False

    def compare(self, world: World) -> None:
        """Compare all entries with the series that have records."""
        if not self.is_reading:  # the garbage collector may run this within itself
            self.is_reading = True
            self._compare(world)
            self.is_reading = False

    def _compare(self, world: World) -> None:
        before = world.home.records, world.removed
        self.reader.changed()
        for index, entry in self.reader.poll():
            if entry is None:
                del self.entries[index]
            else:
                assert index not in self.entries
                self.entries[index] = entry
        found = {entry[:2]: self.reader.read(index) for index, entry in self.entries.items()}
        slots = [self.reader.read_slots(index) for index in self.entries]
        recents = [self.reader.read_recent(index) for index in self.entries]
        series = [one for tag_set in world.tag_sets.values() for one in tag_set.series()]
        expected = {(one.tag_set.key, one.values): one.own_reading() for one in series}
        if (
            before != (world.home.records, world.removed)
            or world.page is not self
            or world.home.unshared_series
            or world.home.is_private
        ):
            return  # something was recorded meanwhile
        assert len(slots) == len(recents) == len(found)
        for key, reading in found.items():
            if reading is not None:
                own = expected[key]
                # As text, because the integral of extreme values is not a number.
                assert repr((reading[0].__reduce__(), reading[3:])) == repr((own[0].__reduce__(), own[3:]))
                # Counts by bounds that were set since the last record are made at the next one.
                assert reading[1] in (None, own[1])
        missing = [key for key, reading in expected.items() if reading and not found.get(key)]
        assert missing == []


def check_aggregate(aggregate: Any) -> None:
    """Check the invariants of an aggregate."""
    repr(aggregate)
    if hasattr(aggregate, "quantiles"):
        low, *middle, high = aggregate.quantiles(0.01, 0.5, 0.95, 0.99)
        assert aggregate.min <= low <= middle[0] <= middle[1] <= high <= aggregate.max
        buckets = aggregate.buckets
        assert (
            buckets.zeros + sum(buckets.positive.counts()) + sum(buckets.negative.counts()) == aggregate.count
        )
        assert aggregate.min <= aggregate.mean <= aggregate.max
        assert aggregate.stddev >= 0
        assert 0 <= aggregate.failures <= aggregate.count
    elif hasattr(aggregate, "integral"):
        assert aggregate.min <= aggregate.last <= aggregate.max
    elif hasattr(aggregate, "endings"):
        assert sum(aggregate.endings.values()) == aggregate.records
    else:
        assert aggregate.value >= 0
