"""The numbers of `metrics-framework top`: rates and quantiles per series, from the events of a stream.

Nothing here reads a network or draws. ``now`` is a time in seconds of any clock that never decreases.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

from metrics_framework.recording import Distribution
from metrics_framework.snapshots import parse_custom_key
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.values import MetricType, MetricUnit

WINDOW_SECONDS = 60
"""What quantiles, failures and bars cover."""

RATE_SECONDS = 10
"""What a rate covers: long enough to be steady, short enough to follow."""

MAX_SERIES = 5_000
"""Series beyond this number are counted, but not shown."""

_SLOT_SECONDS = 5  # of recorded values: the window ends up to this much too early
_MAX_PENDING_VALUES = 1_000  # more are merged into a distribution, which has a bounded size
_MAX_ERROR_TYPES = 100  # of a series in a second

Section = Literal["operations", "values"]
"""``operations`` are operations, timers and histograms; ``values`` are counters and gauges."""


class LiveSeriesKey(NamedTuple):
    """Identifies a series.

    Attributes:
        section: The part of the table.
        name: The recorded name.
        is_operation: Whether it is the name of an operation.
        tags: The tags, sorted, without the constant tags of the service.
    """

    section: Section
    name: str
    is_operation: bool
    tags: tuple[tuple[str, str], ...]


class Row(NamedTuple):
    """The numbers of one series.

    Attributes:
        key: The series.
        unit: The unit of its values.
        rate: Records per second, or the increase of a counter per second; ``None`` for a gauge, and without a
            connection.
        value: The total of a counter, or the level of a gauge; ``None`` in the section ``operations``.
        p50: The median of the last minute; ``None`` without a record.
        p95: The 95th percentile.
        p99: The 99th percentile.
        failures: The share of failures among the outcomes of the last minute; ``None`` without an outcome.
        error_types: The error types of the last minute with their numbers, the most frequent first.
        bars: The rate or level in each of the last 60 seconds, oldest first; ``None`` where it is unknown.
    """

    key: LiveSeriesKey
    unit: MetricUnit
    rate: float | None
    value: float | None
    p50: float | None
    p95: float | None
    p99: float | None
    failures: float | None
    error_types: tuple[tuple[str, int], ...]
    bars: tuple[float | None, ...]


class LiveView(NamedTuple):
    """All rows and the state of the service at one time.

    Attributes:
        rows: The series, in no particular order.
        health: The document of ``/health``; empty if it is unknown.
        process: ``memory_mb`` and ``cpu_percent`` of the process, as far as they are known.
        is_process_current: Whether they are recorded gauges, not the peak and the average of a snapshot.
        data_age: The seconds since the last byte from the service.
        problem: Why the stream is not connected, or the service does not respond; otherwise empty.
        is_connected: Whether the stream is connected.
        events: Records per second that the stream delivered.
        dropped: The number of records of which only the totals are known, because the stream dropped them.
        is_full: Whether there are more series than `MAX_SERIES`.
        invalid: The number of events that could not be understood.
    """

    rows: tuple[Row, ...]
    health: Mapping[str, Any]
    process: Mapping[str, float]
    is_process_current: bool
    data_age: float
    problem: str
    is_connected: bool
    events: float
    dropped: int
    is_full: bool
    invalid: int


@dataclass
class _Second:
    """What happened to a series in one second."""

    second: int
    records: float = 0.0
    level: float | None = None
    outcomes: int = 0
    failures: Counter[str] = field(default_factory=Counter)


@dataclass
class _ValueSlot:
    """The values that were recorded in a few seconds."""

    slot: int
    distribution: Distribution = field(default_factory=Distribution)
    pending: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.pending.append(value)
        if len(self.pending) >= _MAX_PENDING_VALUES:
            self.flush()

    def flush(self) -> Distribution:
        if self.pending:
            self.distribution = self.distribution.merge(Distribution.of(self.pending))
            self.pending = []
        return self.distribution


class _LiveSeries:
    """The last minute of one series."""

    def __init__(self, key: LiveSeriesKey) -> None:
        self.key = key
        self.unit = MetricUnit.COUNT
        self.is_gauge = False
        self.is_typed = False  # a snapshot does not tell counters from gauges
        self.value: float | None = None
        self.seconds: deque[_Second] = deque()
        self.slots: deque[_ValueSlot] = deque()
        self._ended = (0, 0)  # the first and the last slot, when all but the last one were merged
        self._merged = Distribution()
        self.has_outcomes = False
        self.totals: dict[MetricType, float] = {}
        self.is_stale = False  # recorded by a process that has ended

    def forget_totals(self) -> None:
        """Forget the totals: after a gap, an increase says nothing about the time of the records."""
        self.totals.clear()

    def _increase(self, kind: MetricType, total: float | None, recorded: float) -> float:
        """Return the increase of a total, which includes records whose events were dropped."""
        before = self.totals.get(kind)
        if total is None:
            return recorded
        self.totals[kind] = total
        return recorded if before is None or total < before else total - before

    def _second(self, now: float) -> _Second:
        second = math.floor(now)
        if not self.seconds or self.seconds[-1].second != second:
            self.seconds.append(_Second(second))
            while self.seconds[0].second < second - WINDOW_SECONDS:
                level = self.seconds.popleft().level
                if level is not None and self.seconds[0].level is None:
                    self.seconds[0].level = level
        return self.seconds[-1]

    def add(
        self, kind: MetricType, value: float | None, metadata: Mapping[str, Any], unit: MetricUnit, now: float
    ) -> None:
        """Add one record."""
        second = self._second(now)
        recorded, count = metadata.get("recorded"), _number(metadata.get("count"))
        self.is_typed, self.is_stale = True, False
        if kind is MetricType.GAUGE:
            self.is_gauge, self.unit = True, unit
            self.value = second.level = value
        elif kind is MetricType.COUNTER:
            self.unit, self.value = unit, value
            second.records += self._increase(kind, value, _number(recorded) or 0.0)
        elif kind is MetricType.RATE:
            if not self.has_outcomes:  # until now, durations were counted
                self.has_outcomes = True
                second.records = 0.0
            second.records += self._increase(kind, count, 1)
            second.outcomes += 1
            if recorded is not None and (
                recorded in second.failures or len(second.failures) < _MAX_ERROR_TYPES
            ):
                second.failures[str(recorded)] += 1
        else:
            self.unit = unit
            increase = self._increase(kind, count, 1)
            if not self.has_outcomes:
                second.records += increase
            duration = _number(recorded)
            if duration is not None:
                slot = math.floor(now / _SLOT_SECONDS)
                if not self.slots or self.slots[-1].slot != slot:
                    self.slots.append(_ValueSlot(slot))
                self.slots[-1].add(duration)

    def was_recorded_after(self, time: float) -> bool:
        """Return whether there was a record after a time."""
        return bool(self.seconds) and self.seconds[-1].second >= time

    def row(self, now: float, since: float, known: Sequence[bool]) -> Row:
        """Return the numbers of the last minute.

        Args:
            now: The time.
            since: When the stream was connected; infinite if it is not.
            known: Whether it was connected, for each of the last 60 seconds.
        """
        newest = math.floor(now)
        recent = [one for one in self.seconds if one.second > newest - WINDOW_SECONDS]
        start = max(since, newest - RATE_SECONDS + 1)
        increase = sum(one.records for one in recent if one.second > newest - RATE_SECONDS)
        has_rate = (self.is_typed and not self.is_gauge) or self.key.section == "operations"
        rate = increase / max(now - start, 1.0) if has_rate and since < math.inf else None
        outcomes = sum(one.outcomes for one in recent)
        failures = Counter[str]()
        for one in recent:
            if one.failures:
                failures.update(one.failures)
        p50, p95, p99 = self._quantiles(now)
        return Row(
            self.key,
            self.unit,
            rate,
            self.value,
            p50,
            p95,
            p99,
            failures.total() / outcomes if outcomes else None,
            tuple(failures.most_common(10)),
            tuple(self._bars(newest, known)),
        )

    def _quantiles(self, now: float) -> tuple[float | None, float | None, float | None]:
        while self.slots and (self.slots[0].slot + 1) * _SLOT_SECONDS <= now - WINDOW_SECONDS:
            self.slots.popleft()
        if not self.slots:
            return None, None, None
        ended = (self.slots[0].slot, self.slots[-1].slot)
        if ended != self._ended:
            self._ended, self._merged = ended, Distribution()
            for slot in islice(self.slots, len(self.slots) - 1):
                self._merged = self._merged.merge(slot.flush())
        p50, p95, p99 = self._merged.merge(self.slots[-1].flush()).quantiles(0.5, 0.95, 0.99)
        return p50, p95, p99

    def _bars(self, newest: int, is_known: Sequence[bool]) -> Iterator[float | None]:
        known = {one.second: one for one in self.seconds}
        level = None
        for one in self.seconds:
            if one.second < newest - WINDOW_SECONDS and one.level is not None:
                level = one.level
        for second, was_connected in enumerate(is_known, newest - WINDOW_SECONDS):
            found = known.get(second)
            if found is not None and found.level is not None:
                level = found.level
            if not was_connected:
                yield None
            elif self.is_gauge:
                yield level
            elif found is not None:
                yield found.records
            else:
                yield 0.0 if self.is_typed else None


class _Connection:
    """When the stream was connected."""

    def __init__(self) -> None:
        self._times: deque[tuple[float, float]] = deque()
        self.since = math.inf
        self.is_open = False

    def open(self, now: float) -> None:
        self.since, self.is_open = now, True

    def close(self, now: float) -> None:
        if self.is_open:
            self.is_open = False
            self._times.append((self.since, now))
            self.since = math.inf
            while self._times[0][1] < now - 2 * WINDOW_SECONDS:
                self._times.popleft()

    def coverage(self, now: float) -> list[bool]:
        """Return for each of the last 60 seconds whether the stream was connected in a part of it."""
        newest = math.floor(now)
        times = [*self._times, *([(self.since, now)] if self.is_open else [])]
        return [
            any(start < second + 1 and end > second for start, end in times)
            for second in range(newest - WINDOW_SECONDS, newest)
        ]


class LiveMetrics:
    """The live numbers of a service. It is not thread-safe: its owner has a lock."""

    def __init__(self) -> None:
        self._series: dict[LiveSeriesKey, _LiveSeries] = {}
        self._keys: dict[tuple[Any, ...], LiveSeriesKey] = {}  # of the events of a series
        self._constant_tags: set[tuple[str, str]] = set()
        self._connection = _Connection()
        self._events: deque[list[int]] = deque()  # second, number
        self._health: Mapping[str, Any] = {}
        self._process: dict[str, float] = {}
        self._data_time = -math.inf
        self._stream_problem = self._health_problem = ""
        self._dropped = self._invalid = 0
        self._is_full = False

    # -- the connection ------------------------------------------------------------------------------------

    def connected(self, now: float) -> None:
        """Note that the stream is connected. The records before this are unknown."""
        self._connection.open(now)
        self._stream_problem = self._health_problem = ""
        self._data_time = now
        for series in self._series.values():
            series.forget_totals()

    def disconnected(self, problem: str, now: float) -> None:
        """Note that the stream has ended, or cannot be connected."""
        self._connection.close(now)
        self._stream_problem = problem

    def restarted(self) -> None:
        """Note that another process responds now. Values of the former one are unknown."""
        for series in self._series.values():
            series.forget_totals()
            series.value, series.is_stale = None, True

    def received(self, now: float) -> None:
        """Note that the service has sent something, such as a heartbeat."""
        self._data_time = now

    # -- the content ---------------------------------------------------------------------------------------

    def add_event(self, event: Any, now: float) -> None:
        """Add an event of the stream. One that is not understood is counted."""
        try:
            kind, unit = MetricType(event["type"]), MetricUnit(event["unit"])
            name, tags, metadata = event["name"], event["tags"], event["metadata"]
            is_operation = metadata.get("operation") is True
            source = (name, kind in _VALUE_TYPES, is_operation, *tags.items())
            key = self._keys.get(source)
            if key is None:
                texts = [name, *tags, *tags.values()]
                if not all(isinstance(text, str) for text in texts):
                    raise TypeError("a name or tag is not a string")
                section: Section = "values" if kind in _VALUE_TYPES else "operations"
                own = sorted(pair for pair in tags.items() if pair not in self._constant_tags)
                key = LiveSeriesKey(section, name, is_operation, tuple(own))
                if len(self._keys) < 2 * MAX_SERIES:
                    self._keys[source] = key
        except (KeyError, TypeError, ValueError, AttributeError):
            self._invalid += 1
            return
        second = math.floor(now)
        if not self._events or self._events[-1][0] != second:
            self._events.append([second, 0])
            while self._events[0][0] < second - RATE_SECONDS:
                self._events.popleft()
        self._events[-1][1] += 1
        series = self._series_of(key)
        if series is not None:
            series.add(kind, _number(event.get("value")), metadata, unit, now)

    def add_dropped(self, event: Any) -> None:
        """Add the number of events that the stream dropped."""
        number = _number(event.get("dropped")) if isinstance(event, dict) else None
        self._dropped += int(number or 0)

    def set_health(self, health: Mapping[str, Any], now: float) -> None:
        """Set the document of ``/health``."""
        self._health, self._health_problem = health, ""
        self.received(now)

    def health_failed(self, problem: str) -> None:
        """Note that ``/health`` did not answer."""
        self._health_problem = problem

    def add_snapshot(self, document: Any) -> None:
        """Add the series of a snapshot, so that those without records since the start are shown too."""
        try:
            tags = document["metadata"]["tags"]
            measured = document["metrics"]
            custom = measured.get("custom", {})
            self._process = {
                key: number
                for key in ("memory_mb", "cpu_percent")
                if (number := _number(measured.get(key))) is not None
            }
            constant = {pair for pair in tags.items() if pair[0] != LATENCY_TAG}
            numbers = [(parse_custom_key(key), _number(value)) for key, value in custom.items()]
        except (KeyError, TypeError, ValueError, AttributeError):
            self._invalid += 1
            return
        if not self._series:  # before the first event: the tags of the service do not change
            self._constant_tags = constant
        for found, number in numbers:
            section: Section = "values" if found.statistic is None else "operations"
            key = LiveSeriesKey(section, found.name, found.operation, tuple(sorted(found.tags.items())))
            series = self._series_of(key)
            if series is not None:
                series.is_stale = False
                if found.statistic is None and series.value is None:
                    series.value = number

    def _series_of(self, key: LiveSeriesKey) -> _LiveSeries | None:
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= MAX_SERIES:
                self._is_full = True
                return None
            series = self._series[key] = _LiveSeries(key)
        return series

    def view(self, now: float) -> LiveView:
        """Return all numbers at this time."""
        newest = math.floor(now)
        known = self._connection.coverage(now)
        events = sum(number for second, number in self._events if second > newest - RATE_SECONDS)
        start = max(self._connection.since, newest - RATE_SECONDS + 1)
        current: dict[str, float] = {}
        for what, name, factor in _PROCESS_GAUGES:
            series = self._series.get(LiveSeriesKey("values", name, False, ()))
            if series is not None and series.value is not None:
                current[what] = series.value * factor
        return LiveView(
            tuple(
                series.row(now, self._connection.since, known)
                for series in self._series.values()
                if not series.is_stale or series.was_recorded_after(now - WINDOW_SECONDS)
            ),
            self._health,
            current or self._process,
            bool(current),
            max(now - self._data_time, 0.0),
            self._stream_problem or self._health_problem,
            self._connection.is_open,
            events / max(now - start, 1.0) if self._connection.is_open else 0.0,
            self._dropped,
            self._is_full,
            self._invalid,
        )


_PROCESS_GAUGES = (
    ("memory_mb", "process.memory.usage", 1e-6),
    ("cpu_percent", "process.cpu.utilization", 100.0),
)
_VALUE_TYPES = (MetricType.COUNTER, MetricType.GAUGE)


def _number(value: Any) -> float | None:
    """Return a finite number, or ``None`` for anything else."""
    if value.__class__ not in (int, float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
