"""Metric families of Prometheus: the names, units, labels and samples of a store, before they become text.

Names and units follow `metrics_framework.exposition.names`. Histograms and timers become classic histograms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from typing import NamedTuple, TypeVar

from metrics_framework.exposition.names import BASE_UNITS, in_base_unit, metric_name, tag_labels
from metrics_framework.log import Isolation, log_event
from metrics_framework.recording import Description, OutcomeReading, SeriesReading, Store
from metrics_framework.recording.buckets import BucketCounts
from metrics_framework.recording.namespaces import Named
from metrics_framework.values import MetricType, MetricUnit

T = TypeVar("T")

DEFAULT_BUCKETS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
"""The default buckets of prometheus_client."""

MAX_WARNINGS = 1_000
"""The highest number of messages that one `ExpositionLog` remembers and logs."""

SUFFIXES = {
    "counter": ("", "_total", "_created"),
    "gauge": ("",),
    "histogram": ("", "_bucket", "_sum", "_count", "_created"),
}
"""Suffixes of the names that a family reserves, by type: in OpenMetrics 1.0 no other family may use them."""

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
"""Characters that cannot be sent: UTF-8 cannot encode surrogates, and Prometheus ends a text at NUL."""


class Sample(NamedTuple):
    """One number: the suffix after the family's name, the labels, and the value in base units."""

    suffix: str
    labels: dict[str, str]
    value: float


class FamilyHeader(NamedTuple):
    """Describes a family: the name, type, help and unit that all of its samples share.

    Attributes:
        name: The name as in OpenMetrics: that of a counter does not end in ``_total``.
        type: ``counter``, ``gauge`` or ``histogram``.
        help: The help text, which may be empty.
        unit: The base unit at the end of the name, or an empty text.
        recorded_unit: The unit in which the numbers are recorded.
        own_labels: The labels of the format itself, such as ``le``. A tag of that name is renamed.
    """

    name: str
    type: str
    help: str
    unit: str
    recorded_unit: MetricUnit
    own_labels: tuple[str, ...]


class Family(NamedTuple):
    """A header and all samples of one name, series by series."""

    header: FamilyHeader
    samples: list[Sample]


Result = SeriesReading | OutcomeReading


class ExpositionLog:
    """Logs what cannot be exposed, each message once. One metric that fails affects no other."""

    def __init__(self) -> None:
        self._isolation = Isolation()
        self._logged: set[str] = set()

    def attempt(self, named: Named, make: Callable[[], T]) -> T | None:
        """Call a function for a metric and return its result, or ``None`` if it raised, which is logged."""
        return self._isolation.call("metric cannot be exposed", make, metric=str(named))

    def fail(self, named: object, error: Exception) -> None:
        """Log that a metric or a collector of a registry could not be rendered."""
        self._log_once("error", "metric cannot be exposed", metric=str(named), error=repr(error))

    def warn(self, event: str, **fields: object) -> None:
        """Log a warning unless it was logged before."""
        self._log_once("warning", event, **fields)

    def _log_once(self, level: str, event: str, **fields: object) -> None:
        key = f"{event} {fields}"
        if key not in self._logged and len(self._logged) < MAX_WARNINGS:
            self._logged.add(key)
            log_event(level, event, **fields)


def set_default_buckets(store: Store) -> None:
    """Give a store the default buckets of prometheus_client if it has no default buckets.

    Earlier values are counted from their distribution: the counts of more than 128 values are estimates.
    """
    if not store.default_buckets:
        store.default_buckets = DEFAULT_BUCKETS_SECONDS


def exposed_names(named: Named, unit: MetricUnit | None) -> list[str]:
    """Return every name that the family of a metric or operation reserves.

    Example:
        >>> exposed_names(Named("cache.size", MetricType.GAUGE, False), MetricUnit.KILOBYTES)
        ['cache_size_bytes']
    """
    name = family_name(named, unit)
    return [f"{name}{suffix}" for suffix in SUFFIXES[_TYPES[named.metric_type]]]


