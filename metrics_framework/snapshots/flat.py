"""What the flat key of a measurement stands for, such as ``latency.p95`` or ``custom.payload/size/mean``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from metrics_framework.snapshots.keys import SUCCESS_RATE, CustomSeries, parse_custom_key
from metrics_framework.values import MetricUnit

CUSTOM = "custom."
"""What the flat keys of custom measurements begin with."""

_UNITS = {
    "throughput": MetricUnit.OPERATIONS_PER_SECOND,
    "memory_mb": MetricUnit.MEGABYTES,
    "cpu_percent": MetricUnit.PERCENT,
}


@dataclass(frozen=True)
class Measured:
    """A measurement of a snapshot, and what it was recorded as.

    Attributes:
        key: Its flat key, as `Metrics.flat` has it: unique within a snapshot.
        name: The metric's name as recorded; that of a statistic has it at the end, like ``payload.size.p95``.
        unit: What it is counted in, as far as v1 tells: durations of metrics look like any other number.
        tags: The tags of the series.
        statistic: Which statistic of a distribution, or of an operation, it is.
        operation: Whether it is an operation's.
    """

    key: str
    name: str
    unit: MetricUnit
    tags: dict[str, str] = field(default_factory=dict)
    statistic: str | None = None
    operation: bool = False


def parse_flat_key(key: str) -> Measured:
    """Return what a flat key stands for.

    Example:
        >>> parse_flat_key("latency.p95").unit.value
        'milliseconds'
        >>> parse_flat_key("custom.operation:db/query/p95").name
        'db.query.p95'
    """
    if not key.startswith(CUSTOM):
        return Measured(key, key, _UNITS.get(key, MetricUnit.MILLISECONDS))
    series = parse_custom_key(key.removeprefix(CUSTOM))
    name = series.name if series.statistic is None else f"{series.name}.{series.statistic}"
    return Measured(key, name, _custom_unit(series), series.tags, series.statistic, series.operation)


def _custom_unit(series: CustomSeries) -> MetricUnit:
    is_duration = series.operation and series.statistic not in ("count", SUCCESS_RATE)
    return MetricUnit.MILLISECONDS if is_duration else MetricUnit.COUNT


def find_keys(name: str, keys: Iterable[str]) -> list[str]:
    """Return the flat keys that go by a name: one, or one for each series of a metric.

    Args:
        name: A flat key, a custom key, or the name of a metric as recorded, with its statistic at the end.
        keys: The flat keys there are.

    Returns:
        What is first found in that order; a metric comes before an operation of the same name. Empty where
        nothing goes by that name.

    Example:
        >>> find_keys("hits", ["throughput", "custom.hits[code:200]", "custom.hits[code:404]"])
        ['custom.hits[code:200]', 'custom.hits[code:404]']
    """
    known = sorted(keys)
    for key in (name, CUSTOM + name):
        if key in known:
            return [key]
    named = [one for one in map(parse_flat_key, known) if one.name == name]
    for operation, is_statistic in ((False, False), (False, True), (True, True)):
        found = [
            one.key
            for one in named
            if one.operation is operation and (one.statistic is not None) is is_statistic
        ]
        if found:
            return found
    return []
