"""Metric families of Prometheus: the names, units, labels and samples of a store, before they become text.

A `FamilyReader` reads a store, and `value_families` the values of any aggregator. Names and units follow
`metrics_framework.exposition.names`. Histograms and timers become classic histograms.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from decimal import Decimal
from functools import cache, lru_cache
from itertools import accumulate, chain, repeat
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from metrics_framework.exposition.names import BASE_UNITS, Escaping, in_base_unit, metric_name, tag_labels
from metrics_framework.log import LogOnce
from metrics_framework.recording import Description, Store
from metrics_framework.recording.engine import read_values
from metrics_framework.recording.exposed_names import Named
from metrics_framework.recording.metric import Metric, read_counts
from metrics_framework.values import MetricType, MetricUnit, MetricValue

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
UNREADABLE = re.compile("[\x00\ud800-\udfff]")
"""Characters that cannot be sent: UTF-8 cannot encode surrogates, and Prometheus ends a text at NUL."""

MAX_SHARED_LABELS = 1_000
"""The number of combinations of tag names whose labels all metrics share. Most metrics have the same few."""


class Sample(NamedTuple):
    """One number: the name, the labels, and the value in base units.

    It has the layout of a sample of prometheus_client, which renders it without a conversion.
    """

    name: str
    labels: dict[str, str]
    value: float
    timestamp: None = None
    exemplar: None = None
    native_histogram: None = None


def _make_samples(
    names: Iterable[str], labels: Iterable[dict[str, str]], values: Iterable[float]
) -> list[Sample]:
    # Twice as fast as a call of the constructor for each.
    columns = zip(names, labels, values, repeat(None), repeat(None), repeat(None), strict=False)
    return [*map(tuple.__new__, repeat(Sample), columns)]


class FamilyHeader(NamedTuple):
    """Describes a family: the name, type, help and unit that all of its samples share.

    Attributes:
        name: The name as in OpenMetrics: that of a counter does not end in ``_total``.
        type: ``counter``, ``gauge`` or ``histogram``.
        help: The help text.
        unit: The base unit, or an empty text. The name ends in it, unless it is that of an escaped counter.
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


class ExpositionLog(LogOnce):
    """Logs what cannot be exposed, each message once. One metric that fails affects no other."""

    def fail(self, named: object, error: Exception) -> None:
        """Log that a metric or a collector of a registry could not be rendered."""
        self.log("error", "metric cannot be exposed", metric=str(named), error=repr(error))

    def warn(self, event: str, **fields: object) -> None:
        """Log a warning unless it was logged before."""
        self.log("warning", event, **fields)


# -- headers -----------------------------------------------------------------------------------------------


def exposed_names(named: Named, unit: MetricUnit | None) -> list[str]:
    """Return every name that the family of a metric or operation reserves, escaped and unescaped.

    Example:
        >>> exposed_names(Named("cache.size", MetricType.GAUGE, False), MetricUnit.KILOBYTES)
        ['cache_size_bytes']
        >>> exposed_names(Named("缓存", MetricType.GAUGE, False), None)
        ['U___7f13__5b58_', '缓存']
    """
    schemes = [Escaping.VALUES] if named.name.isascii() else [Escaping.VALUES, Escaping.ALLOW_UTF_8]
    names = [family_name(named, unit, escaping) for escaping in schemes]
    return [f"{name}{suffix}" for name in names for suffix in SUFFIXES[_TYPES[named.metric_type]]]


def family_names(named: Named, unit: MetricUnit | None, header: FamilyHeader) -> list[str]:
    """Return the `exposed_names` of a metric or operation whose header is known, which is faster."""
    if named.name.isascii():
        return [f"{header.name}{suffix}" for suffix in SUFFIXES[header.type]]
    return exposed_names(named, unit)


def family_name(named: Named, unit: MetricUnit | None, escaping: Escaping = Escaping.VALUES) -> str:
    """Return the name of the family of a metric or operation."""
    return _name(named.name, _family_kind(named.metric_type, named.is_operation, unit), escaping)


