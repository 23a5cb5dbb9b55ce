"""What the line protocols of StatsD, Graphite and InfluxDB share: plain numbers, and safe names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from metrics_framework.log import LogOnce
from metrics_framework.values import MetricType, MetricValue

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
DISTRIBUTION = ("count", "sum", "avg", "min", "max", "stddev", "p50", "p90", "p95", "p99")
_GROWING = {"count", "sum", "successes", "failures"}
"""Those that only grow, as a counter does; a sum of negative values does not, which is seen when it falls."""


class Number(NamedTuple):
    """One number of a series.

    Attributes:
        field: Which one, like ``p95``; empty where the series has one alone.
        value: The number, finite.
        grows: Whether it is a total since the start.
    """

    field: str
    value: int | float
    grows: bool


def series_name(value: MetricValue) -> str:
    """Return the name of a series, by which an operation cannot be taken for a metric.

    Example:
        An operation ``load`` is ``load.duration`` and ``load.operations``.
    """
    if not value.metadata.get("operation", False):
        return value.name
    return f"{value.name}.{'operations' if value.metric_type is MetricType.RATE else 'duration'}"


def numbers_of(value: MetricValue) -> list[Number]:
    """Return the numbers of a series that are finite.

    A counter or gauge has one. A distribution has those of its summary that an adapter knows, an operation's
    outcomes ``count``, ``successes``, ``failures`` and ``success_rate``, all since the start.
    """
    return [
        # Plain ones, as a subclass (numpy's, for instance) may write itself otherwise.
        number._replace(value=int(number.value) if isinstance(number.value, int) else float(number.value))
        for number in _all_of(value)
        if _is_finite(number.value)
    ]


def _all_of(value: MetricValue) -> Iterator[Number]:
    metadata: Mapping[str, Any] = value.metadata
    if value.metric_type in (MetricType.HISTOGRAM, MetricType.TIMER):
        for key in DISTRIBUTION:
            if key in metadata:
                yield Number(key, metadata[key], key in _GROWING)
        if "p95" not in metadata and metadata.get("count") != 0:
            yield Number("p95", value.value, False)
    elif value.metric_type is MetricType.RATE and "count" in metadata and "success_rate" in metadata:
        count, rate = metadata["count"], metadata["success_rate"]
        yield Number("count", count, True)
        if _is_finite(count) and _is_finite(rate) and 0 <= rate <= 1:
            known = metadata.get("successes")
            successes = round(count * rate) if known is None or not _is_finite(known) else known
            yield Number("successes", successes, True)
            yield Number("failures", count - successes, True)
        yield Number("success_rate", rate, False)
    else:
        yield Number("", value.value, value.metric_type is MetricType.COUNTER)


def _is_finite(number: object) -> bool:
    if isinstance(number, bool) or not isinstance(number, int | float):
        return False
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond every float
        return False


def safe_name(name: str) -> str:
    """Return a name, whose dots divide it, in letters, digits, ``_``, ``-`` and ``.`` only.

    Example:
        >>> safe_name("http.requests/s..total")
        'http.requests_s.total'
    """
    return ".".join(safe_part(part) for part in name.split(".") if part) or "_"


def safe_part(text: str) -> str:
    """Return one part of a path: every other character is ``_``, a dot too, and so is no text at all."""
    return _UNSAFE.sub("_", text) or "_"


def plain_path(name: str, tags: Mapping[str, str]) -> str:
    """Return the path of a series whose tags are part of it, sorted, each with its value.

    Example:
        >>> plain_path("http.requests", {"route": "/orders", "method": "GET"})
        'http.requests.method.GET.route._orders'
    """
    parts = [part for tag in sorted(tags) for part in (safe_part(tag), safe_part(tags[tag]))]
    return ".".join([safe_name(name), *parts])


def log_left_out(once: LogOnce, why: str, name: str) -> None:
    """Log that a series is left out of an export, once for each reason.

    Args:
        once: The log of the endpoint.
        why: The reason.
        name: The name of the series.
    """
    once.log("warning", "a series is left out of an export", once_for=why, why=why, name=name)
