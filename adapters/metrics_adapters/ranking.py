"""The selection of `get_top_metrics`, shared by all aggregators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from metrics_framework.errors import InvalidInputError
from metrics_framework.validation import check_count, safe_repr
from metrics_framework.values import MetricType, MetricUnit, MetricValue


def largest(values: Iterable[MetricValue], metric_type: MetricType, limit: int) -> list[MetricValue]:
    """Return at most ``limit`` values of one type, the largest first.

    Args:
        values: All values.
        metric_type: The type. `MetricType.RATE` also lists counters whose metadata has a ``rate``.
        limit: The most values to return, 1 or more.

    Raises:
        InvalidInputError: If ``limit`` or ``metric_type`` is not allowed.
    """
    check_count("limit", limit)
    if not isinstance(metric_type, MetricType):
        raise InvalidInputError(
            f"metric_type={safe_repr(metric_type)} is not a MetricType: pass one, such as MetricType.TIMER"
        )
    if metric_type is MetricType.RATE:
        values = map(_as_rate, values)
    chosen = (value for value in values if value.metric_type is metric_type)
    return sorted(chosen, key=lambda value: value.value, reverse=True)[:limit]


def _as_rate(value: MetricValue) -> MetricValue:
    if value.metric_type is not MetricType.COUNTER or "rate" not in value.metadata:
        return value
    unit = MetricUnit.OPERATIONS_PER_SECOND
    return replace(value, value=value.metadata["rate"], metric_type=MetricType.RATE, unit=unit)
