"""Names of metrics and labels in Prometheus, and its base units.

They follow OpenTelemetry's rules ("Prometheus and OpenMetrics Compatibility"): characters other than letters,
digits and underscores become underscores, the base unit (seconds, bytes) is a suffix, and the name of a
counter ends in ``_total``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping

from metrics_framework.values import MetricUnit

BASE_UNITS = {
    MetricUnit.SECONDS: ("seconds", 1.0),
    MetricUnit.MILLISECONDS: ("seconds", 1e3),
    MetricUnit.MICROSECONDS: ("seconds", 1e6),
    MetricUnit.BYTES: ("bytes", 1.0),
    MetricUnit.KILOBYTES: ("bytes", 1e-3),
    MetricUnit.MEGABYTES: ("bytes", 1e-6),
    MetricUnit.PERCENT: ("percent", 1.0),
}
"""Unit to its base unit, which is the suffix of a name, and to the number of units in one base unit."""


def metric_name(name: str, unit: MetricUnit = MetricUnit.COUNT, *, counter: bool = False) -> str:
    """Return the Prometheus name of a metric.

    Example:
        >>> metric_name("http.requests", counter=True)
        'http_requests_total'
        >>> metric_name("cache.size", MetricUnit.MEGABYTES)
        'cache_size_bytes'
    """
    result = re.sub(r"_+", "_", re.sub(r"[^a-zA-Z0-9_:]", "_", name)).rstrip("_") or "_"
    if result[0].isdigit():
        result = f"_{result}"
    if counter:
        result = result.removesuffix("_total") or "_"
    suffix = BASE_UNITS.get(unit, ("", 1.0))[0]
    if suffix and not result.endswith(f"_{suffix}"):
        result = f"{result}_{suffix}"
    return f"{result}_total" if counter else result


def label_name(tag: str) -> str:
    """Return the Prometheus label name of a tag. Names that begin with two underscores are reserved."""
    result = re.sub(r"[^a-zA-Z0-9_]", "_", tag)
    return f"key_{result.lstrip('_')}" if result[0].isdigit() or result.startswith("__") else result


def tag_labels(tags: Mapping[str, str], own_labels: Container[str] = ()) -> dict[str, str]:
    """Return tags as Prometheus labels.

    Args:
        tags: Tag to value.
        own_labels: Labels of the format itself, such as ``le``. A tag of that name becomes ``exported_le``.

    Example:
        >>> tag_labels({"http.route": "/", "le": "here"}, {"le"})
        {'http_route': '/', 'exported_le': 'here'}
    """
    labels: dict[str, str] = {}
    for tag, text in tags.items():
        name = label_name(tag)
        if name in own_labels:  # Prometheus renames conflicting labels of a target in the same way
            name = f"exported_{name}"
        # Two tags that become the same label share it, as OpenTelemetry specifies.
        labels[name] = f"{labels[name]};{text}" if name in labels else text
    return labels


def in_base_unit(number: float, unit: MetricUnit) -> float:
    """Convert a number of a unit to its base unit. A number beyond the largest float becomes infinite.

    Example:
        >>> in_base_unit(250, MetricUnit.MILLISECONDS)
        0.25
    """
    try:
        return number / BASE_UNITS[unit][1] if unit in BASE_UNITS else float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf
