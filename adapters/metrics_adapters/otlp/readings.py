"""What a system holds, as OpenTelemetry names it, series by series."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from metrics_adapters.otlp.contents import Content, Counted, Held, as_double
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Store
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

Kind = Literal["counter", "gauge", "histogram"]

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


class Key(NamedTuple):
    """What tells a series from all others."""

    stream: Stream
    attributes: frozenset[tuple[str, str]]


class Reading(NamedTuple):
    """One series, and what it holds."""

    key: Key
    content: Content

    @classmethod
    def of(cls, stream: Stream, attributes: Mapping[str, str], content: Content) -> Reading:
        """Return the reading of a series."""
        return cls(Key(stream, frozenset(attributes.items())), content)


def read_store(store: Store) -> Iterator[Reading]:
    """Yield what a store holds now; constant tags are left out, as they describe the resource."""
    streams: dict[tuple[str, str], Stream] = {}
    for reading in store.iter_readings():
        content: Content
        if reading.distribution is not None:
            kind: Kind = "histogram"
            content = Held(reading.distribution)
        elif reading.metric_type is MetricType.COUNTER:
            kind, content = "counter", reading.summary["sum"]
        else:
            kind, content = "gauge", reading.summary["last"]
        stream = streams.get((reading.name, kind))
        if stream is None:
            description = store.description(reading.name)
            unit = MetricUnit.MILLISECONDS if reading.metric_type is MetricType.TIMER else description.unit
            stream = _stream(reading.name, kind, UNITS[unit] if unit else "", description.help)
            streams[reading.name, kind] = stream
        yield Reading.of(stream, _attributes(reading.tags, store.tags), content)
    for reading in store.iter_timing_readings():
        if reading.distribution is not None:
            attributes = _attributes(reading.tags, store.tags)
            yield Reading.of(_durations(reading.name), attributes, Held(reading.distribution))
    for outcome in store.iter_outcome_readings():
        attributes = _attributes(outcome.tags, store.tags, OWN_ATTRIBUTES)
        yield from _outcomes(outcome.name, attributes, outcome.successes, outcome.failures)


def read_values(aggregator: MetricsAggregator) -> Iterator[Reading]:
    """Yield what an aggregator of another maker answers.

    A distribution is a histogram by the bounds that it was counted by, where its metadata has ``buckets``;
    else one of a single bucket: count, sum and extremes. Its quantiles cannot be sent.
    """
    for value in aggregator.get_metrics_by_tag({}):
        is_operation = bool(value.metadata.get("operation"))
        if value.metric_type is MetricType.RATE:
            if is_operation:
                attributes = _attributes(value.tags, {}, OWN_ATTRIBUTES)
                yield from _outcomes(value.name, attributes, *_ends(value.metadata))
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
                _durations(value.name) if is_operation else _stream(value.name, "histogram", unit, help_text)
            )
            yield Reading.of(stream, attributes, counted)


def text(recorded: str) -> str:
    """Return a text that UTF-8 can say: a lone surrogate is written as Python's escape."""
    return recorded if recorded.isascii() else recorded.encode(errors="backslashreplace").decode()


def _stream(name: str, kind: Kind, unit: str, help_text: str) -> Stream:
    return Stream(False, text(name), kind, unit, text(help_text))


def _durations(operation: str) -> Stream:
    unit = UNITS[MetricUnit.MILLISECONDS]
    return Stream(True, f"{text(operation)}.duration", "histogram", unit, _DURATION_HELP)


def _outcomes(
    operation: str, attributes: dict[str, str], successes: int, failures: Mapping[str, int]
) -> Iterator[Reading]:
    stream = Stream(True, f"{text(operation)}.operations", "counter", "{operation}", _OUTCOME_HELP)
    yield Reading.of(stream, {**attributes, "outcome": "success"}, successes)
    for error_type, number in failures.items():
        failed = {**attributes, "outcome": "failure"}
        if error_type:
            failed["error.type"] = text(error_type)
        yield Reading.of(stream, failed, number)


def _attributes(
    tags: Mapping[str, str], constant: Mapping[str, str], own: tuple[str, ...] = ()
) -> dict[str, str]:
    return {
        text(f"exported_{tag}" if tag in own else tag): text(value)
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
