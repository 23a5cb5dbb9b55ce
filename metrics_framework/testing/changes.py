"""Reads the numbers of every series, and computes how much they changed between two reads.

Uses only `MetricsAggregator.get_metrics_by_tag`, so it works with every adapter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording.aggregates import sum_of
from metrics_framework.validation import safe_repr
from metrics_framework.values import MetricType, MetricValue


class HasAggregator(Protocol):
    """A system with an aggregator. Checks use nothing else of it."""

    @property
    def aggregator(self) -> MetricsAggregator:
        """Reads the recorded metrics."""
        ...


class SeriesKey(NamedTuple):
    """Identifies a series: the owner of one set of numbers.

    Attributes:
        name: The metric's or operation's name.
        kind: ``counter``, ``gauge``, ``histogram``, ``timer``, ``success`` or ``failure``. An operation's
            durations are a timer like any other.
        tags: The tags, sorted.
        error_type: The error type of a ``failure``.
    """

    name: str
    kind: str
    tags: tuple[tuple[str, str], ...] = ()
    error_type: str = ""


class NumberChange(NamedTuple):
    """The change of a number; for a gauge, its current value.

    Attributes:
        value: The number, without digits that are only a rounding error.
        tolerance: The possible rounding error. It is zero if all values are integers.
    """

    value: int | float
    tolerance: float

    def agrees_with(self, expected: object) -> bool:
        """Return whether this is the expected number. Other objects, such as matchers, decide by ``==``."""
        if isinstance(expected, int | float):
            return expected == self.value or abs(expected - self.value) <= self.tolerance
        return bool(expected == self.value)


Numbers = Mapping[str, int | float]
"""The numbers of a series: ``total`` of a counter, ``last`` of a gauge, ``count`` and ``sum`` of others."""

State = Mapping[SeriesKey, Numbers]


def aggregator_of(system: HasAggregator | MetricsAggregator) -> MetricsAggregator:
    """Return the aggregator of a system, or the aggregator itself.

    Raises:
        InvalidInputError: If the argument is neither.
    """
    found: Any = getattr(system, "aggregator", system)
    if isinstance(found, type) or not callable(getattr(found, "get_metrics_by_tag", None)):
        raise InvalidInputError(
            f"{safe_repr(system)} is not a metrics system: pass a MetricsSystem or a MetricsAggregator"
        )
    aggregator: MetricsAggregator = found
    return aggregator


def read(aggregator: MetricsAggregator) -> State:
    """Return the numbers of every series, without changing them."""
    state: dict[SeriesKey, dict[str, int | float]] = {}
    for value in aggregator.get_metrics_by_tag({}):
        for series, numbers in _split(value):
            sums = state.setdefault(series, {})
            for key, number in numbers.items():
                sums[key] = sums.get(key, 0) + number
    return state


def change(series: Iterable[SeriesKey], key: str, before: State, after: State) -> NumberChange | None:
    """Return how much a number of several series changed in all; for gauges, the sum of their values.

    Returns:
        ``None`` if the number does not exist: there is no such gauge, or the aggregator does not list it.
    """
    chosen = list(series)
    then = [before[each][key] for each in chosen if each in before and key in before[each]]
    now = [after[each][key] for each in chosen if each in after and key in after[each]]
    if not now and not then and (chosen or key == "last"):
        return None
    end, begin = sum_of(now), 0 if key == "last" else sum_of(then)
    if isinstance(end, int) and isinstance(begin, int):
        return NumberChange(end - begin, 0.0)
    largest = max(abs(end), abs(begin))
    noise = 4 * math.ulp(largest) if math.isfinite(largest) else 0.0
    return NumberChange(_shortest(end - begin, noise), 2 * noise)


def changed(before: State, after: State) -> list[SeriesKey]:
    """Return the changed series, sorted, including removed series, and new ones whose numbers are not 0."""
    return sorted(
        series
        for series in before.keys() | after.keys()
        if _moved(series, before.get(series), after.get(series))
    )


def _moved(series: SeriesKey, before: Numbers | None, after: Numbers | None) -> bool:
    if series.kind == "gauge":
        return before != after
    # A counter that was only declared, or increased by 0, did not change.
    then, now = before or {}, after or {}
    return any(then.get(key, 0) != now.get(key, 0) for key in {*then, *now})


def _shortest(number: float, noise: float) -> float:
    """Return the number with the fewest digits within ``noise``: 0.3 for 12.6 - 12.3."""
    for digits in range(1, 17):
        short = float(f"{number:.{digits}g}")
        if abs(short - number) <= noise:
            return short
    return number


def _split(value: MetricValue) -> Iterator[tuple[SeriesKey, Numbers]]:
    tags, metadata = tuple(sorted(value.tags.items())), value.metadata
    kind = value.metric_type.value
    if value.metric_type is MetricType.COUNTER:
        yield SeriesKey(value.name, kind, tags), {"total": value.value}
    elif value.metric_type is MetricType.GAUGE:
        yield SeriesKey(value.name, kind, tags), {"last": value.value}
    elif value.metric_type is not MetricType.RATE:
        yield (
            SeriesKey(value.name, kind, tags),
            {key: metadata[key] for key in ("count", "sum") if key in metadata},
        )
    elif "success_rate" in metadata:  # other rates are derived from values that are in the list, too
        successes = metadata.get("successes", round(metadata["count"] * metadata["success_rate"]))
        if successes:  # an operation that always failed is listed with its failures only
            yield SeriesKey(value.name, "success", tags), {"count": successes}
        for error_type, count in metadata.get("failures", {}).items():
            yield SeriesKey(value.name, "failure", tags, error_type), {"count": count}
