"""The series of a system, as OpenTelemetry names them, and what of each the receiver has."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from metrics_adapters.otlp.histograms import Content, Counted, as_double, began_anew, is_empty, since, whole
from metrics_adapters.otlp.message import Kind, Point, Reading, Stream, Temporality, encoded_attributes
from metrics_framework.exposition.formats import each_value
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Store
from metrics_framework.recording.engine import Series
from metrics_framework.recording.namespaces import Named
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.values import MetricType, MetricUnit, MetricValue

UNITS = {
    MetricUnit.SECONDS: "s",
    MetricUnit.MILLISECONDS: "ms",
    MetricUnit.MICROSECONDS: "us",
    MetricUnit.BYTES: "By",
    MetricUnit.KILOBYTES: "kBy",
    MetricUnit.MEGABYTES: "MBy",
    MetricUnit.COUNT: "{count}",  # not "1", which is a ratio's
    MetricUnit.PERCENT: "%",
    MetricUnit.OPERATIONS_PER_SECOND: "{operation}/s",
}
"""Units in UCUM, the code that OpenTelemetry asks for."""

OWN_ATTRIBUTES = ("outcome", "error.type")
"""Attributes of an operation's outcomes, which no tag may have the name of."""

_KINDS: dict[MetricType, Kind] = {
    MetricType.COUNTER: "counter",
    MetricType.GAUGE: "gauge",
    MetricType.HISTOGRAM: "exponential",
    MetricType.TIMER: "exponential",
}
"""What a store's metrics of each type are."""

_DURATION_HELP = "How long the operation took."
_OUTCOME_HELP = "How the operation ended."


class StoreReader:
    """Reads a store, and keeps the attributes of its series, which never change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._attributes: dict[Series, bytes] = {}

    def read(self) -> Iterator[Reading]:
        """Yield what the store holds now; constant tags are left out, as they describe the resource."""
        store, known, present = self._store, self._attributes, {}
        for named, metric in store.metrics():
            store.expire(metric, metric.series())
            stream = self._stream(named)
            own = OWN_ATTRIBUTES if named.metric_type is MetricType.RATE else ()
            for _, series, aggregate, _ in metric.states():
                yield_gil()
                attributes = known.get(series)
                if attributes is None:
                    attributes = encoded_attributes(stream.kind, _attributes(series.tags, store.tags, own))
                present[series] = attributes
                if stream.kind == "exponential":
                    yield Reading(stream, series, attributes, aggregate)
                elif stream.kind == "gauge":
                    yield Reading(stream, series, attributes, aggregate.last)
                elif named.metric_type is MetricType.COUNTER:
                    yield Reading(stream, series, attributes, aggregate.value)
                else:
                    for error_type, number in _endings(aggregate.successes, aggregate.failures):
                        ending = encoded_attributes(stream.kind, _ending(error_type))
                        yield Reading(stream, (series, error_type), attributes + ending, number)
        self._attributes = present

    def _stream(self, named: Named) -> Stream:
        if named.metric_type is MetricType.RATE:
            return _outcomes(named.name)
        if named.is_operation:
            return _durations(named.name, "exponential")
        description = self._store.description(named.name)
        unit = MetricUnit.MILLISECONDS if named.metric_type is MetricType.TIMER else description.unit
        kind = _KINDS[named.metric_type]
        return _stream(named.name, kind, UNITS[unit] if unit else "", description.help)


def read_values(aggregator: MetricsAggregator) -> Iterator[Reading]:
    """Yield what an aggregator of another maker answers.

    A distribution is a histogram by the bounds that it was counted by, where its metadata has ``buckets``;
    else one of a single bucket: count, sum and extremes. Its quantiles cannot be sent.
    """
    for value in each_value(aggregator):
        is_operation = bool(value.metadata.get("operation"))
        if value.metric_type is MetricType.RATE:
            if is_operation:
                attributes = _attributes(value.tags, {}, OWN_ATTRIBUTES)
                for error_type, number in _endings(*_ends(value.metadata)):
                    ended = {**attributes, **_ending(error_type)}
                    yield Reading.of(_outcomes(value.name), ended, number)
            continue  # whoever receives a counter works its rate out
        unit = UNITS[value.unit]
        attributes = _attributes(value.tags, {})
        if value.metric_type in (MetricType.COUNTER, MetricType.GAUGE):
            kind: Kind = "counter" if value.metric_type is MetricType.COUNTER else "gauge"
            help_text = str(value.metadata.get("help", ""))
            yield Reading.of(_stream(value.name, kind, unit, help_text), attributes, value.value)
        elif (counted := _counted(value)) is not None:
            help_text = str(value.metadata.get("help", ""))
            stream = (
                _durations(value.name, "histogram")
                if is_operation
                else _stream(value.name, "histogram", unit, help_text)
            )
            yield Reading.of(stream, attributes, counted)


def text(recorded: str) -> str:
    """Return a text that UTF-8 can say: a lone surrogate is written as Python's escape."""
    return recorded if recorded.isascii() else recorded.encode(errors="backslashreplace").decode()


