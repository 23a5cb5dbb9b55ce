"""The stream of a store: every record of it, once, and those of one series in their order."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from metrics_framework.clock import utc
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Distribution, Store
from metrics_framework.recording.aggregates import per_second
from metrics_framework.recording.engine import RecordLog, Series
from metrics_framework.recording.metric import Metric
from metrics_framework.streams.events import EventChunk, StreamEvent, StreamSeries
from metrics_framework.values import MetricType, MetricUnit, MetricValue

MAX_PENDING_RECORDS = 200_000
"""How many records wait for the publisher thread at most; newer ones are dropped."""

MAX_CHUNK_RECORDS = 512
"""How many records a run has at most: a subscriber that has not taken its last event keeps all of them."""

MAX_CACHED_SERIES = 100_000

_Record = tuple[Series, Any, int, Any, int]  # series, value, count of the series, its number, time

_DISTRIBUTIONS = (MetricType.HISTOGRAM, MetricType.TIMER)


class StoreSource:
    """Every record of a store from the moment that it is started.

    Args:
        store: Where they are recorded.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._log: RecordLog | None = None
        self._offset: int | None = None  # the number of records before the first event
        self._stream_series: dict[Series, StreamSeries] = {}

    def reset(self) -> None:
        """Start over in a child process, where the store counts its records from zero."""
        self.stop()
        self._offset = None

    def start(self, sequence: int) -> int:
        """Log records from now on.

        Args:
            sequence: The number of the last event.

        Returns:
            How many records were made since that event.
        """
        log = self._log = self._store.core.subscribe(MAX_PENDING_RECORDS)
        if self._offset is None:
            self._offset = log.start - sequence
        return log.start - self._offset - sequence

    def stop(self) -> None:
        """Log no more records."""
        log, self._log = self._log, None
        if log is not None:
            self._store.core.unsubscribe(log)
        self._stream_series.clear()

    def collect(self, *, now: bool) -> tuple[list[EventChunk], int]:
        """Return the records since the last call.

        Args:
            now: Has no effect: the log has every finished record at any time.

        Returns:
            The records, series by series, and how many newer ones were lost because the log was full.
        """
        log = self._log
        if log is None:
            return [], 0
        lost, records = log.drain()
        # One run for each series costs a fraction of a run for each record.
        by_series: defaultdict[Series, list[_Record]] = defaultdict(list)
        for record in records:
            by_series[record[0]].append(record)
        read = _Read.now(self._store)
        return [
            chunk for series, some in by_series.items() for chunk in self._chunks(series, some, read)
        ], lost

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
    """The moment at which records were read, for all runs of that moment.

    Attributes:
        store: Where they were recorded.
        at: The wall time.
        seconds: The time since the start of the store.
    """

    store: Store
    at: datetime
    seconds: float

    @classmethod
    def now(cls, store: Store) -> _Read:
        return cls(store, utc(store.clock), (store.clock.monotonic_ns() - store.start_ns) / 1e9)


class StoreChunk:
    """Records of one series: each event is made when a subscriber takes it.

    Args:
        subject: The series.
        records: The records.
        read: When they were read.
        distribution: The values of a histogram or timer at that moment; ``None`` if it was removed.
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

    def __getitem__(self, index: int, /) -> StreamEvent:
        event = self._events.get(index)
        if event is None:
            # Two threads that make it at once get the same one.
            event = self._events.setdefault(index, StreamEvent(self.first + index, self._value(index)))
        return event

    def _value(self, index: int) -> MetricValue:
        """Return the metric as it is with one of the records."""
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
        # A removed series has no values any more, but these were recorded.
        values = self._distribution
        if values is None:
            values = Distribution.of([record[1] for record in self._records])
        return values.quantiles(0.95)[0]


POLL_SECONDS = 0.25
"""How often the aggregator is asked."""


class PollingSource:
    """Everything that changes, by the Protocols alone: several records between two looks are one change.

    Args:
        aggregator: What is asked.
    """

    def __init__(self, aggregator: MetricsAggregator) -> None:
        self._aggregator = aggregator
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        self._seen: dict[object, MetricValue] = {}
        self._due = 0.0

    def start(self, sequence: int) -> int:
        """Look at what there is, which is left out.

        Args:
            sequence: The number of the last event.

        Returns:
            1 where there were events before: how many changes nobody looked at is not known.
        """
        self._seen = self._look()
        return 1 if sequence else 0

    def stop(self) -> None:
        """Forget what was seen."""
        self.reset()

    def collect(self, *, now: bool) -> tuple[list[EventChunk], int]:
        """Return what has changed since the last look.

        Args:
            now: Whether to look in any case; else only where the last look is long enough ago.

        Returns:
            The changes, and zero, as nothing is lost.
        """
        if not now and time.monotonic() < self._due:
            return [], 0
        found = self._look()
        self._due = time.monotonic() + POLL_SECONDS
        seen, self._seen = self._seen, found
        changes: list[EventChunk] = [
            PolledChunk(value)
            for series, value in found.items()
            if series not in seen or _has_changed(seen[series], value)
        ]
        return changes, 0

    def _look(self) -> dict[object, MetricValue]:
        return _by_series(self._aggregator.get_metrics_by_tag({}))


class PolledChunk:
    """One change."""

    __slots__ = ("_event", "_value", "first", "series")

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


def _by_series(values: Iterable[MetricValue]) -> dict[object, MetricValue]:
    return {_series_of(value).key: value for value in values}


def _has_changed(before: MetricValue, after: MetricValue) -> bool:
    # A rate falls all by itself as time goes by; only a new event is a change.
    if "count" in after.metadata:
        return bool(before.metadata.get("count") != after.metadata["count"])
    return before.value != after.value
