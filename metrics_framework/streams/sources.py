"""Sources of events: the record log of a store, and an aggregator that is polled for changes."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from metrics_framework.clock import utc
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Distribution, Store
from metrics_framework.recording.aggregates import per_second, sum_of
from metrics_framework.recording.engine import RecordLog, Series
from metrics_framework.recording.metric import Metric
from metrics_framework.streams.events import EventChunk, StreamEvent, StreamSeries
from metrics_framework.values import MetricType, MetricUnit, MetricValue

MAX_PENDING_RECORDS = 200_000
"""How many records the log holds for the publisher thread. Newer records are dropped."""

MAX_CHUNK_RECORDS = 512
"""How many records a chunk has at most. A chunk stays in memory until its last event is taken."""

MAX_CACHED_SERIES = 100_000
"""For how many series a source keeps the name, type and tags."""

POLL_SECONDS = 0.25
"""Seconds between two polls of an aggregator."""

_Record = tuple[Series, Any, int, Any, int]  # series, value, count of the series, its number, time

_DISTRIBUTIONS = (MetricType.HISTOGRAM, MetricType.TIMER)


class StoreSource:
    """Every record of a store since `start`, once. The records of one series are in order.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log: RecordLog | None = None
        self._offset: int | None = None  # how many records precede the first event
        self._stream_series: dict[Series, StreamSeries] = {}

    def reset(self) -> None:
        """Reset in a forked child, where the store counts its records from zero."""
        self.stop()
        self._offset = None

    def start(self, sequence: int) -> int:
        """Start the log of records.

        Args:
            sequence: The number of the last event.

        Returns:
            How many records the store has received since that event.
        """
        log = self._log = self._store.core.subscribe(MAX_PENDING_RECORDS)
        if self._offset is None:
            self._offset = log.start - sequence
        return log.start - self._offset - sequence

    def stop(self) -> None:
        """Stop the log of records."""
        log, self._log = self._log, None
        if log is not None:
            self._store.core.unsubscribe(log)
        self._stream_series.clear()

    def collect(self, *, now: bool) -> tuple[list[EventChunk], int]:
        """Return the records since the last call.

        Args:
            now: Has no effect, because the log always has every finished record.

        Returns:
            The records in chunks, grouped by series, and how many newer ones the full log has dropped.
        """
        log = self._log
        if log is None:
            return [], 0
        lost, records = log.drain()
        # One chunk per series costs a fraction of one chunk per record.
        by_series: defaultdict[Series, list[_Record]] = defaultdict(list)
        for record in records:
            by_series[record[0]].append(record)
        read = _Read.now(self._store)
        chunks = [chunk for series, some in by_series.items() for chunk in self._chunks(series, some, read)]
        return chunks, lost

    def _chunks(self, series: Series, records: list[_Record], read: _Read) -> list[EventChunk]:
        stream_series = self._stream_series.get(series) or self._to_stream_series(series)
        distribution = None
        if stream_series.metric_type in _DISTRIBUTIONS:
            distribution = cast("Distribution | None", series.state())
        return [
            StoreChunk(stream_series, records[start : start + MAX_CHUNK_RECORDS], read, distribution)
            for start in range(0, len(records), MAX_CHUNK_RECORDS)
        ]

    def _to_stream_series(self, series: Series) -> StreamSeries:
        if len(self._stream_series) >= MAX_CACHED_SERIES:
            self._stream_series.clear()
        named = cast(Metric, series.owner).named
        tags = {**self._store.tags, **series.tags}
        stream_series = StreamSeries(named.name, named.metric_type, tags, named.is_operation)
        self._stream_series[series] = stream_series
        return stream_series


class _Read(NamedTuple):
    """One reading of the log, shared by its chunks.

    Attributes:
        store: The store.
        at: The wall time.
        seconds: Seconds since the start of the store.
    """

    store: Store
    at: datetime
    seconds: float

    @classmethod
    def now(cls, store: Store) -> _Read:
        return cls(store, utc(store.clock), (store.clock.monotonic_ns() - store.start_ns) / 1e9)


