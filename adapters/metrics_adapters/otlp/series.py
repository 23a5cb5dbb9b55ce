"""The series of a system by OpenTelemetry's names, and what the receiver has of each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from metrics_adapters.otlp.histograms import (
    ExplicitCounts,
    RecordedValue,
    as_double,
    is_zero,
    sent_value,
    value_since,
    was_reset,
)
from metrics_adapters.otlp.message import (
    Kind,
    MetricStream,
    Point,
    SeriesValue,
    Temporality,
    encoded_attributes,
)
from metrics_framework.exposition.formats import each_value
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Store
from metrics_framework.recording.engine import Series
from metrics_framework.recording.exposed_names import Named
from metrics_framework.recording.metric import Metric, own_records
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.values import MetricType, MetricUnit, MetricValue

if TYPE_CHECKING:
    from metrics_framework.recording.removals import Finals, SeriesIdentity

UNITS = {
    MetricUnit.SECONDS: "s",
    MetricUnit.MILLISECONDS: "ms",
    MetricUnit.MICROSECONDS: "us",
    MetricUnit.BYTES: "By",
    MetricUnit.KILOBYTES: "kBy",
    MetricUnit.MEGABYTES: "MBy",
    MetricUnit.COUNT: "{count}",  # "1" would mean a ratio
    MetricUnit.PERCENT: "%",
    MetricUnit.OPERATIONS_PER_SECOND: "{operation}/s",
}
"""Units in UCUM, as OpenTelemetry requires."""

OWN_ATTRIBUTES = ("outcome", "error.type")
"""Attributes of the outcomes of operations. Tags with these names are renamed."""

_KINDS: dict[MetricType, Kind] = {
    MetricType.COUNTER: "counter",
    MetricType.GAUGE: "gauge",
    MetricType.HISTOGRAM: "exponential",
    MetricType.TIMER: "exponential",
}
"""The kind of a store's metrics, by type."""

_DURATION_HELP = "Durations of the operation."
_OUTCOME_HELP = "Outcomes of the operation."


class StoreReader:
    """Reads a store, and caches the identities and encoded attributes of its series.

    Args:
        store: The store.
        is_per_worker: Whether to read only what this worker of a group recorded. The elected worker also
            reads the gauges of all.

    Attributes:
        restarts: The values of the last reading that include removed series. Each key has the value without
            them, or ``None`` if the series is gone.
    """

    def __init__(self, store: Store, *, is_per_worker: bool = False) -> None:
        self._store = store
        self._is_per_worker = is_per_worker
        self._attributes: dict[Series, tuple[SeriesIdentity, bytes]] = {}
        self.restarts: dict[Hashable, RecordedValue | None] = {}

    def read(self, removed: Finals | None = None) -> Iterator[SeriesValue]:
        """Yield all series of the store, without its constant tags, which describe the resource.

        Args:
            removed: What removed series had recorded, which is added to the series of the same identity.
        """
        store, known, present = self._store, self._attributes, {}
        gone, restarts = dict(removed or {}), self.restarts
        restarts.clear()
        for named, metric in store.metrics():
            store.expire(metric, metric.series())
            stream = self._stream(named)
            for _, series, aggregate, _ in self._states(metric):
                yield_gil()
                cached = present[series] = known.get(series) or self._cached(stream, named, series)
                identity, attributes = cached
                if gone and (final := gone.pop(identity, None)) is not None:
                    current, aggregate = aggregate, final.merge(aggregate)
                    restarts.update((key, None) for key, _, _ in _values(stream, *cached, aggregate))
                    restarts.update((key, value) for key, _, value in _values(stream, *cached, current))
                created_ns = series.created_ns
                for key, encoded, value in _values(stream, identity, attributes, aggregate):
                    yield SeriesValue(stream, key, encoded, value, created_ns)
        self._attributes = present
        for identity, final in gone.items():
            named, names, tag_values = identity
            stream = self._stream(named)
            attributes = self._encoded(stream, named, dict(zip(names, tag_values, strict=True)))
            for key, encoded, value in _values(stream, identity, attributes, final):
                restarts[key] = None
                yield SeriesValue(stream, key, encoded, value)

    def _states(self, metric: Metric) -> Iterable[tuple[int, Series, Any, object]]:
        worker = self._store.worker
        if worker is None or not self._is_per_worker:
            return metric.states()
        if metric.named.metric_type is MetricType.GAUGE:
            return metric.states() if worker.is_elected else ()
        with own_records():
            return list(metric.states())

    def _cached(self, stream: MetricStream, named: Named, series: Series) -> tuple[SeriesIdentity, bytes]:
        identity = (named, series.tag_set.names, series.values)
        return identity, self._encoded(stream, named, series.tags)

    def _encoded(self, stream: MetricStream, named: Named, tags: Mapping[str, str]) -> bytes:
        own = OWN_ATTRIBUTES if named.metric_type is MetricType.RATE else ()
        return encoded_attributes(stream.kind, _attributes(tags, self._store.tags, own))

    def _stream(self, named: Named) -> MetricStream:
        if named.metric_type is MetricType.RATE:
            return _outcomes(named.name)
        if named.is_operation:
            return _durations(named.name, "exponential")
        description = self._store.description(named.name)
        unit = MetricUnit.MILLISECONDS if named.metric_type is MetricType.TIMER else description.unit
        kind = _KINDS[named.metric_type]
        return _stream(named.name, kind, UNITS[unit] if unit else "", description.help)


