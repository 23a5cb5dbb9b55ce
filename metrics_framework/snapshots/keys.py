"""Keys of measurements: the unique custom key of each series, and the meaning of a flat key.

v1 custom keys have no dot, and FlameIQ splits its thresholds at ``=``, so a key contains neither. In the name
of a metric a dot becomes ``/``. Tags follow, sorted, as ``[tag:value,tag:value]``. Ambiguous characters are
percent-encoded. A statistic of a distribution follows as ``/p95``. Operations have a namespace of their own,
so their keys begin with ``operation:``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import unquote

from metrics_framework.values import MetricUnit

STATISTICS = {"count": "count", "mean": "avg", "p95": "p95", "p99": "p99"}
"""Each statistic of a distribution that becomes a key, and its key in a summary."""

SUCCESS_RATE = "success_rate"

_SUFFIXES = frozenset({*STATISTICS, SUCCESS_RATE})

_IN_TAG = {ord(char): f"%{ord(char):02X}" for char in ".%=,:[]"}
_IN_NAME = {**_IN_TAG, ord("/"): "%2F", ord("."): "/"}


def custom_key(
    name: str, tags: Mapping[str, str] | None = None, *, statistic: str | None = None, operation: bool = False
) -> str:
    """Return the custom key of a series.

    Args:
        name: The name of a metric or operation.
        tags: The tags of the series.
        statistic: One of `STATISTICS` or `SUCCESS_RATE`; ``None`` for a metric with a single value.
        operation: Whether the name is that of an operation.

    Example:
        >>> custom_key("git.commits.created")
        'git/commits/created'
        >>> custom_key("http.requests", {"endpoint": "/status"}, statistic="p95")
        'http/requests[endpoint:/status]/p95'
    """
    key = key_stem(name, tags, operation)
    if statistic is not None:
        return f"{key}/{statistic}"
    return key if tags else key_of_value(key)


def key_of_value(stem: str) -> str:
    """Return the key of a metric with a single value and no tags.

    Args:
        stem: Its `key_stem`.
    """
    # A metric named "x.p95" is not the p95 of a distribution named "x".
    head, dot, last = stem.rpartition("/")
    return f"{head}%2E{last}" if dot and last in _SUFFIXES else stem


def key_stem(name: str, tags: Mapping[str, str] | None, operation: bool) -> str:
    """Return the common start of the custom keys of a distribution, up to the last slash."""
    key = name.translate(_IN_NAME)
    if operation:
        key = f"operation:{key}"
    return f"{key}{key_of_tags(tags)}" if tags else key


def key_of_tags(tags: Mapping[str, str]) -> str:
    """Return the part of a custom key that lists at least one tag."""
    pairs = [(_in_tag(tag), _in_tag(value)) for tag, value in tags.items()]
    pairs.sort()
    return f"[{','.join([f'{tag}:{value}' for tag, value in pairs])}]"


def _in_tag(text: str) -> str:
    return text if text.isalnum() else text.translate(_IN_TAG)  # `translate` takes ten times as long


class CustomSeries(NamedTuple):
    """The series and statistic of a custom key.

    Attributes:
        name: The recorded name of the metric or operation.
        tags: The tags of the series.
        statistic: The statistic; ``None`` for a metric with a single value.
        operation: Whether the name is that of an operation.
    """

    name: str
    tags: dict[str, str]
    statistic: str | None = None
    operation: bool = False


def parse_custom_key(key: str) -> CustomSeries:
    """Return the series of a key that `custom_key` made. For any other key, the name is the key itself.

    Example:
        >>> parse_custom_key("http/requests[endpoint:/status]/p95")
        CustomSeries(name='http.requests', tags={'endpoint': '/status'}, statistic='p95', operation=False)
        >>> parse_custom_key("100% mine").name
        '100% mine'
    """
    stem = key.removeprefix("operation:")
    head, slash, last = stem.rpartition("/")
    statistic = last if slash and last in _SUFFIXES else None
    if statistic is not None:
        stem = head
    name, bracket, listed = stem.removesuffix("]").partition("[")
    tags = dict(_pair(pair) for pair in listed.split(",")) if bracket else {}
    # Other tools may use "[" and "%" differently: the result must lead back to the same key.
    series = CustomSeries(unquote(name.replace("/", ".")), tags, statistic, key.startswith("operation:"))
    same = custom_key(series.name, series.tags, statistic=series.statistic, operation=series.operation)
    return series if same == key and series.name else CustomSeries(key, {})


def _pair(text: str) -> tuple[str, str]:
    tag, _, value = text.partition(":")
    return unquote(tag), unquote(value)


CUSTOM_PREFIX = "custom."
"""The prefix of the flat keys of custom measurements."""

_UNITS = {
    "throughput": MetricUnit.OPERATIONS_PER_SECOND,
    "memory_mb": MetricUnit.MEGABYTES,
    "cpu_percent": MetricUnit.PERCENT,
}


@dataclass(frozen=True)
class Measured:
    """A measurement of a snapshot, with the metric or operation that was recorded.

    Attributes:
        key: Its flat key, as in `Metrics.flat`: unique within a snapshot.
        name: The recorded name, followed by the statistic if it is one, as in ``payload.size.p95``.
        unit: The unit, as far as v1 tells: it does not mark the durations of metrics.
        tags: The tags of the series.
        statistic: The statistic of a distribution or of an operation.
        operation: Whether it belongs to an operation.
    """

    key: str
    name: str
    unit: MetricUnit
    tags: dict[str, str] = field(default_factory=dict)
    statistic: str | None = None
    operation: bool = False


def parse_flat_key(key: str) -> Measured:
    """Return the measurement of a flat key.

    Example:
        >>> parse_flat_key("latency.p95").unit.value
        'milliseconds'
        >>> parse_flat_key("custom.operation:db/query/p95").name
        'db.query.p95'
    """
    if not key.startswith(CUSTOM_PREFIX):
        return Measured(key, key, _UNITS.get(key, MetricUnit.MILLISECONDS))
    series = parse_custom_key(key.removeprefix(CUSTOM_PREFIX))
    name = series.name if series.statistic is None else f"{series.name}.{series.statistic}"
    return Measured(key, name, _custom_unit(series), series.tags, series.statistic, series.operation)


def _custom_unit(series: CustomSeries) -> MetricUnit:
    is_duration = series.operation and series.statistic not in ("count", SUCCESS_RATE)
    return MetricUnit.MILLISECONDS if is_duration else MetricUnit.COUNT


def find_keys(name: str, keys: Iterable[str]) -> list[str]:
    """Return the flat keys that have a name: one, or one for each series of a metric.

    Args:
        name: A flat key, a custom key, or a recorded name followed by the statistic.
        keys: All flat keys.

    Returns:
        The keys of the first kind of name that matches, in this order. A metric comes before an operation of
        the same name. Empty if nothing matches.

    Example:
        >>> find_keys("hits", ["throughput", "custom.hits[code:200]", "custom.hits[code:404]"])
        ['custom.hits[code:200]', 'custom.hits[code:404]']
    """
    known = sorted(keys)
    for key in (name, CUSTOM_PREFIX + name):
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