def family_name(named: Named, unit: MetricUnit | None) -> str:
    """Return the name of the family of a metric or operation."""
    name, metric_type, is_operation = named
    if metric_type is MetricType.RATE:
        name, unit = f"{name}_operations", None
    elif metric_type is MetricType.TIMER:
        name, unit = f"{name}_duration" if is_operation else name, MetricUnit.MILLISECONDS
    # Colons are reserved for recording rules, and prometheus_client formats them in two ways.
    exposed = metric_name(
        name.replace(":", "_"),
        unit or MetricUnit.COUNT,
        counter=metric_type in (MetricType.COUNTER, MetricType.RATE),
    )
    return exposed.removesuffix("_total") if _TYPES[metric_type] == "counter" else exposed


def families(store: Store, log: ExpositionLog) -> Iterator[Family]:
    """Yield the families of a store with their current values.

    Args:
        store: The store to read.
        log: Logs families that fail, names with different tags, and series with the same labels.
    """
    for _, metric in store.metrics():
        # Set before the counts are read: new bounds restart the series from now on.
        metric.exposed = True
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
        named: Its name and type.
        series: All of its series.
        description: Its description.
        log: Logs different tags, and series with the same labels.
    """
    head = family_header(named, description)
    unique = UniqueLabels(named, log)
    samples: list[Sample] = []
    for reading in series:
        labels = series_labels(reading.tags, head.own_labels)
        if unique.admit(labels):
            samples += _samples(reading, labels, head.recorded_unit)
    return Family(head, samples)


def family_header(named: Named, description: Description) -> FamilyHeader:
    """Return the header of the family of a metric or operation.

    Args:
        named: Its name and type.
        description: Its description.
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
    """Finds series of one family with the same labels, of which only the first is exposed.

    Args:
        named: The metric or operation.
        log: Logs series that are left out, and series with different tags.
    """

    def __init__(self, named: Named, log: ExpositionLog) -> None:
        self._named = named
        self._log = log
        self._known: set[frozenset[tuple[str, str]]] = set()
        self._names: set[frozenset[str]] = set()

    def admit(self, labels: Mapping[str, str]) -> bool:
        """Return whether no earlier series had these labels, apart from labels without a text."""
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
        """Log if the label names of two series differ: most queries expect the same names in all series."""
        self._names.add(frozenset(names))
        if len(self._names) > 1:
            self._log.warn("the series of one name have different tags", metric=str(self._named))


def series_labels(tags: Mapping[str, str], own_labels: Container[str]) -> dict[str, str]:
    """Return the labels for some tags, without characters that cannot be sent."""
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
        # Two bounds that are equal in the base unit become one bucket, up to the higher bound.
        counts = {bound_text(bound, unit): count for bound, count in buckets.cumulated().items()}
        for le, count in counts.items():
            yield Sample("_bucket", {**labels, "le": le}, count)
        # A sum that can fall would look like a counter reset, and without it there is no count either
        # (OpenMetrics 1.0, "Histogram").
        if reading.distribution.min >= 0 and not (buckets.bounds and buckets.bounds[0] < 0):
            yield Sample("_count", labels, counts["+Inf"])
            yield Sample("_sum", labels, in_base_unit(buckets.total, unit))


def failure_counts(failures: Mapping[str, int]) -> dict[str, int]:
    """Return failures by error type, without characters that cannot be sent."""
    counts: dict[str, int] = {}
    for error_type, number in failures.items():
        text = replace_unreadable(error_type)
        counts[text] = counts.get(text, 0) + number
    return counts


def bound_text(bound: float, unit: MetricUnit) -> str:
    """Return the bound of a bucket as the text of ``le``: exactly, in the base unit, formatted as Go does.

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
    # Go uses exponents for smaller numbers than Python does; a bound must have the same text everywhere.
    if bound > 0 and point and len(whole) > 6 and "e" not in rest:
        mantissa = f"{whole[0]}.{whole[1:]}{rest}".rstrip("0").rstrip(".")
        return f"{mantissa}e+{len(whole) - 1:02d}"
    return text


def replace_unreadable(text: str) -> str:
    """Replace each character that cannot be sent by U+FFFD."""
    return UNREADABLE.sub("\ufffd", text)