def _values(
    stream: MetricStream, identity: SeriesIdentity, attributes: bytes, aggregate: Any
) -> Iterator[tuple[Hashable, bytes, RecordedValue]]:
    """Yield the values of a series, each with a key and encoded attributes: one, or one for each outcome."""
    if stream.kind == "exponential":
        yield identity, attributes, aggregate
    elif stream.kind == "gauge":
        yield identity, attributes, aggregate.last
    elif not stream.is_operation:
        yield identity, attributes, aggregate.value
    else:
        for error_type, number in _outcome_counts(aggregate.successes, aggregate.failures):
            outcome = encoded_attributes(stream.kind, _outcome_attributes(error_type))
            yield (identity, error_type), attributes + outcome, number


def read_values(aggregator: MetricsAggregator) -> Iterator[SeriesValue]:
    """Yield all series of an aggregator without a store.

    A distribution becomes a histogram with the bounds in its metadata ``buckets``, or else with a single
    bucket: count, sum and extremes. Its quantiles cannot be sent.
    """
    for value in each_value(aggregator):
        is_operation = bool(value.metadata.get("operation"))
        if value.metric_type is MetricType.RATE:
            if is_operation:
                attributes = _attributes(value.tags, {}, OWN_ATTRIBUTES)
                for error_type, number in _outcome_counts(*_successes_and_failures(value.metadata)):
                    ended = {**attributes, **_outcome_attributes(error_type)}
                    yield SeriesValue.of(_outcomes(value.name), ended, number)
            continue  # the receiver derives the rate of a counter
        unit = UNITS[value.unit]
        attributes = _attributes(value.tags, {})
        if value.metric_type in (MetricType.COUNTER, MetricType.GAUGE):
            kind: Kind = "counter" if value.metric_type is MetricType.COUNTER else "gauge"
            help_text = str(value.metadata.get("help", ""))
            yield SeriesValue.of(_stream(value.name, kind, unit, help_text), attributes, value.value)
        elif (counted := _counted(value)) is not None:
            help_text = str(value.metadata.get("help", ""))
            stream = (
                _durations(value.name, "histogram")
                if is_operation
                else _stream(value.name, "histogram", unit, help_text)
            )
            yield SeriesValue.of(stream, attributes, counted)


def text(recorded: str) -> str:
    """Return a text that UTF-8 can encode. A lone surrogate is written as Python's escape."""
    return recorded if recorded.isascii() else recorded.encode(errors="backslashreplace").decode()


def _stream(name: str, kind: Kind, unit: str, help_text: str) -> MetricStream:
    return MetricStream(False, text(name), kind, unit, text(help_text))


def _durations(operation: str, kind: Kind) -> MetricStream:
    unit = UNITS[MetricUnit.MILLISECONDS]
    return MetricStream(True, f"{text(operation)}.duration", kind, unit, _DURATION_HELP)


def _outcomes(operation: str) -> MetricStream:
    return MetricStream(True, f"{text(operation)}.operations", "counter", "{operation}", _OUTCOME_HELP)


def _outcome_counts(successes: int, failures: Mapping[str, int]) -> Iterator[tuple[str | None, int]]:
    """Yield the number of successes, with ``None``, and of failures, with their error type."""
    yield None, successes
    yield from failures.items()


def _outcome_attributes(error_type: str | None) -> dict[str, str]:
    """Return the attributes of an outcome. A failure may have no error type."""
    if error_type is None:
        return {"outcome": "success"}
    return {"outcome": "failure", "error.type": error_type} if error_type else {"outcome": "failure"}


def _attributes(
    tags: Mapping[str, str], constant: Mapping[str, str], own: tuple[str, ...] = ()
) -> dict[str, str]:
    return {
        f"exported_{tag}" if tag in own else tag: value
        for tag, value in tags.items()
        if not constant or constant.get(tag) != value
    }