def _stream(name: str, kind: Kind, unit: str, help_text: str) -> Stream:
    return Stream(False, text(name), kind, unit, text(help_text))


def _durations(operation: str, kind: Kind) -> Stream:
    unit = UNITS[MetricUnit.MILLISECONDS]
    return Stream(True, f"{text(operation)}.duration", kind, unit, _DURATION_HELP)


def _outcomes(operation: str) -> Stream:
    return Stream(True, f"{text(operation)}.operations", "counter", "{operation}", _OUTCOME_HELP)


def _endings(successes: int, failures: Mapping[str, int]) -> Iterator[tuple[str | None, int]]:
    """Yield the number of successes, as that of no error, and of failures by error type."""
    yield None, successes
    yield from failures.items()


def _ending(error_type: str | None) -> dict[str, str]:
    """Return the attributes that tell how an operation ended; an error may be without a type."""
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


def _ends(metadata: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    successes, failures = metadata.get("successes"), metadata.get("failures")
    if successes is None or failures is None:  # the contract asks for no more than these two
        successes = round(metadata["count"] * metadata["success_rate"])
        failures = {"": metadata["count"] - successes}
    return successes, failures


def _counted(value: MetricValue) -> Counted | None:
    """Return a distribution's counts, ``None`` where not even their number is known."""
    known = value.metadata
    extremes = [as_double(known[key]) if key in known else None for key in ("min", "max")]
    if "buckets" in known:
        cumulated = sorted((float(bound), int(count)) for bound, count in known["buckets"]["counts"].items())
        bounds = tuple(bound for bound, _ in cumulated if bound < float("inf"))
        passed = [count for _, count in cumulated]
        if len(passed) == len(bounds):  # the last one has all values even where nobody says so
            passed.append(max(passed[-1] if passed else 0, int(known.get("count", 0))))
        counts = tuple(now - before for now, before in zip(passed, [0, *passed], strict=False))
        total = known["buckets"].get("sum", known.get("sum", 0.0))
        return Counted(bounds, counts, as_double(total), *extremes)
    if "count" not in known or "sum" not in known:
        return None
    return Counted((), (int(known["count"]),), as_double(known["sum"]), *extremes)


class _Entry(NamedTuple):
    start_ns: int
    sent_ns: int
    content: Content


class Sent:
    """Keeps what was received, by series.

    Only what `commit` is told of counts as received, so an export that fails loses nothing: the next one has
    it too.

    Args:
        start_ns: When the source began, in nanoseconds since the epoch.
        temporality: ``cumulative`` sends all since a series began, ``delta`` what is new.
    """

    def __init__(self, start_ns: int, temporality: Temporality) -> None:
        self._since_ns = start_ns
        self._is_delta = temporality == "delta"
        self._entries: dict[Hashable, _Entry] = {}

    def points(self, readings: Iterable[Reading]) -> list[Point]:
        """Return what is to be sent of some series; as deltas, those without anything new are left out."""
        found = self._delta if self._is_delta else self._cumulative
        return [point for reading in readings if (point := found(reading)) is not None]

    def commit(self, points: Iterable[Point], now_ns: int) -> None:
        """Take note that some points, which were read at that time, were received."""
        for reading, start_ns, _ in points:
            if reading.stream.kind != "gauge":
                self._entries[reading.key] = _Entry(start_ns, now_ns, reading.content)

    def complete(self, readings: Iterable[Reading], now_ns: int) -> None:
        """Take note that everything was received; what is there no more is forgotten."""
        present = {reading.key for reading in readings}
        for key in [key for key in self._entries if key not in present]:
            del self._entries[key]
        self._since_ns = now_ns

    def _cumulative(self, reading: Reading) -> Point:
        entry = self._entries.get(reading.key)
        start_ns = self._since_ns
        if entry is not None:
            # What holds less than before was removed, and began anew after it was sent last.
            start_ns = entry.sent_ns if began_anew(reading.content, entry.content) else entry.start_ns
        return Point(reading, start_ns, whole(reading.content))

    def _delta(self, reading: Reading) -> Point | None:
        if reading.stream.kind == "gauge":
            return Point(reading, self._since_ns, whole(reading.content))
        entry = self._entries.get(reading.key)
        start_ns, part = self._since_ns, None
        if entry is not None:
            if entry.content == reading.content:
                return None
            start_ns, part = max(start_ns, entry.sent_ns), since(reading.content, entry.content)
        if part is None:
            part = whole(reading.content)
        return None if is_empty(part) else Point(reading, start_ns, part)