class StoreChunk:
    """Records of one series. An event is created when a subscriber takes it.

    Args:
        series: The series.
        records: The records.
        read: The reading of the log.
        distribution: The values of a histogram or timer at that time; ``None`` if it was removed.
    """

    __slots__ = ("_common", "_distribution", "_events", "_read", "_records", "first", "series")

    def __init__(
        self,
        series: StreamSeries,
        records: Sequence[_Record],
        read: _Read,
        distribution: Distribution | None,
    ) -> None:
        self.series = series
        self.first = 0
        self._records = records
        self._read = read
        self._distribution = distribution
        self._common: tuple[MetricUnit, float] | None = None
        self._events: dict[int, StreamEvent] = {}

    def __len__(self) -> int:
        return len(self._records)

    @property
    def step(self) -> int | float | None:
        """The sum of the records of a counter; ``None`` for another metric."""
        if self.series.metric_type is not MetricType.COUNTER:
            return None
        return sum_of([record[1] for record in self._records])

    def __getitem__(self, index: int, /) -> StreamEvent:
        event = self._events.get(index)
        if event is None:
            # Two threads that create the event at the same time get the same one.
            event = self._events.setdefault(index, StreamEvent(self.first + index, self._value(index)))
        return event

    def _value(self, index: int) -> MetricValue:
        """Return the metric's value with one of the records included."""
        _, recorded, count, number, _ = self._records[index]
        unit, p95 = self._common = self._common or (self._unit(), self._p95())
        name, metric_type = self.series.name, self.series.metric_type
        metadata: dict[str, Any] = {"count": count, "recorded": recorded}
        if metric_type is MetricType.RATE:
            metadata["success_rate"] = number / count
            number = per_second(count, self._read.seconds)
        elif metric_type in _DISTRIBUTIONS:
            number = p95
        if self.series.is_operation:
            metadata["operation"] = True
        return MetricValue(name, number, metric_type, unit, self._read.at, self.series.tags, metadata)

    def _unit(self) -> MetricUnit:
        if self.series.metric_type is MetricType.TIMER:
            return MetricUnit.MILLISECONDS
        if self.series.metric_type is MetricType.RATE:
            return MetricUnit.OPERATIONS_PER_SECOND
        return self._read.store.description(self.series.name).unit or MetricUnit.COUNT

    def _p95(self) -> float:
        if self.series.metric_type not in _DISTRIBUTIONS:
            return 0.0
        # A removed series has lost its values, but these records have theirs.
        values = self._distribution
        if values is None:
            values = Distribution.of([record[1] for record in self._records])
        return values.quantiles(0.95)[0]


class PollingSource:
    """The changes of an aggregator of any kind. Several records between two polls are one change.

    Args:
        aggregator: The aggregator.
    """

    def __init__(self, aggregator: MetricsAggregator) -> None:
        self._aggregator = aggregator
        self.reset()

    def reset(self) -> None:
        """Discard the last poll."""
        self._last_poll: dict[object, MetricValue] = {}
        self._due = 0.0

    def start(self, sequence: int) -> int:
        """Poll for the first time. Changes until then are not events.

        Args:
            sequence: The number of the last event.

        Returns:
            1 if there were events before, because the number of changes since then is not known.
        """
        self._last_poll = self._poll()
        return 1 if sequence else 0

    def stop(self) -> None:
        """Discard the last poll."""
        self.reset()

    def collect(self, *, now: bool) -> tuple[list[EventChunk], int]:
        """Return the changes since the last poll.

        Args:
            now: Whether to poll even if the last poll is recent.

        Returns:
            The changes, and zero, because no change is lost.
        """
        if not now and time.monotonic() < self._due:
            return [], 0
        current = self._poll()
        self._due = time.monotonic() + POLL_SECONDS
        last, self._last_poll = self._last_poll, current
        changes: list[EventChunk] = [
            PolledChunk(value)
            for key, value in current.items()
            if key not in last or _has_changed(last[key], value)
        ]
        return changes, 0

    def _poll(self) -> dict[object, MetricValue]:
        return {_series_of(value).key: value for value in self._aggregator.get_metrics_by_tag({})}


class PolledChunk:
    """One change, as a chunk of one event."""

    __slots__ = ("_event", "_value", "first", "series")

    step = None

    def __init__(self, value: MetricValue) -> None:
        self.series = _series_of(value)
        self.first = 0
        self._value = value
        self._event: StreamEvent | None = None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int, /) -> StreamEvent:
        if self._event is None:
            self._event = StreamEvent(self.first, self._value)
        return self._event


def _series_of(value: MetricValue) -> StreamSeries:
    return StreamSeries(value.name, value.metric_type, value.tags, bool(value.metadata.get("operation")))


def _has_changed(before: MetricValue, after: MetricValue) -> bool:
    # A rate falls as time passes, without any record, so the counts of records are compared if there are any.
    if "count" in after.metadata:
        return bool(before.metadata.get("count") != after.metadata["count"])
    return before.value != after.value