def _successes_and_failures(metadata: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    successes, failures = metadata.get("successes"), metadata.get("failures")
    if successes is None or failures is None:  # the contract requires these two only
        successes = round(metadata["count"] * metadata["success_rate"])
        failures = {"": metadata["count"] - successes}
    return successes, failures


def _counted(value: MetricValue) -> ExplicitCounts | None:
    """Return the counts of a distribution, or ``None`` if not even its count is known."""
    known = value.metadata
    extremes = [as_double(known[key]) if key in known else None for key in ("min", "max")]
    if "buckets" in known:
        cumulated = sorted((float(bound), int(count)) for bound, count in known["buckets"]["counts"].items())
        bounds = tuple(bound for bound, _ in cumulated if bound < float("inf"))
        passed = [count for _, count in cumulated]
        if len(passed) == len(bounds):  # the bucket without an upper bound is missing
            passed.append(max(passed[-1] if passed else 0, int(known.get("count", 0))))
        counts = tuple(now - before for now, before in zip(passed, [0, *passed], strict=False))
        total = known["buckets"].get("sum", known.get("sum", 0.0))
        return ExplicitCounts(bounds, counts, as_double(total), *extremes)
    if "count" not in known or "sum" not in known:
        return None
    return ExplicitCounts((), (int(known["count"]),), as_double(known["sum"]), *extremes)


class _Entry(NamedTuple):
    start_ns: int
    sent_ns: int
    value: RecordedValue
    created_ns: int


class ReceivedSeries:
    """Tracks the value of each series that the receiver has.

    Only `commit` marks values as received, so the next export contains all values of a failed one.

    Args:
        start_ns: The start of the source, in nanoseconds since the epoch.
        temporality: ``cumulative`` sends all since the start of a series, ``delta`` what is new.
        adds_removed: Whether the values include what removed series had recorded, so that none ever falls.
        source_start_ns: The start of the source on the clock of `SeriesValue.created_ns`.
    """

    def __init__(
        self,
        start_ns: int,
        temporality: Temporality,
        *,
        adds_removed: bool = False,
        source_start_ns: int = 0,
    ) -> None:
        self._since_ns = start_ns
        self._epoch_ns = start_ns - source_start_ns
        self._is_delta = temporality == "delta"
        self._adds_removed = adds_removed
        self._entries: dict[Hashable, _Entry] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def points(self, series_values: Iterable[SeriesValue]) -> list[Point]:
        """Return the points to send. Deltas without new records are left out."""
        found = self._delta if self._is_delta else self._cumulative
        return [point for series in series_values if (point := found(series)) is not None]

    def commit(self, points: Iterable[Point], now_ns: int) -> None:
        """Mark points as received that were read at ``now_ns``."""
        for series, start_ns, _ in points:
            if series.stream.kind != "gauge":
                self._entries[series.key] = _Entry(start_ns, now_ns, series.value, series.created_ns)

    def complete(
        self,
        series_values: Iterable[SeriesValue],
        now_ns: int,
        restarts: Mapping[Hashable, RecordedValue | None] = MappingProxyType({}),
    ) -> None:
        """Mark everything as received, and forget series that no longer exist.

        Args:
            series_values: All series.
            now_ns: When they were read.
            restarts: See `StoreReader.restarts`: these values no longer include removed series.
        """
        if not self._adds_removed:
            present = {series.key for series in series_values}
            for key in [key for key in self._entries if key not in present]:
                del self._entries[key]
        for key, value in restarts.items():
            entry = self._entries.pop(key, None)
            if entry is not None and value is not None:
                self._entries[key] = entry._replace(value=value)
        self._since_ns = now_ns

    def _cumulative(self, series: SeriesValue) -> Point:
        entry = self._entries.get(series.key)
        start_ns = self._since_ns
        if entry is not None:
            if series.created_ns != entry.created_ns:  # it was removed and came back
                start_ns = max(entry.sent_ns, self._epoch_ns + series.created_ns)
            elif was_reset(series.value, entry.value):
                start_ns = entry.sent_ns
            else:
                start_ns = entry.start_ns
        return Point(series, start_ns, sent_value(series.value))

    def _delta(self, series: SeriesValue) -> Point | None:
        if series.stream.kind == "gauge":
            return Point(series, self._since_ns, sent_value(series.value))
        entry = self._entries.get(series.key)
        start_ns, value = self._since_ns, None
        if entry is not None:
            if entry.value == series.value:
                return None
            start_ns, value = max(start_ns, entry.sent_ns), value_since(series.value, entry.value)
            if value is None and self._adds_removed:
                return None  # it was removed while the store was read: the next delta has everything
        if value is None:
            value = sent_value(series.value)
        return None if is_zero(value) else Point(series, start_ns, value)
