"""What there is to show of a system: each metric and operation, by the names and labels that are exposed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from metrics_adapters.prometheus.families import Heading, heading, labels_of
from metrics_framework.composition import store_of
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording import Description, OutcomeReading, SeriesReading, Store
from metrics_framework.recording.namespaces import Named
from metrics_framework.values import MetricType


class Subject(NamedTuple):
    """A metric, or one half of an operation.

    Attributes:
        named: What it was recorded as.
        heading: What it is exposed as.
        labels: The labels that tell its series apart, sorted; not those that all series of the process have.
        constant: Those, with their texts.
        merge: What a gauge of several series is as a whole.
    """

    named: Named
    heading: Heading
    labels: tuple[str, ...]
    constant: dict[str, str]
    merge: str


def subjects(aggregator: MetricsAggregator) -> list[Subject]:
    """Return all that an aggregator knows, sorted by name; of two that are exposed by one name the first."""
    store = store_of(aggregator)
    constant = dict(store.tags) if store is not None else {}
    tags: dict[Named, set[str]] = {}
    descriptions: dict[Named, Description] = {}
    for named, description, names in _of_values(aggregator) if store is None else _of_store(store):
        descriptions[named] = description
        tags.setdefault(named, set()).update(names)
    found: dict[str, Subject] = {}
    for named in sorted(tags, key=lambda named: (named.name, named.metric_type.value, named.is_operation)):
        head = heading(named, descriptions[named])
        of_all = _labels(head, {name: text for name, text in constant.items() if text})
        apart = _labels(head, dict.fromkeys(tags[named], "")).keys() - of_all.keys()
        merge = descriptions[named].merge
        found.setdefault(head.name, Subject(named, head, tuple(sorted(apart)), of_all, merge))
    return list(found.values())


def _labels(head: Heading, tags: Mapping[str, str]) -> dict[str, str]:
    return labels_of(tags, head.own_labels)


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
            continue  # a server works the rate of a counter out itself
        description = Description(unit=value.unit, help=str(value.metadata.get("help", "")))
        yield Named(value.name, value.metric_type, is_operation), description, value.tags
