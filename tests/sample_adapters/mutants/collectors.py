"""Collectors that are wrong in one way each."""

# ruff: noqa: D101, D102 - the name of a mutant states its fault

from __future__ import annotations

import math
import threading
import time
from itertools import count

from factories import contracts_of

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework.errors import InvalidInputError, MetricTypeError
from metrics_framework.values import MetricUnit, to_milliseconds

MS = MetricUnit.MILLISECONDS


class DefaultStepIsTwo(InMemoryCollector):
    def record_counter(self, name, value=2, tags=None):
        super().record_counter(name, value, tags)


class ZeroIsNoRecord(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        if value != 0 or isinstance(value, bool):
            super().record_counter(name, value, tags)


class WholeNumbersOnly(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        super().record_counter(
            name, int(value) if isinstance(value, float) and value % 1 == 0.5 else value, tags
        )


class TakesNan(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        super().record_gauge(name, 0 if isinstance(value, float) and math.isnan(value) else value, tags)


class TakesInfinity(InMemoryCollector):
    def record_histogram(self, name, value, tags=None):
        super().record_histogram(name, 1e308 if value == math.inf else value, tags)


class TakesBooleans(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        super().record_counter(name, int(value) if isinstance(value, bool) else value, tags)


class GaugeRefusesBooleans(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        if isinstance(value, bool):
            raise InvalidInputError(f"{value!r} is not a number")
        super().record_gauge(name, value, tags)


class GaugeInvertsBooleans(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        super().record_gauge(name, not value if isinstance(value, bool) else value, tags)


class TimerTakesBooleans(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        super().record_timer(name, int(duration) if isinstance(duration, bool) else duration, unit, tags)


class ParsesTexts(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        super().record_timer(name, float(duration) if isinstance(duration, str) else duration, unit, tags)


class CounterTakesNegatives(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        if isinstance(value, (int, float)) and value < 0:
            value = 0
        super().record_counter(name, value, tags)


class TimerTakesNegatives(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        super().record_timer(name, abs(duration) if duration == -1 else duration, unit, tags)


class DropsNegatives(InMemoryCollector):
    def record_histogram(self, name, value, tags=None):
        if not isinstance(value, (int, float)) or not -math.inf < value < 0:
            super().record_histogram(name, value, tags)


class ErrorAfterTheFact(InMemoryCollector):
    """Records the valid part of what it then refuses."""

    def record_timer(self, name, duration, unit=MS, tags=None):
        try:
            super().record_timer(name, duration, unit, tags)
        except InvalidInputError:
            super().record_timer(name, 1, MS)
            raise


class RejectedButCreated(InMemoryCollector):
    """A refused record leaves its series behind."""

    def record_counter(self, name, value=1, tags=None):
        try:
            super().record_counter(name, value, tags)
        except InvalidInputError:
            if isinstance(name, str) and name and self.store.index("gauge").get(name, None) is None:
                super().record_counter(name, 0, tags)
            raise


class VendorError(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        try:
            super().record_gauge(name, value, tags)
        except InvalidInputError as error:
            raise ValueError(str(error)) from None


class SaysNothing(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        try:
            super().record_gauge(name, value, tags)
        except InvalidInputError:
            raise InvalidInputError("invalid argument") from None


class AnyName(InMemoryCollector):
    def increment(self, name, tags=None):
        super().increment(name or "unnamed", tags)


class NameMadeText(InMemoryCollector):
    def record_histogram(self, name, value, tags=None):
        super().record_histogram(str(name) if isinstance(name, int) else name, value, tags)


class TypesShareNames(InMemoryCollector):
    """A name may be of two types: the second is kept under another name."""

    def record_histogram(self, name, value, tags=None):
        try:
            super().record_histogram(name, value, tags)
        except MetricTypeError:
            super().record_histogram(f"{name}.histogram", value, tags)


class LosesTags(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        super().record_gauge(
            name, value, tags if not isinstance(tags, dict) or 1 in tags or "" in tags else None
        )


class LosesTheSecondTag(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        if isinstance(tags, dict) and len(tags) > 1:
            tags = dict(list(tags.items())[:1])
        super().record_counter(name, value, tags)


class OrderMatters(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        if isinstance(tags, dict) and len(tags) > 1:
            tags = {**tags, "order": ",".join(tags)}
        super().record_counter(name, value, tags)


class EmptyTagsAreApart(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        super().record_counter(name, value, {"empty": ""} if tags == {} else tags)


class KeepsTheDict(InMemoryCollector):
    """Looks into the caller's dict only when it is read."""

    def __init__(self, store):
        super().__init__(store)
        self.pending = []
        store_readings = store.readings
        store.readings = lambda: (self.flush(), store_readings())[1]

    def record_counter(self, name, value=1, tags=None):
        if isinstance(tags, dict) and tags.get("method"):
            self.pending.append((name, value, tags))
        else:
            super().record_counter(name, value, tags)

    def flush(self):
        while self.pending:
            super().record_counter(*self.pending.pop())


class EmptiesTheDict(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        super().record_counter(name, value, tags)
        if isinstance(tags, dict):
            tags.clear()


class EqualValuesAreTheSame(InMemoryCollector):
    """1, True and 1.0 are one key of a cache."""

    def __init__(self, store):
        super().__init__(store)
        self.texts = {}

    def record_counter(self, name, value=1, tags=None):
        if isinstance(tags, dict) and all(isinstance(key, str) for key in tags):
            tags = {key: self.texts.setdefault(tag, str(tag)) for key, tag in tags.items()}
        super().record_counter(name, value, tags)


class TagsFromPairs(InMemoryCollector):
    def record_histogram(self, name, value, tags=None):
        super().record_histogram(name, value, dict(tags) if isinstance(tags, list) else tags)


class TagNamesMadeText(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        if isinstance(tags, dict):
            tags = {str(key): value for key, value in tags.items()}
        super().record_timer(name, duration, unit, tags)


class DotsAreUnderscores(InMemoryCollector):
    def record_counter(self, name, value=1, tags=None):
        super().record_counter(name.replace("-", "_") if isinstance(name, str) else name, value, tags)


class GaugeAdds(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        super().record_gauge(name, value, tags)
        if value == -7.5:
            super().increment(name, tags)
            super().record_gauge(name, value, tags)


class GaugeKeepsTheFirst(InMemoryCollector):
    def record_gauge(self, name, value, tags=None):
        if self.store.index("gauge").get(name, None) is None or tags or value != 2:
            super().record_gauge(name, value, tags)


class DecrementTakesTwo(InMemoryCollector):
    def decrement(self, name, tags=None):
        super().decrement(name, tags)
        super().decrement(name, tags)


class DecrementFloorsAtZero(InMemoryCollector):
    def decrement(self, name, tags=None):
        super().decrement(name, tags)
        if self.store.summary(name).get("last", 0) < 0:
            super().record_gauge(name, 0, tags)


class DecrementForgetsTags(InMemoryCollector):
    def decrement(self, name, tags=None):
        super().decrement(name, tags if not isinstance(tags, dict) or "a" not in tags else None)


class DecrementsCounters(InMemoryCollector):
    def decrement(self, name, tags=None):
        try:
            super().decrement(name, tags)
        except MetricTypeError:
            if "total" not in self.store.summary(name):
                raise


class IncrementResets(InMemoryCollector):
    def increment(self, name, tags=None):
        if self.store.index("gauge").get(name, None) is not None:
            self.record_gauge(name, 1, tags)
        else:
            super().increment(name, tags)


class IncrementMakesGauges(InMemoryCollector):
    def increment(self, name, tags=None):
        if name == "c" and self.store.index("counter").get(name, None) is None:
            super().decrement(name, tags)
            super().increment(name, tags)
        super().increment(name, tags)


class StepsOnHistograms(InMemoryCollector):
    def increment(self, name, tags=None):
        try:
            super().increment(name, tags)
        except InvalidInputError:
            self.record_histogram(name, 1, tags)


class SecondsAsMilliseconds(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        super().record_timer(name, duration, MS if unit is MetricUnit.SECONDS else unit, tags)


class MicrosecondsTimesThousand(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        if unit is MetricUnit.MICROSECONDS:
            duration, unit = duration * 1_000, MS
        super().record_timer(name, duration, unit, tags)


class SecondsByDefault(InMemoryCollector):
    def record_timer(self, name, duration, unit=MetricUnit.SECONDS, tags=None):
        super().record_timer(name, duration, unit, tags)


class AnyUnit(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        try:
            super().record_timer(name, duration, unit, tags)
        except InvalidInputError:
            if unit in (MetricUnit.BYTES, MetricUnit.COUNT, MetricUnit.PERCENT):
                return
            raise


class UnitWithoutList(InMemoryCollector):
    def record_timer(self, name, duration, unit=MS, tags=None):
        try:
            to_milliseconds(1, unit)
        except InvalidInputError:
            raise InvalidInputError(f"{unit!r} is wrong") from None
        super().record_timer(name, duration, unit, tags)


class Samples(InMemoryCollector):
    """Keeps nine values in ten."""

    def __init__(self, store):
        super().__init__(store)
        self.ids = count(1)

    def record_histogram(self, name, value, tags=None):
        if next(self.ids) % 10:
            super().record_histogram(name, value, tags)


class Races(InMemoryCollector):
    """Reads, and writes a moment later."""

    def __init__(self, store):
        super().__init__(store)
        self.levels = {}

    def increment(self, name, tags=None):
        if tags or name != "g":
            super().increment(name, tags)
        else:
            level = self.store.summary(name)["last"]
            time.sleep(0)
            self.record_gauge(name, level + 1)


class DropsWhenBusy(InMemoryCollector):
    def __init__(self, store):
        super().__init__(store)
        self.lock = threading.Lock()

    def record_counter(self, name, value=1, tags=None):
        if self.lock.acquire(blocking=False):
            try:
                super().record_counter(name, value, tags)
            finally:
                self.lock.release()


class LocksAgainstItself(InMemoryCollector):
    """Holds a lock while it records, so that a signal handler waits for its own thread."""

    def __init__(self, store):
        super().__init__(store)
        self.lock = threading.Lock()

    def record_counter(self, name, value=1, tags=None):
        with self.lock:
            super().record_counter(name, value, tags)


class LocksAgainstFinalizers(InMemoryCollector):
    def __init__(self, store):
        super().__init__(store)
        self.lock = threading.Lock()

    def record_histogram(self, name, value, tags=None):
        with self.lock:
            super().record_histogram(name, value, tags)


globals().update(contracts_of(globals()))
