"""Metric views: the metrics and operations of an aggregator, grouped from one listing of all series."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from metrics_framework.protocols import MetricsAggregator
from metrics_framework.values import MetricType, MetricUnit, MetricValue

MAX_FLOAT = sys.float_info.max

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
        values: The series.
    """

    name: str
    metric_type: MetricType
    unit: MetricUnit
    operation: bool
    values: list[MetricValue] = field(default_factory=list)

    @cached_property
    def since_start(self) -> Summary:
        """The sum of all series. Percentiles cannot be added: ``p95`` is the largest of them."""
        known = [(value, to_mapping(value.metadata)) for value in self.values]
        if self.metric_type is MetricType.RATE:
            return _all_outcomes(known)
        total = {key: _sum(metadata.get(key) for _, metadata in known) for key in ("sum", "rate")}
        return {**total, "p95": max(_numbers(value.value for value, _ in known), default=None)}


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
        view.values.append(value)
    return list(found.values())


def outcomes(aggregator: MetricsAggregator) -> list[MetricValue]:
    """Return the outcomes of operations that an aggregator has: rates with a success rate."""
    values = aggregator.get_metrics_by_tag({})
    return [
        value for value in values if value.metric_type is MetricType.RATE and "success_rate" in value.metadata
    ]


# -- measures --------------------------------------------------------------------------------------------


def rate(summary: Summary) -> int | float | None:
    """Return events per second."""
    return to_number(summary.get("rate"))


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


def _all_outcomes(known: Iterable[tuple[MetricValue, Summary]]) -> Summary:
    count, successes, per_second = 0.0, 0.0, 0.0
    failures: dict[str, float] = {}
    for value, metadata in known:
        events = max(to_number(metadata.get("count", 1)) or 0, 0)
        per_second += to_number(value.value) or 0
        share = to_number(metadata.get("success_rate"))
        if share is None:
            continue
        count += events
        successes += events * min(max(share, 0.0), 1.0)
        for error_type, number in to_mapping(metadata.get("failures")).items():
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


def to_labels(tags: object) -> dict[str, str]:
    """Return tags as strings."""
    return {to_text(key): to_text(value) for key, value in tags.items()} if isinstance(tags, Mapping) else {}


def to_mapping(value: object) -> Mapping[str, Any]:
    """Return the metadata of a third-party part, or an empty mapping if it is not one."""
    return value if isinstance(value, Mapping) else {}
