"""What a system holds, as OpenTelemetry names it, series by series."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    ExponentialHistogramDataPoint,
    HistogramDataPoint,
    NumberDataPoint,
)

from metrics_adapters.otlp.contents import Content, Counted
from metrics_adapters.otlp.exponential import as_double
from metrics_adapters.otlp.wire import attribute
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

Kind = Literal["counter", "gauge", "histogram", "exponential"]

_KINDS: dict[MetricType, Kind] = {
    MetricType.COUNTER: "counter",
    MetricType.GAUGE: "gauge",
    MetricType.HISTOGRAM: "exponential",
    MetricType.TIMER: "exponential",
}
"""What a store's metrics of each type are."""

_ATTRIBUTES: dict[Kind, int] = {
    "counter": NumberDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "gauge": NumberDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "histogram": HistogramDataPoint.ATTRIBUTES_FIELD_NUMBER,
    "exponential": ExponentialHistogramDataPoint.ATTRIBUTES_FIELD_NUMBER,
}
"""The field of a point that its attributes are in."""

_DURATION_HELP = "How long the operation took."
_OUTCOME_HELP = "How the operation ended."


class Stream(NamedTuple):
    """What all series of one name have in common.

    Attributes:
        is_operation: Whether it is of an operation, whose names are apart from those of metrics.
        name: As recorded; an operation's ends in ``.duration`` or ``.operations``.
        kind: What its series hold.
        unit: In UCUM; may be empty.
        help: What it is; may be empty.
    """

    is_operation: bool
    name: str
    kind: Kind
    unit: str
    help: str


class Reading(NamedTuple):
    """One series, and what it holds.

    Attributes:
        stream: What it has in common with others.
        key: What tells it from all others.
        attributes: Its attributes, as the fields of a point.
        content: What it holds.
    """

    stream: Stream
    key: Hashable
    attributes: bytes
    content: Content

    @classmethod
    def of(cls, stream: Stream, attributes: Mapping[str, str], content: Content) -> Reading:
        """Return the reading of a series that is told from others by its attributes."""
        key = stream, frozenset(attributes.items())
        return cls(stream, key, _written(stream.kind, attributes), content)


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
                    attributes = _written(stream.kind, _attributes(series.tags, store.tags, own))
                present[series] = attributes
                if stream.kind == "exponential":
                    yield Reading(stream, series, attributes, aggregate)
                elif stream.kind == "gauge":
                    yield Reading(stream, series, attributes, aggregate.last)
                elif named.metric_type is MetricType.COUNTER:
                    yield Reading(stream, series, attributes, aggregate.value)
                else:
                    for error_type, number in _endings(aggregate.successes, aggregate.failures):
                        ending = _written(stream.kind, _ending(error_type))
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


def _written(kind: Kind, attributes: Mapping[str, str]) -> bytes:
    number = _ATTRIBUTES[kind]
    return b"".join([attribute(number, name, value) for name, value in attributes.items()])


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
