"""The metrics of a system, by the names and labels under which Prometheus has them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from metrics_framework.exposition.families import FamilyHeader, family_header, series_labels
from metrics_framework.exposition.names import Escaping
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Description, OutcomeReading, SeriesReading, Store
from metrics_framework.recording.exposed_names import Named
from metrics_framework.recording.store import store_of
from metrics_framework.values import MetricType


class ExposedMetric(NamedTuple):
    """A metric, or the durations or outcomes of an operation, as it is exposed.

    Attributes:
        named: The recorded name and type.
        heading: The exposed name, type and unit.
        utf_8_name: The exposed name for a scraper that accepts UTF-8.
        labels: The names of the labels that differ between its series, sorted.
        constant: The labels that all series of the process have.
        merge: How the series of a gauge are combined.
    """

    named: Named
    heading: FamilyHeader
    utf_8_name: str
    labels: tuple[str, ...]
    constant: dict[str, str]
    merge: str


def exposed_metrics(aggregator: MetricsAggregator) -> list[ExposedMetric]:
    """Return the metrics of an aggregator, sorted by name. Of two with one exposed name, the first wins."""
    store = store_of(aggregator)
    constant = dict(store.tags) if store is not None else {}
    tags: dict[Named, set[str]] = {}
    descriptions: dict[Named, Description] = {}
    for named, description, names in _of_values(aggregator) if store is None else _of_store(store):
        descriptions[named] = description
        tags.setdefault(named, set()).update(names)
    found: dict[str, ExposedMetric] = {}
    for named in sorted(tags, key=lambda named: (named.name, named.metric_type.value, named.is_operation)):
        head = family_header(named, descriptions[named])
        of_all = _labels(head, {name: text for name, text in constant.items() if text})
        apart = _labels(head, dict.fromkeys(tags[named], "")).keys() - of_all.keys()
        merge = descriptions[named].merge
        utf_8_name = family_header(named, descriptions[named], Escaping.ALLOW_UTF_8).name
        exposed = ExposedMetric(named, head, utf_8_name, tuple(sorted(apart)), of_all, merge)
        found.setdefault(head.name, exposed)
    return list(found.values())


def _labels(head: FamilyHeader, tags: Mapping[str, str]) -> dict[str, str]:
    return series_labels(tags, head.own_labels)


def _of_store(store: Store) -> Iterator[tuple[Named, Description, Iterable[str]]]:
    readings: Iterable[tuple[bool, SeriesReading | OutcomeReading]] = chain(
        ((False, reading) for reading in store.iter_readings()),
        ((True, reading) for reading in store.iter_timing_readings()),
        ((True, reading) for reading in store.iter_outcome_readings()),
    )
    for is_operation, reading in readings:
        metric_type = reading.metric_type if isinstance(reading, SeriesReading) else MetricType.RATE
        named = Named(reading.name, metric_type, is_operation)
        yield named, store.description(reading.name), reading.tags


def _of_values(aggregator: MetricsAggregator) -> Iterator[tuple[Named, Description, Iterable[str]]]:
    for value in aggregator.get_metrics_by_tag({}):
        is_operation = bool(value.metadata.get("operation"))
        if value.metric_type is MetricType.RATE and not is_operation:
            continue  # Prometheus derives the rate of a counter
        description = Description(unit=value.unit, help=str(value.metadata.get("help", "")))
        yield Named(value.name, value.metric_type, is_operation), description, value.tags