def family_header(
    named: Named, description: Description, escaping: Escaping = Escaping.VALUES
) -> FamilyHeader:
    """Return the header of the family of a metric or operation.

    Args:
        named: Its name and type.
        description: Its description. The numbers of a timer are milliseconds.
        escaping: How names outside the classic character set are exposed.
    """
    is_timer = named.metric_type is MetricType.TIMER
    unit = MetricUnit.MILLISECONDS if is_timer else description.unit
    return _header(named, unit, description.help, escaping)


def _header(
    named: Named, unit: MetricUnit | None, help: str, escaping: Escaping = Escaping.VALUES
) -> FamilyHeader:
    name, metric_type, is_operation = named
    kind = _family_kind(metric_type, is_operation, unit)
    return FamilyHeader(
        _name(name, kind, escaping),
        kind.type,
        replace_unreadable(help) if help else f"{kind.what} {name!r}{kind.end}",
        kind.base_unit,
        kind.unit,
        kind.own_labels,
    )


class _FamilyKind(NamedTuple):
    """What the families of one type and unit have in common.

    Attributes:
        type: ``counter``, ``gauge`` or ``histogram``.
        suffix: What follows the recorded name.
        suffix_unit: The unit that the name ends in: that of all timers is seconds.
        unit: The unit in which the numbers are recorded.
        base_unit: The base unit, or an empty text.
        own_labels: The labels of the format itself.
        what: The beginning of the help text of a metric that is not described, up to its name.
        end: The rest of that help text.
    """

    type: str
    suffix: str
    suffix_unit: MetricUnit
    unit: MetricUnit
    base_unit: str
    own_labels: tuple[str, ...]
    what: str
    end: str


@cache
def _family_kind(metric_type: MetricType, is_operation: bool, unit: MetricUnit | None) -> _FamilyKind:
    type_, suffix, what = _TYPES[metric_type], "", metric_type.value.capitalize()
    own_labels: tuple[str, ...] = ("le",) if type_ == "histogram" else ()
    if is_operation:
        what = "Duration of operation"
    if metric_type is MetricType.RATE:
        unit, suffix, own_labels = None, "_operations", ("outcome", "error_type")
        what = "Outcomes of operation" if is_operation else what
    suffix_unit = unit = unit or MetricUnit.COUNT
    if metric_type is MetricType.TIMER:
        suffix_unit, suffix = MetricUnit.MILLISECONDS, "_duration" if is_operation else ""
    base_unit = BASE_UNITS.get(unit, ("", 1.0))[0]
    end = f" in {base_unit}." if base_unit else "."
    return _FamilyKind(type_, suffix, suffix_unit, unit, base_unit, own_labels, what, end)


def _name(name: str, kind: _FamilyKind, escaping: Escaping) -> str:
    # Colons are reserved for recording rules, and prometheus_client formats them in two ways.
    name = f"{name}{kind.suffix}".replace(":", "_")
    is_counter = kind.type == "counter"
    exposed = metric_name(name, kind.suffix_unit, counter=is_counter, escaping=escaping)
    return exposed.removesuffix("_total") if is_counter else exposed


class UniqueNames:
    """Finds families that would have a name of another one. Only the first is exposed.

    Args:
        log: Logs families that are left out.
        taken: Names that families of other sources have, and the owner of each.
    """

    def __init__(self, log: ExpositionLog, taken: Mapping[str, str]) -> None:
        self._owners: dict[str, object] = {**taken}
        self._log = log

    def admit(self, named: Named, names: Iterable[str]) -> bool:
        """Return whether no earlier family and no other source has any of the names of a family."""
        owners = self._owners
        if owners.keys().isdisjoint(names):
            owners.update(dict.fromkeys(names, named))
            return True
        owner = str(next(owners[name] for name in names if name in owners))
        self._log.warn("a metric is not exposed: its name is taken", metric=str(named), owner=owner)
        return False


