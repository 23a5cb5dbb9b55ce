"""Shared by the line protocols of StatsD, Graphite and InfluxDB: plain numbers and safe names."""

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
"""Fields that only grow, like a counter. A sum of negative values can fall, which `statsd` detects."""


class Number(NamedTuple):
    """One number of a series.

    Attributes:
        field: The name of the number, like ``p95``, or an empty string if it is the only one.
        value: The number, which is finite.
        grows: Whether it is a total since the start.
    """

    field: str
    value: int | float
    grows: bool


def series_name(value: MetricValue) -> str:
    """Return the name of a series, which differs for an operation and a metric of the same name.

    Example:
        An operation ``load`` is ``load.duration`` and ``load.operations``.
    """
    if not value.metadata.get("operation", False):
        return value.name
    return f"{value.name}.{'operations' if value.metric_type is MetricType.RATE else 'duration'}"


def numbers_of(value: MetricValue) -> list[Number]:
    """Return the finite numbers of a series, all since the start.

    A counter or gauge has one. A distribution has those of its summary that the adapter provides. The
    outcomes of an operation are ``count``, ``successes``, ``failures`` and ``success_rate``.
    """
    return [
        # Plain types, because a subclass such as numpy's may have another `repr`.
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
    except OverflowError:  # an integer beyond the largest float
        return False


def safe_name(name: str) -> str:
    """Return a dotted name that consists of letters, digits, ``_``, ``-`` and ``.`` only.

    Example:
        >>> safe_name("http.requests/s..total")
        'http.requests_s.total'
    """
    return ".".join(safe_part(part) for part in name.split(".") if part) or "_"


def safe_part(text: str) -> str:
    """Return one part of a path. Other characters, dots, and an empty text become ``_``."""
    return _UNSAFE.sub("_", text) or "_"


def plain_path(name: str, tags: Mapping[str, str]) -> str:
    """Return the path of a series that contains its tags, sorted, each with its value.

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
