"""What an aggregator lists, before and after: the numbers of every series, and how far they moved.

Everything is read by `MetricsAggregator.get_metrics_by_tag`, so any adapter will do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol, runtime_checkable

from metrics_framework.capabilities import HasAggregator
from metrics_framework.errors import InvalidInputError
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.recording.aggregates import sum_of
from metrics_framework.validation import safe_repr
from metrics_framework.values import MetricType, MetricValue


@runtime_checkable
class ListsMetrics(Protocol):
    """The one method of an aggregator that checks rely on."""

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series; see `MetricsAggregator.get_metrics_by_tag`."""
        ...


class Series(NamedTuple):
    """What numbers belong to.

    Attributes:
        name: The metric's or operation's name.
        kind: ``counter``, ``gauge``, ``histogram``, ``timer``, ``success`` or ``failure``. An operation's
            durations are a timer like any other.
        tags: Its tags, sorted.
        error_type: The kind of a ``failure``.
    """

    name: str
    kind: str
    tags: tuple[tuple[str, str], ...] = ()
    error_type: str = ""


class Change(NamedTuple):
    """How far a number moved; or, of a gauge, what it is.

    Attributes:
        value: The number, without the digits that only rounding left.
        tolerance: How far rounding may have moved it: zero where all was counted in integers.
    """

    value: int | float
    tolerance: float

    def agrees_with(self, expected: object) -> bool:
        """Return whether this is the expected number; what is no number decides by its ``==``."""
        if isinstance(expected, int | float):
            return expected == self.value or abs(expected - self.value) <= self.tolerance
        return bool(expected == self.value)


Numbers = Mapping[str, int | float]
"""The numbers of a series: ``total`` of a counter, ``last`` of a gauge, ``count`` (and ``sum``) of others."""

State = Mapping[Series, Numbers]


def aggregator_of(system: HasAggregator | MetricsAggregator) -> MetricsAggregator:
    """Return the aggregator of a system, or the aggregator that it is.

    Raises:
        InvalidInputError: If it is neither.
    """
    found = system.aggregator if isinstance(system, HasAggregator) else system
    if isinstance(found, type) or not isinstance(found, ListsMetrics):
        raise InvalidInputError(
            f"{safe_repr(system)} cannot be asked what was recorded: pass a MetricsSystem"
            " or a MetricsAggregator"
        )
    return found


def read(aggregator: MetricsAggregator) -> State:
    """Return the numbers of every series; reading changes none."""
    state: dict[Series, dict[str, int | float]] = {}
    for value in aggregator.get_metrics_by_tag({}):
        for series, numbers in _split(value):
            sums = state.setdefault(series, {})
            for key, number in numbers.items():
                sums[key] = sums.get(key, 0) + number
    return state


def change(series: Iterable[Series], key: str, before: State, after: State) -> Change | None:
    """Return how far a number of several series moved in all; of gauges what it is after.

    Returns:
        ``None`` where there is no such number: no gauge, or an aggregator that does not know it.
    """
    chosen = list(series)
    then = [before[each][key] for each in chosen if each in before and key in before[each]]
    now = [after[each][key] for each in chosen if each in after and key in after[each]]
    if not now and not then and (chosen or key == "last"):
        return None
    end, begin = sum_of(now), 0 if key == "last" else sum_of(then)
    if isinstance(end, int) and isinstance(begin, int):
        return Change(end - begin, 0.0)
    largest = max(abs(end), abs(begin))
    noise = 4 * math.ulp(largest) if math.isfinite(largest) else 0.0
    return Change(_shortest(end - begin, noise), 2 * noise)


def changed(before: State, after: State) -> list[Series]:
    """Return the series whose numbers differ, sorted; also one that is new with a number, or gone."""
    return sorted(
        series
        for series in before.keys() | after.keys()
        if _moved(series, before.get(series), after.get(series))
    )


def _moved(series: Series, before: Numbers | None, after: Numbers | None) -> bool:
    if series.kind == "gauge":
        return before != after
    # A counter that is declared, or given a zero, counted nothing.
    then, now = before or {}, after or {}
    return any(then.get(key, 0) != now.get(key, 0) for key in {*then, *now})


def _shortest(number: float, noise: float) -> float:
    """Return the number of the fewest digits within ``noise``: 0.3 for 12.6 - 12.3."""
    for digits in range(1, 17):
        short = float(f"{number:.{digits}g}")
        if abs(short - number) <= noise:
            return short
    return number


def _split(value: MetricValue) -> Iterator[tuple[Series, Numbers]]:
    tags, metadata = tuple(sorted(value.tags.items())), value.metadata
    kind = value.metric_type.value
    if value.metric_type is MetricType.COUNTER:
        yield Series(value.name, kind, tags), {"total": value.value}
    elif value.metric_type is MetricType.GAUGE:
        yield Series(value.name, kind, tags), {"last": value.value}
    elif value.metric_type is not MetricType.RATE:
        yield (
            Series(value.name, kind, tags),
            {key: metadata[key] for key in ("count", "sum") if key in metadata},
        )
    elif "success_rate" in metadata:  # any other rate is derived from what is listed already
        successes = metadata.get("successes", round(metadata["count"] * metadata["success_rate"]))
        if successes:  # what only ever failed has no successes to list, as what succeeded has no failures
            yield Series(value.name, "success", tags), {"count": successes}
        for error_type, count in metadata.get("failures", {}).items():
            yield Series(value.name, "failure", tags, error_type), {"count": count}