class ExposedFamily(NamedTuple):
    """The family of a metric, or of one half of an operation, without its samples.

    Attributes:
        named: Its name and type.
        metric: Holds its series.
        description: Its description.
        header: The header of its family.
        names: The exposed names of the family.
    """

    named: Named
    metric: Metric
    description: Description
    header: FamilyHeader
    names: Sequence[str]


class ExposedFamilies:
    """The families of a store that are exposed: those whose names no other one has. Thread-safe.

    Args:
        store: The store. Its histograms and timers have buckets from now on.
        taken: Returns the names that families of other sources have, and the owner of each.

    Attributes:
        store: The store.
        log: Logs what cannot be exposed.
    """

    def __init__(self, store: Store, taken: Callable[[], Mapping[str, str]] | None = None) -> None:
        store.expose_buckets()
        self.store = store
        self.log = ExpositionLog()
        self._taken = taken
        self._kept: tuple[object, list[ExposedFamily]] = (None, [])

    def current(self) -> list[ExposedFamily]:
        """Return the families: the same list until a metric is added, removed or described."""
        # The version is read first: a description that changes meanwhile has another one.
        version, metrics = self.store.descriptions_version, self.store.metrics()
        key = (version, metrics, {} if self._taken is None else self._taken())
        kept, exposed = self._kept
        if kept != key:
            exposed = self._admitted(metrics, key[2], exposed)
            self._kept = key, exposed
        return exposed

    def _admitted(
        self,
        metrics: Iterable[tuple[Named, Metric]],
        taken: Mapping[str, str],
        before: Iterable[ExposedFamily],
    ) -> list[ExposedFamily]:
        unique, known = UniqueNames(self.log, taken), {each.metric: each for each in before}
        exposed: list[ExposedFamily] = []
        for named, metric in metrics:
            try:
                each, description = known.get(metric), self.store.description(named.name)
                if each is None or each.description != description:
                    header = family_header(named, description)
                    names = family_names(named, description.unit, header)
                    each = ExposedFamily(named, metric, description, header, names)
                if unique.admit(named, each.names):
                    exposed.append(each)
            except Exception as error:  # noqa: BLE001 - the other metrics must be exposed
                self.log.fail(named, error)
        return exposed


# -- families ----------------------------------------------------------------------------------------------


class FamilyReader:
    """Reads the families of a store. Labels are kept until a series is added or removed. Thread-safe.

    Args:
        exposed: The families of the store.
    """

    def __init__(self, exposed: ExposedFamilies) -> None:
        self.store = exposed.store
        self._exposed = exposed
        self._log = exposed.log
        self._kept: dict[Metric, _LabelledSeries] = {}
        self._tag_labels: dict[tuple[object, ...], TagLabels] = {}

    def families(self, only: Named | None = None) -> Iterator[Family]:
        """Yield the families with their current values.

        Args:
            only: The one metric or operation to read; by default all.
        """
        every = self._exposed.current()
        for exposed in every if only is None else [each for each in every if each.named == only]:
            try:
                samples = _series_samples(self._labelled_series(exposed))
            except Exception as error:  # noqa: BLE001 - the other metrics must be exposed
                self._log.fail(exposed.named, error)
                continue
            if samples:
                yield Family(exposed.header, samples)
        if len(self._kept) > len(every):
            for gone in list(self._kept.keys() - {each.metric for each in every}):
                self._kept.pop(gone, None)

    def _labelled_series(self, exposed: ExposedFamily) -> _LabelledSeries:
        metric = exposed.metric
        self.store.expire(metric, metric.series())
        metric.expose()
        kept = self._kept.get(metric)
        # Read before the series: if one is added meanwhile, the version changes again.
        version = metric.version
        if kept is None or kept.version is not version or kept.exposed is not exposed:
            kept = _LabelledSeries(version, exposed, *self._series_with_labels(metric, exposed.header))
            self._kept[metric] = kept
        return kept

    def _series_with_labels(
        self, metric: Metric, header: FamilyHeader
    ) -> tuple[Sequence[Any], Sequence[dict[str, str]]]:
        constants, tag_sets = self.store.tags, list(metric.tag_sets.values())
        if len(tag_sets) == 1:
            key = (tag_sets[0].names, header.own_labels)
            tag_labels = self._tag_labels.get(key)
            if tag_labels is None:
                tag_labels = TagLabels(tag_sets[0].names, constants, header.own_labels)
                if len(self._tag_labels) < MAX_SHARED_LABELS:
                    self._tag_labels[key] = tag_labels
            members = tag_sets[0].series()
            different = tag_labels.of([one.values for one in members])
            if different is not None:
                return members, different
        unique = UniqueLabels(metric.named, self._log)
        found = [
            (each, series_labels({**constants, **each.tags}, header.own_labels)) for each in metric.series()
        ]
        admitted = [(each, labels) for each, labels in found if unique.admit(labels)]
        return [each for each, _ in admitted], [labels for _, labels in admitted]


