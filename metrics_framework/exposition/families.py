"""What a store holds, as metric families of Prometheus: names, units, labels and samples, in no format yet.

Names and units follow OpenTelemetry's rules ("Prometheus and OpenMetrics Compatibility"); see
`metrics_framework.exposition.text`. Histograms and timers are histograms, by bounds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import NamedTuple, TypeVar

from metrics_framework.exposition.names import BASE_UNITS, metric_name, tag_labels
from metrics_framework.log import Isolation, log_event
from metrics_framework.recording import Description, OutcomeReading, SeriesReading, Store
from metrics_framework.recording.buckets import BucketCounts
from metrics_framework.recording.namespaces import Named
from metrics_framework.values import MetricType, MetricUnit

T = TypeVar("T")

DEFAULT_BUCKETS_SECONDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
"""The default buckets of prometheus_client."""

MAX_WARNINGS = 1_000
"""How many warnings are logged at most."""

SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_sum", "_count", "_created"),
}
"""What the names end in that a family takes up: by OpenMetrics 1.0 no other one may have any of them."""

_TYPES = {
    MetricType.COUNTER: "counter",
    MetricType.GAUGE: "gauge",
    MetricType.HISTOGRAM: "histogram",
    MetricType.TIMER: "histogram",
    MetricType.RATE: "counter",
}
_OWN_LABELS = {MetricType.RATE: ("outcome", "error_type")}
_OPERATION_HELP = {
    MetricType.TIMER: "How long the operation took.",
    MetricType.RATE: "How the operation ended.",
}
UNREADABLE = re.compile("[\x00\ud800-\udfff]")
"""What UTF-8 cannot say, and what Prometheus takes for the end."""


class Sample(NamedTuple):
    """One number: what its name ends in beside the family's, its labels, and the number in base units."""

    suffix: str
    labels: dict[str, str]
    value: float


class FamilyHeader(NamedTuple):
    """What all samples of one name have in common.

    Attributes:
        name: As OpenMetrics has it: a counter's is without ``_total``.
        type: ``counter``, ``gauge`` or ``histogram``.
        help: What it is; may be empty.
        unit: The base unit that the name ends in, or empty.
        recorded_unit: The unit that the numbers are recorded in.
        own_labels: Labels that no tag may have the name of.
    """

    name: str
    type: str
    help: str
    unit: str
    recorded_unit: MetricUnit
    own_labels: tuple[str, ...]


class Family(NamedTuple):
    """All samples of one name, series by series."""

    header: FamilyHeader
    samples: list[Sample]


Result = SeriesReading | OutcomeReading


class ExpositionLog:
    """The log of one exposition."""

    def __init__(self) -> None:
        self._isolation = Isolation()
        self._said: set[str] = set()

    def attempt(self, named: Named, make: Callable[[], T]) -> T | None:
        """Make the text or family of a metric; ``None`` where that failed."""
        return self._isolation.call("metric cannot be exposed", make, metric=str(named))

    def fail(self, named: object, error: Exception) -> None:
        """Log that something of the text could not be made."""
        self._say("error", "metric cannot be exposed", metric=str(named), error=repr(error))

    def warn(self, event: str, **fields: object) -> None:
        """Log a warning unless it was logged before."""
        self._say("warning", event, **fields)

    def _say(self, level: str, event: str, **fields: object) -> None:
        key = f"{event} {fields}"
        if key not in self._said and len(self._said) < MAX_WARNINGS:
            self._said.add(key)
            log_event(level, event, **fields)


def set_default_buckets(store: Store) -> None:
    """Count histograms by prometheus_client's bounds if the store has no default bounds.

    Values that were recorded before are counted, too: from their distribution, so the counts of more than 128
    values are estimates.
    """
    if not store.default_buckets:
        store.default_buckets = DEFAULT_BUCKETS_SECONDS


