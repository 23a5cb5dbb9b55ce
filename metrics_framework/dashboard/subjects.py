"""What dashboards tell about: metrics and operations, found in one listing of all series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from metrics_framework.dashboard.plain import mapping, number
from metrics_framework.values import MetricType, MetricUnit, MetricValue

Summary = Mapping[str, Any]
Measure = Callable[[Summary], "int | float | None"]
"""Takes from a summary the number that a panel shows; ``None`` where there is none."""


@dataclass
class Subject:
    """A metric or an operation, with all of its series.

    Attributes:
        name: Its name.
        metric_type: What kind of number it is; how an operation ended is a rate.
        unit: What it is counted in.
        operation: Whether it is an operation's.
        values: Its series.
    """

    name: str
    metric_type: MetricType
    unit: MetricUnit
    operation: bool
    values: list[MetricValue] = field(default_factory=list)

    @cached_property
    def since_start(self) -> Summary:
        """All of its series in one summary, as far as they can be added up; ``p95`` is that of the worst."""
        known = [(value, mapping(value.metadata)) for value in self.values]
        if self.metric_type is MetricType.RATE:
            return _all_outcomes(known)
        total = {key: _sum(metadata.get(key) for _, metadata in known) for key in ("sum", "rate")}
        return {**total, "p95": max(_numbers(value.value for value, _ in known), default=None)}


def subjects(values: Iterable[MetricValue]) -> list[Subject]:
    """Group series by what they are of, in their order."""
    found: dict[tuple[str, MetricType, bool], Subject] = {}
    one: Subject | None = None
    for value in values:
        metadata = mapping(value.metadata)
        if value.metric_type is MetricType.RATE and "success_rate" not in metadata:
            continue  # derived from something that is in the list as well
        operation = value.metric_type is MetricType.RATE or metadata.get("operation") is True
        # Mostly the series of one metric come one after another, and comparing is quicker than hashing.
        if (
            one is None
            or one.name != value.name
            or one.metric_type is not value.metric_type
            or one.operation is not operation
        ):
            key = (value.name, value.metric_type, operation)
            one = found.get(key)
            if one is None:
                one = found[key] = Subject(value.name, value.metric_type, value.unit, operation)
        one.values.append(value)
    return list(found.values())


# -- measures --------------------------------------------------------------------------------------------


def rate(summary: Summary) -> int | float | None:
    """Return events per second."""
    return number(summary.get("rate"))


def p95(summary: Summary) -> int | float | None:
    """Return the 95th percentile."""
    return number(summary.get("p95"))


def total(summary: Summary) -> int | float | None:
    """Return the sum of all values."""
    return number(summary.get("sum"))


def level(summary: Summary) -> int | float | None:
    """Return a gauge's average over time, or where it stayed."""
    return number(summary.get("avg", summary.get("last")))


def percent_level(summary: Summary) -> int | float | None:
    """Return the same of a gauge that is a share between 0 and 1, in percent."""
    share = level(summary)
    return None if share is None else number(100 * share)


def error_percent(summary: Summary) -> float | None:
    """Return the share of failures in percent; there is none of no events."""
    success_rate = number(summary.get("success_rate"))
    if success_rate is None or not number(summary.get("count", 1)):
        return None
    return min(max(100 * (1 - success_rate), 0.0), 100.0)


def failures_per_second(summary: Summary) -> float | None:
    """Return failures per second."""
    failed, per_second = error_percent(summary), rate(summary)
    if per_second is None:
        return None
    return 0.0 if failed is None else per_second * (failed / 100)  # never more than all: it stays finite


# -- adding up -------------------------------------------------------------------------------------------


def _numbers(values: Iterable[object]) -> list[int | float]:
    return [found for found in map(number, values) if found is not None]


def _sum(values: Iterable[object]) -> int | float | None:
    found = _numbers(values)
    return number(sum(map(float, found))) if found else None


def _all_outcomes(known: Iterable[tuple[MetricValue, Summary]]) -> Summary:
    count, successes, per_second = 0.0, 0.0, 0.0
    failures: dict[str, float] = {}
    for value, metadata in known:
        events = max(number(metadata.get("count", 1)) or 0, 0)
        per_second += number(value.value) or 0
        share = number(metadata.get("success_rate"))
        if share is None:
            continue
        count += events
        successes += events * min(max(share, 0.0), 1.0)
        for error_type, many in mapping(metadata.get("failures")).items():
            failures[error_type] = failures.get(error_type, 0) + (number(many) or 0)
    return {
        "count": count,
        "rate": per_second,
        "success_rate": successes / count if 0 < count < float("inf") else 1.0,
        "failures": failures,
    }