class _LabelledSeries(NamedTuple):
    """The series of a metric with their labels, for one version of the metric."""

    version: object
    exposed: ExposedFamily
    series: Sequence[Any]
    labels: Sequence[dict[str, str]]


NOTHING_TAKEN: Mapping[str, str] = MappingProxyType({})


def value_families(
    values: Iterable[MetricValue],
    log: ExpositionLog,
    taken: Mapping[str, str] = NOTHING_TAKEN,
) -> Iterator[Family]:
    """Yield the families of the values of an aggregator.

    The contract of an aggregator does not require buckets: without any, a histogram has only its count and
    sum. Operations have two families. Rates of counters are left out: Prometheus computes them.

    Args:
        values: The values.
        log: Logs families with the same names, and series with the same or different labels.
        taken: Names that families of other sources have, and the owner of each.
    """
    by_name: dict[tuple[Named, MetricUnit], list[MetricValue]] = {}
    for value in values:
        named = Named(value.name, value.metric_type, bool(value.metadata.get("operation", False)))
        if named.is_operation or named.metric_type is not MetricType.RATE:
            by_name.setdefault((named, value.unit), []).append(value)
    unique = UniqueNames(log, taken)
    for (named, unit), series in by_name.items():
        header = _header(named, unit, str(series[0].metadata.get("help", "")))
        if unique.admit(named, exposed_names(named, unit)):
            labels = UniqueLabels(named, log)
            samples = [
                sample
                for value in series
                if labels.admit(own := series_labels(value.tags, header.own_labels))
                for sample in _value_samples(value, own, header)
            ]
            if samples:
                yield Family(header, samples)


class TagLabels:
    """The labels of many series with the same tag names.

    Args:
        names: The tag names.
        constants: The constant tags of the store.
        own_labels: The labels of the format itself, such as ``le``.
        escaping: How names outside the classic character set are written.

    Attributes:
        labels: The names of the labels.
        is_simple: Whether each tag has its own label, so that different tags always mean different labels.
    """

    def __init__(
        self,
        names: Sequence[str],
        constants: Mapping[str, str],
        own_labels: Container[str],
        escaping: Escaping = Escaping.VALUES,
    ) -> None:
        self._slots = [f"\0{place}\0" for place in range(len(names))]
        tags = {**constants, **dict(zip(names, self._slots, strict=True))}
        self._pattern = tag_labels(tags, own_labels, escaping)
        self._slot_labels = [label for label, text in self._pattern.items() if text.startswith("\0")]
        self.labels = frozenset(self._pattern)
        # A constant tag that is also a tag of the series keeps its place, which may change the order.
        in_order = [self._pattern[label] for label in self._slot_labels] == self._slots
        texts = all(text and not UNREADABLE.search(text) for text in constants.values())
        self.is_simple = len(self._pattern) == len(tags) and in_order and texts

    def of(self, tag_values: Sequence[Sequence[str]]) -> list[dict[str, str]] | None:
        """Return the labels of each series; ``None`` if some may be equal or cannot be sent.

        Args:
            tag_values: The tag values of each series, in the order of the tag names.
        """
        if not self.is_simple or not can_be_sent([*chain.from_iterable(tag_values)]):
            return None
        if len(self._slot_labels) < len(self._pattern):  # there are constants
            pattern, names = self._pattern, self._slot_labels
            return [{**pattern, **dict(zip(names, values, strict=True))} for values in tag_values]
        return [dict(zip(self._slot_labels, values, strict=True)) for values in tag_values]