def exposed_names(named: Named, unit: MetricUnit | None) -> list[str]:
    """Return every name that a metric or operation takes up.

    Example:
        >>> exposed_names(Named("cache.size", MetricType.GAUGE, False), MetricUnit.KILOBYTES)
        ['cache_size_bytes']
    """
    name = family_name(named, unit)
    return [f"{name}{suffix}" for suffix in SUFFIXES[_TYPES[named.metric_type]]]


def family_name(named: Named, unit: MetricUnit | None) -> str:
    """Return what the family of a metric or operation is called."""
    name, metric_type, is_operation = named
    if metric_type is MetricType.RATE:
        name, unit = f"{name}_operations", None
    elif metric_type is MetricType.TIMER:
        name, unit = f"{name}_duration" if is_operation else name, MetricUnit.MILLISECONDS
    # Colons are for recording rules, and prometheus_client writes them in one of two ways.
    exposed = metric_name(
        name.replace(":", "_"),
        unit or MetricUnit.COUNT,
        counter=metric_type in (MetricType.COUNTER, MetricType.RATE),
    )
    return exposed.removesuffix("_total") if _TYPES[metric_type] == "counter" else exposed


def families(store: Store, log: ExpositionLog) -> Iterator[Family]:
    """Yield the families of a store as it is at this moment.

    Args:
        store: What to read.
        log: Logs families that fail, names with different tags, and series with the same labels.
    """
    for _, metric in store.metrics():
        metric.exposed = True  # before the counts are read: from now on other bounds are a new start
    for is_operation, read in (
        (False, store.readings),
        (True, store.timing_readings),
        (True, store.outcome_readings),
    ):
        by_name: dict[Named, list[Result]] = {}
        readings: Iterable[Result] = read()
        for reading in readings:
            metric_type = reading.metric_type if isinstance(reading, SeriesReading) else MetricType.RATE
            by_name.setdefault(Named(reading.name, metric_type, is_operation), []).append(reading)
        for named, series in by_name.items():
            made = log.attempt(named, partial(family, named, series, store.description(named.name), log))
            if made is not None:
                yield made


def family(named: Named, series: Iterable[Result], description: Description, log: ExpositionLog) -> Family:
    """Return the family of a metric or operation.

    Args:
        named: What it is.
        series: All of its series.
        description: What was said of it.
        log: Logs different tags, and series with the same labels.
    """
    head = family_header(named, description)
    apart = UniqueLabels(named, log)
    samples: list[Sample] = []
    for reading in series:
        labels = series_labels(reading.tags, head.own_labels)
        if apart.admit(labels):
            samples += _samples(reading, labels, head.recorded_unit)
    return Family(head, samples)


def family_header(named: Named, description: Description) -> FamilyHeader:
    """Return what all samples of a metric or operation have in common.

    Args:
        named: What it is.
        description: What was said of it.
    """
    type_ = _TYPES[named.metric_type]
    unit = description.unit or MetricUnit.COUNT
    if named.metric_type is MetricType.TIMER:
        unit = MetricUnit.MILLISECONDS
    elif named.metric_type is MetricType.RATE:
        unit = MetricUnit.COUNT
    help_text = _OPERATION_HELP.get(named.metric_type, "") if named.is_operation else ""
    return FamilyHeader(
        family_name(named, description.unit),
        type_,
        replace_unreadable(description.help or help_text),
        BASE_UNITS.get(unit, ("", 1.0))[0],
        unit,
        ("le",) if type_ == "histogram" else _OWN_LABELS.get(named.metric_type, ()),
    )


class UniqueLabels:
    """Keeps the series of one name apart: of two that a server could not tell apart, one comes out.

    Args:
        named: Whose series they are.
        log: Logs different tags, and series with the same labels.
    """

    def __init__(self, named: Named, log: ExpositionLog) -> None:
        self._named = named
        self._log = log
        self._known: set[frozenset[tuple[str, str]]] = set()
        self._names: set[frozenset[str]] = set()

    def admit(self, labels: Mapping[str, str]) -> bool:
        """Say whether no series before had these labels; one without a text is none for a server."""
        identity = frozenset(item for item in labels.items() if item[1])
        if identity in self._known:
            self._log.warn(
                "a series is not exposed: another one has its labels", metric=str(self._named), labels=labels
            )
            return False
        self._known.add(identity)
        self.note_names(labels)
        return True

    def note_names(self, names: Iterable[str]) -> None:
        """Take note of the names of a series' labels: queries expect them to be the same in all series."""
        self._names.add(frozenset(names))
        if len(self._names) > 1:
            self._log.warn("the series of one name have different tags", metric=str(self._named))


