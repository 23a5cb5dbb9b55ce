"""Metric views: the metrics and operations of an aggregator, grouped from one reading of all series."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from heapq import nsmallest
from itertools import chain
from typing import Any

from metrics_framework.recording import MetricReading
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.values import MetricType, MetricUnit, MetricValue

MAX_FLOAT = sys.float_info.max

MAX_TEXT = 200
"""The maximum length of a name, a tag or an error type in a dashboard, in characters."""

MAX_TAG_KEYS = 30
"""The maximum number of tags to filter by."""

MAX_TAG_VALUES = 50
"""The maximum number of values of such a tag."""

Summary = Mapping[str, Any]
Measure = Callable[[Summary], "int | float | None"]
"""Takes the number of a panel from a summary; ``None`` if the summary does not have it."""


@dataclass
class MetricView:
    """A metric or an operation, with all of its series.

    Attributes:
        name: The name.
        metric_type: The type. Outcomes of an operation are rates.
        unit: The unit.
        operation: Whether it is an operation.
        seconds: The time since the start, if ``series`` has aggregates; ``None`` if it has values.
        series: The tags of each series, and its aggregate or its `MetricValue` since the start.
    """

    name: str
    metric_type: MetricType
    unit: MetricUnit
    operation: bool
    seconds: float | None = None
    series: list[tuple[Mapping[str, str], Any]] = field(default_factory=list)

    @cached_property
    def since_start(self) -> Summary:
        """The sum of all series. Percentiles cannot be added: ``p95`` is the largest of them."""
        if self.seconds is None:
            if self.metric_type is MetricType.RATE:
                return all_outcomes(self.summary_of(source) for _, source in self.series)
            known = [(value, to_mapping(value.metadata)) for _, value in self.series]
            added = {
                key: _sum(metadata.get(key) for _, metadata in known) for key in ("sum", "rate", "count")
            }
            return {**added, "p95": max(_numbers(value.value for value, _ in known), default=None)}
        if self.metric_type is MetricType.RATE:
            (_, merged), *rest = self.series
            for _, aggregate in rest:
                yield_gil()
                merged = merged.merge(aggregate)
            return self.summary_of(merged)
        count, amount, highest = 0, 0.0, -math.inf
        has_distribution = self.metric_type in (MetricType.TIMER, MetricType.HISTOGRAM)
        for _, aggregate in self.series:
            yield_gil()
            count += aggregate.records
            if has_distribution:
                amount += aggregate.sum
                highest = max(highest, aggregate.quantiles(0.95)[0])
            elif self.metric_type is MetricType.COUNTER:
                amount += aggregate.value
        events = count if has_distribution else amount
        return {
            "count": count,
            "sum": amount,
            "rate": events / self.seconds if self.seconds > 0 else 0.0,
            "p95": highest if has_distribution else None,
        }

    def summary_of(self, source: Any) -> Summary:
        """Return the summary of one series since the start."""
        if self.seconds is None:
            metadata = to_mapping(source.metadata)
            if self.metric_type is not MetricType.RATE:
                return metadata
            return {**metadata, "rate": source.value, "count": metadata.get("count", 1)}
        count: int = source.records
        summary = {"count": count, "rate": count / self.seconds if self.seconds > 0 else 0.0}
        if self.metric_type is MetricType.RATE:
            summary.update(success_rate=source.success_rate, failures=source.failures)
        return summary

    def count_of(self, source: Any) -> int | float:
        """Return the number of records of one series since the start."""
        if self.seconds is None:
            return to_number(to_mapping(source.metadata).get("count")) or 0
        count: int = source.records
        return count

    def matching(self, tags: Mapping[str, str]) -> MetricView:
        """Return the view of the series that carry some tags."""
        series = self.series
        for key, value in tags.items():
            yield_gil()
            series = [one for one in series if one[0].get(key) == value]
        return self if series is self.series else replace(self, series=series)


def views_of_readings(readings: Iterable[MetricReading]) -> list[MetricView]:
    """Return the views of a reading of all metrics and operations."""
    views: list[MetricView] = []
    for name, metric_type, operation, seconds, series, _, unit in readings:
        yield_gil()
        if series:
            views.append(MetricView(name, metric_type, unit, operation, seconds, list(series)))
    return views


def metric_views(values: Iterable[MetricValue]) -> list[MetricView]:
    """Group series by metric or operation, in their order."""
    found: dict[tuple[str, MetricType, bool], MetricView] = {}
    view: MetricView | None = None
    for value in values:
        metadata = to_mapping(value.metadata)
        if value.metric_type is MetricType.RATE and "success_rate" not in metadata:
            continue  # derived from another series of the listing
        operation = value.metric_type is MetricType.RATE or metadata.get("operation") is True
        # The series of a metric usually follow each other, and comparing is faster than hashing.
        if (
            view is None
            or view.name != value.name
            or view.metric_type is not value.metric_type
            or view.operation is not operation
        ):
            key = (value.name, value.metric_type, operation)
            view = found.get(key)
            if view is None:
                view = found[key] = MetricView(value.name, value.metric_type, value.unit, operation)
        tags = {to_text(tag): to_text(content) for tag, content in to_mapping(value.tags).items()}
        view.series.append((tags, value))
    return list(found.values())


def known_tags(views: Iterable[MetricView]) -> dict[str, list[str]]:
    """Return the tags and values of the most series, to filter by. Text that is not shown is left out."""
    counts: Counter[tuple[str, str]] = Counter()
    for view in views:
        for place in range(0, len(view.series), 500):
            yield_gil()
            counts.update(chain.from_iterable(tags.items() for tags, _ in view.series[place : place + 500]))
    by_key: dict[str, list[tuple[int, str]]] = {}
    for (key, value), number in counts.items():
        by_key.setdefault(key, []).append((-number, value))
    known: dict[str, list[str]] = {}
    for key, values in sorted(by_key.items(), key=lambda item: (sum(one[0] for one in item[1]), item[0])):
        shown = nsmallest(MAX_TAG_VALUES, filter(_is_shown, values))
        if shown and shorten(key) == key:
            known[key] = [value for _, value in shown]
        if len(known) == MAX_TAG_KEYS:
            break
    return known


def _is_shown(counted: tuple[int, str]) -> bool:
    yield_gil()
    return shorten(counted[1]) == counted[1]


# -- measures --------------------------------------------------------------------------------------------


def rate(summary: Summary) -> int | float | None:
    """Return events per second."""
    return to_number(summary.get("rate"))


def p50(summary: Summary) -> int | float | None:
    """Return the median."""
    return to_number(summary.get("p50"))


def p99(summary: Summary) -> int | float | None:
    """Return the 99th percentile."""
    return to_number(summary.get("p99"))


def p95(summary: Summary) -> int | float | None:
    """Return the 95th percentile."""
    return to_number(summary.get("p95"))


def total(summary: Summary) -> int | float | None:
    """Return the sum of all values."""
    return to_number(summary.get("sum"))


def level(summary: Summary) -> int | float | None:
    """Return the average of a gauge over time, or its last value."""
    return to_number(summary.get("avg", summary.get("last")))


def percent_level(summary: Summary) -> int | float | None:
    """Return the `level` of a gauge between 0 and 1, in percent."""
    share = level(summary)
    return None if share is None else to_number(100 * share)


def error_percent(summary: Summary) -> float | None:
    """Return the share of failures in percent; ``None`` without events."""
    success_rate = to_number(summary.get("success_rate"))
    if success_rate is None or not to_number(summary.get("count", 1)):
        return None
    return min(max(100 * (1 - success_rate), 0.0), 100.0)


def failures_per_second(summary: Summary) -> float | None:
    """Return failures per second."""
    failed, per_second = error_percent(summary), rate(summary)
    if per_second is None:
        return None
    return 0.0 if failed is None else per_second * (failed / 100)  # in this order, it does not overflow


# -- sums of series --------------------------------------------------------------------------------------


def _numbers(values: Iterable[object]) -> list[int | float]:
    return [found for found in map(to_number, values) if found is not None]


def _sum(values: Iterable[object]) -> int | float | None:
    found = _numbers(values)
    return to_number(sum(map(float, found))) if found else None


def all_outcomes(summaries: Iterable[Summary]) -> Summary:
    """Return the sum of summaries of outcomes."""
    count, successes, per_second = 0.0, 0.0, 0.0
    failures: dict[str, float] = {}
    for summary in summaries:
        yield_gil()
        per_second += to_number(summary.get("rate")) or 0
        share = to_number(summary.get("success_rate"))
        if share is None:
            continue
        events = max(to_number(summary.get("count")) or 0, 0)
        count += events
        successes += events * min(max(share, 0.0), 1.0)
        for error_type, number in to_mapping(summary.get("failures")).items():
            failures[error_type] = failures.get(error_type, 0) + (to_number(number) or 0)
    return {
        "count": count,
        "rate": per_second,
        "success_rate": successes / count if 0 < count < float("inf") else 1.0,
        "failures": failures,
    }


# -- conversion to JSON values ---------------------------------------------------------------------------


def to_number(value: Any) -> int | float | None:
    """Return a number that JSON can represent. Infinities become the largest float.

    Returns:
        ``None`` if the value is not a number.
    """
    if value.__class__ is float and -MAX_FLOAT <= value <= MAX_FLOAT:
        return value  # by far the most frequent case
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        converted = float(value)
    except OverflowError:  # an integer
        converted = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return None
    if math.isnan(converted):
        return None
    if math.isinf(converted):
        return math.copysign(MAX_FLOAT, converted)
    return int(value) if isinstance(value, int) else converted


def to_text(value: object) -> str:
    """Return a string that can be encoded: a lone surrogate becomes a question mark."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def shorten(value: object) -> str:
    """Return a string that can be encoded and shown: a long one ends with an ellipsis."""
    text = to_text(value)
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def to_labels(tags: object) -> dict[str, str]:
    """Return tags as strings."""
    return {shorten(key): shorten(value) for key, value in tags.items()} if isinstance(tags, Mapping) else {}


def to_mapping(value: object) -> Mapping[str, Any]:
    """Return the metadata of a third-party part, or an empty mapping if it is not one."""
    return value if isinstance(value, Mapping) else {}