def can_be_sent(values: Sequence[str]) -> bool:
    """Return whether no tag value is empty or has characters that cannot be sent.

    It may take values that have several line breaks for empty ones.
    """
    together = "\n".join(values)
    return not values or not (UNREADABLE.search(together) or "\n\n" in f"\n{together}\n")


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
        self._names: Set[str] | None = None

    def admit(self, labels: Mapping[str, str]) -> bool:
        """Return whether no earlier series had these labels, apart from labels without a text."""
        identity = frozenset(
            labels.items() if all(labels.values()) else filter(itemgetter(1), labels.items())
        )
        if identity in self._known:
            self._log.warn(
                "a series is not exposed: another one has its labels", metric=str(self._named), labels=labels
            )
            return False
        self._known.add(identity)
        if self._names is None:
            self._names = labels.keys()
        elif labels.keys() != self._names:  # most queries expect the same names in all series
            self._log.warn("the series of one name have different tags", metric=str(self._named))
        return True


def series_labels(
    tags: Mapping[str, str], own_labels: Container[str], escaping: Escaping = Escaping.VALUES
) -> dict[str, str]:
    """Return the labels for some tags, without characters that cannot be sent."""
    labels = tag_labels(tags, own_labels, escaping)
    if UNREADABLE.search("".join(labels.values())):
        labels = {name: replace_unreadable(text) for name, text in labels.items()}
    return labels


def replace_unreadable(text: str) -> str:
    """Replace each character that cannot be sent by U+FFFD."""
    return text if text.isascii() and "\0" not in text else UNREADABLE.sub("\ufffd", text)


# -- samples -----------------------------------------------------------------------------------------------


def _series_samples(kept: _LabelledSeries) -> list[Sample]:
    header, metric_type = kept.exposed.header, kept.exposed.named.metric_type
    if metric_type in (MetricType.COUNTER, MetricType.GAUGE):
        name = f"{header.name}_total" if header.type == "counter" else header.name
        values = read_values(kept.series)
        samples = _make_samples(repeat(name), kept.labels, in_base_units(values, header.recorded_unit))
        if all(values):
            return samples
        # A series without records also reads as 0.
        return [
            one for one, series in zip(samples, kept.series, strict=True) if one.value or has_records(series)
        ]
    samples = []
    if metric_type is MetricType.RATE:
        for series, labels in zip(kept.series, kept.labels, strict=True):
            outcomes = series.state()
            if outcomes is not None:
                samples += _outcome_samples(header, labels, outcomes.successes, outcomes.failures)
        return samples
    for series, labels in zip(kept.series, kept.labels, strict=True):
        state: Any = read_counts(series)
        if state is not None:
            distribution, (bounds, counts, total) = state
            total = total if has_sum(bounds, distribution.min) else None
            samples += _histogram_samples(header, labels, bounds, [*accumulate(counts)], total)
    return samples


def has_records(series: Any) -> bool:
    """Return whether a series has records."""
    # On the manual clock of a test, the time of the first record may be 0.
    return series.created_ns != 0 or series.state() is not None


def in_base_units(values: Sequence[float], unit: MetricUnit) -> Sequence[float]:
    """Convert recorded numbers of a unit to its base unit; see `in_base_unit`."""
    if BASE_UNITS.get(unit, ("", 1.0))[1] == 1:
        return values
    return [in_base_unit(value, unit) for value in values]