def series_labels(tags: Mapping[str, str], own_labels: Container[str]) -> dict[str, str]:
    """Return the labels that tags become, with texts that a server can read."""
    return {name: replace_unreadable(text) for name, text in tag_labels(tags, own_labels).items()}


def _samples(reading: Result, labels: dict[str, str], unit: MetricUnit) -> Iterator[Sample]:
    if isinstance(reading, OutcomeReading):
        yield Sample("_total", {**labels, "outcome": "success", "error_type": ""}, reading.successes)
        for error_type, number in failure_counts(reading.failures).items():
            yield Sample("_total", {**labels, "outcome": "failure", "error_type": error_type}, number)
    elif reading.metric_type is MetricType.COUNTER:
        yield Sample("_total", labels, in_base_unit(reading.summary["sum"], unit))
    elif reading.metric_type is MetricType.GAUGE:
        yield Sample("", labels, in_base_unit(reading.summary["last"], unit))
    elif reading.distribution is not None:
        whole = BucketCounts((), (reading.distribution.count,), reading.distribution.sum)
        buckets = reading.buckets or whole
        # Two bounds that are one in the base unit are one bucket, up to the higher one.
        counts = {bound_text(bound, unit): count for bound, count in buckets.cumulated().items()}
        for le, count in counts.items():
            yield Sample("_bucket", {**labels, "le": le}, count)
        # A sum that may fall would be taken for a counter that was reset, and without it there is no count
        # either (OpenMetrics 1.0, "Histogram").
        if reading.distribution.min >= 0 and not (buckets.bounds and buckets.bounds[0] < 0):
            yield Sample("_count", labels, counts["+Inf"])
            yield Sample("_sum", labels, in_base_unit(buckets.total, unit))


def failure_counts(failures: Mapping[str, int]) -> dict[str, int]:
    """Return failures by error type, with texts that a server can read."""
    counts: dict[str, int] = {}
    for error_type, number in failures.items():
        text = replace_unreadable(error_type)
        counts[text] = counts.get(text, 0) + number
    return counts


def in_base_unit(number: float, unit: MetricUnit) -> float:
    """Return a number of a unit in its base unit; infinite beyond the largest float.

    Example:
        >>> in_base_unit(250, MetricUnit.MILLISECONDS)
        0.25
    """
    try:
        return number / BASE_UNITS[unit][1] if unit in BASE_UNITS else float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def bound_text(bound: float, unit: MetricUnit) -> str:
    """Return a bucket's bound as it stands in ``le``: in the base unit, exactly, as Go writes numbers.

    Example:
        >>> bound_text(33.3, MetricUnit.MILLISECONDS), bound_text(5, MetricUnit.MEGABYTES)
        ('0.0333', '5e+06')
    """
    if math.isfinite(bound):
        bound = float(Decimal(repr(bound)) / Decimal(repr(BASE_UNITS.get(unit, ("", 1.0))[1])))
    if math.isinf(bound):
        return "+Inf" if bound > 0 else "-Inf"
    text = repr(bound)
    whole, point, rest = text.partition(".")
    # Go changes to exponents sooner than Python, and a number must be written in one way only.
    if bound > 0 and point and len(whole) > 6 and "e" not in rest:
        mantissa = f"{whole[0]}.{whole[1:]}{rest}".rstrip("0").rstrip(".")
        return f"{mantissa}e+{len(whole) - 1:02d}"
    return text


def replace_unreadable(text: str) -> str:
    """Return a text with a replacement character for each one that a server cannot read."""
    return UNREADABLE.sub("\ufffd", text)