def _value_samples(value: MetricValue, labels: dict[str, str], header: FamilyHeader) -> Iterable[Sample]:
    metadata = value.metadata
    if header.type == "histogram":
        found = metadata.get("buckets", {})
        counts = {float(bound): count for bound, count in found.get("counts", {}).items()}
        count = max(counts.values(), default=metadata.get("count"))
        if count is None:
            return ()
        bounds = tuple(sorted(counts.keys() - {math.inf}))
        total = found.get("sum", metadata.get("sum")) if has_sum(bounds, metadata.get("min", 0)) else None
        cumulated = [*(counts[bound] for bound in bounds), count]
        return _histogram_samples(header, labels, bounds, cumulated, total)
    if value.metric_type is MetricType.RATE:
        successes, failures = metadata.get("successes"), metadata.get("failures")
        if successes is None or failures is None:  # the contract requires only `count` and `success_rate`
            successes = round(metadata["count"] * metadata["success_rate"])
            failures = {"": metadata["count"] - successes}
        return _outcome_samples(header, labels, successes, failures)
    name = f"{header.name}_total" if header.type == "counter" else header.name
    return [Sample(name, labels, in_base_unit(value.value, header.recorded_unit))]


def _outcome_samples(
    header: FamilyHeader, labels: dict[str, str], successes: int, failures: Mapping[str, int]
) -> list[Sample]:
    counts = failure_counts(failures)
    outcomes = [{**labels, "outcome": "failure", "error_type": error_type} for error_type in counts]
    success = {**labels, "outcome": "success", "error_type": ""}
    name = f"{header.name}_total"
    return _make_samples(repeat(name), [success, *outcomes], [successes, *counts.values()])


def failure_counts(failures: Mapping[str, int]) -> dict[str, int]:
    """Return failures by error type, without characters that cannot be sent.

    There is always a count of 0 without an error type: the failures of an operation begin at 0 together with
    its successes, so that a query over all failures has a value to compare the first failure with.
    """
    counts: dict[str, int] = {"": 0}
    for error_type, number in failures.items():
        text = replace_unreadable(error_type)
        counts[text] = counts.get(text, 0) + number
    return counts


def _histogram_samples(
    header: FamilyHeader,
    labels: dict[str, str],
    bounds: tuple[float, ...],
    cumulated: Sequence[int],
    total: float | None,
) -> list[Sample]:
    unit, name = header.recorded_unit, header.name
    bucket_labels: Sequence[dict[str, str]] = _bucket_labels(bounds, unit)
    counts: Sequence[float] = cumulated
    if len(bucket_labels) < len(cumulated):
        counts = [cumulated[place] for place in bucket_places(bounds, unit).values()]
    if labels:
        bucket_labels = [{**labels, **own} for own in bucket_labels]
    names = [f"{name}_bucket"] * len(bucket_labels)
    names.append(f"{name}_count")
    values: list[float] = [*counts, cumulated[-1]]
    if total is not None:
        names.append(f"{name}_sum")
        values.append(in_base_unit(total, unit))
    return _make_samples(names, [*bucket_labels, labels, labels], values)


@lru_cache(maxsize=1_000)
def _bucket_labels(bounds: tuple[float, ...], unit: MetricUnit) -> Sequence[dict[str, str]]:
    """Return the label of each bucket. Histograms without other labels share them."""
    return [{"le": bound} for bound in bucket_places(bounds, unit)]


def has_sum(bounds: tuple[float, ...], lowest: float) -> bool:
    """Return whether the sum of a histogram is exposed: one that can fall would look like a counter reset."""
    return lowest >= 0 and not (bounds and bounds[0] < 0)


@lru_cache(maxsize=1_000)
def bucket_places(bounds: tuple[float, ...], unit: MetricUnit) -> dict[str, int]:
    """Return the ``le`` of each bucket, in the base unit, with the place of its cumulated count.

    Two bounds that are equal in the base unit become one bucket, up to the higher bound.
    """
    return {bound_text(bound, unit): place for place, bound in enumerate((*bounds, math.inf))}


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
