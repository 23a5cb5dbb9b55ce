"""Prometheus' text format 0.0.4: a pure function from metric values to what a server scrapes.

Names and units follow OpenTelemetry's rules for Prometheus ("Prometheus and OpenMetrics Compatibility"):
other characters than letters, digits and underscores become underscores, the unit is a suffix and a base
unit (seconds, bytes), a counter ends in ``_total``. A histogram or timer is exposed by the bounds of its
description; without one it is a Prometheus summary, whose quantiles are those of this library.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from metrics_framework.values import MetricType, MetricUnit, MetricValue

QUANTILES = {"p50": "0.5", "p90": "0.9", "p95": "0.95", "p99": "0.99"}

BASE_UNITS = {
    MetricUnit.SECONDS: ("seconds", 1.0),
    MetricUnit.MILLISECONDS: ("seconds", 1e3),
    MetricUnit.MICROSECONDS: ("seconds", 1e6),
    MetricUnit.BYTES: ("bytes", 1.0),
    MetricUnit.KILOBYTES: ("bytes", 1e-3),
    MetricUnit.MEGABYTES: ("bytes", 1e-6),
    MetricUnit.PERCENT: ("percent", 1.0),
}
"""A unit's base unit, which is the suffix of a name, and how many of the unit make one of it."""

_SAMPLES = {
    "counter": (),
    "gauge": (),
    "summary": ("_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
}
"""What the names of a family's samples end in, beside its own name."""


@dataclass
class _Family:
    name: str
    type: str
    recorded: str
    help: str
    per_unit: float
    own_labels: frozenset[str] = frozenset()
    values: list[MetricValue] = field(default_factory=list)


def to_prometheus(values: Iterable[MetricValue]) -> str:
    """Return values as text for Prometheus.

    Two names that become the same are not mixed: the first keeps it, the other is left out with a comment
    that names both; and so it is with two series whose tags become the same labels, of which one without a
    text is none. What UTF-8 cannot hold is written as Python's escape. Operations end in
    ``_duration_seconds`` and ``_operations_total``. A sum or a count that an adapter does not know is left
    out.
    """
    families: dict[str, _Family] = {}
    taken: dict[str, _Family] = {}
    comments: dict[str, None] = {}
    for value in values:
        made = _family(value)
        if made is None:
            continue
        names = [f"{made.name}{suffix}" for suffix in ("", *_SAMPLES[made.type])]
        other = next((taken[name] for name in names if name in taken), None)
        if other is None:
            families[made.name] = other = made
            taken.update(dict.fromkeys(names, made))
        if (other.recorded, other.type) == (made.recorded, made.type):
            other.values.append(value)
        else:
            comments[f"{made.recorded} is left out: its name here is that of {other.recorded}"] = None
    lines = [line for family in families.values() for line in _lines(family, comments)]
    return "".join(f"{line}\n" for line in (*lines, *(f"# {_escape(comment)}" for comment in comments)))


def metric_name(name: str, unit: MetricUnit = MetricUnit.COUNT, *, counter: bool = False) -> str:
    """Return what a metric is called in Prometheus.

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
    """Return what a tag is called in Prometheus, where names with two underscores in front are reserved."""
    result = re.sub(r"[^a-zA-Z0-9_]", "_", tag)
    return f"key_{result.lstrip('_')}" if result[0].isdigit() or result.startswith("__") else result


def tag_labels(tags: Mapping[str, str], own_labels: Container[str] = ()) -> dict[str, str]:
    """Return tags as labels of Prometheus.

    Args:
        tags: Tag to value.
        own_labels: Labels that the format itself gives to the samples, such as ``le``.

    Example:
        >>> tag_labels({"http.route": "/", "le": "here"}, {"le"})
        {'http_route': '/', 'exported_le': 'here'}
    """
    labels: dict[str, str] = {}
    for tag, text in tags.items():
        name = label_name(tag)
        if name in own_labels:  # as Prometheus itself does where a target's label is one of its own
            name = f"exported_{name}"
        # Two tags that become the same label share it, as OpenTelemetry has it.
        labels[name] = f"{labels[name]};{text}" if name in labels else text
    return labels


def _family(value: MetricValue) -> _Family | None:
    operation = bool(value.metadata.get("operation", False))
    name, unit, kind = value.name, value.unit, value.metric_type
    if kind is MetricType.RATE:
        if not operation:
            return None  # a server works rates out itself
        exposed, type_ = metric_name(f"{name}_operations", counter=True), "counter"
        labels = frozenset({"outcome", "error_type"})
        return _Family(exposed, type_, f"operation {name!r}", "How the operation ended.", 1.0, labels)
    help_text = str(value.metadata.get("help", ""))
    per_unit = BASE_UNITS.get(unit, ("", 1.0))[1]
    if kind is MetricType.COUNTER:
        return _Family(metric_name(name, unit, counter=True), "counter", repr(name), help_text, per_unit)
    if kind is MetricType.GAUGE:
        return _Family(metric_name(name, unit), "gauge", repr(name), help_text, per_unit)
    type_ = "histogram" if "buckets" in value.metadata else "summary"
    labels = frozenset({"le" if type_ == "histogram" else "quantile"})
    if operation:
        exposed = metric_name(f"{name}_duration", unit)
        help_text = "How long the operation took."
        return _Family(exposed, type_, f"operation {name!r}", help_text, per_unit, labels)
    return _Family(metric_name(name, unit), type_, repr(name), help_text, per_unit, labels)


def _lines(family: _Family, comments: dict[str, None]) -> Iterator[str]:
    if family.help:
        yield f"# HELP {family.name} {_escape(family.help)}"
    yield f"# TYPE {family.name} {family.type}"
    shown: set[str] = set()
    for value in family.values:
        tags = tag_labels(value.tags, family.own_labels)
        series = _labels((name, text) for name, text in tags.items() if text)  # without a text it is no label
        if series in shown:
            comments[f"{value.tags} of {family.recorded} is left out: another series has its labels"] = None
            continue
        shown.add(series)
        for suffix, labels, number in _samples(family, value):
            yield f"{family.name}{suffix}{_labels((*tags.items(), *labels))} {_number(number)}"


def _samples(
    family: _Family, value: MetricValue
) -> Iterator[tuple[str, Sequence[tuple[str, str]], int | float]]:
    metadata, scaled = value.metadata, _Scale(family.per_unit)
    if value.metric_type is MetricType.RATE:
        successes, failures = metadata.get("successes"), metadata.get("failures")
        if successes is None or failures is None:  # the contract asks for no more than these two
            successes = round(metadata["count"] * metadata["success_rate"])
            failures = {"": metadata["count"] - successes}
        yield "", [("outcome", "success"), ("error_type", "")], successes
        for error_type, number in failures.items():
            yield "", [("outcome", "failure"), ("error_type", error_type)], number
    elif family.type in ("counter", "gauge"):
        yield "", [], scaled(value.value)
    elif family.type == "summary":
        for key, share in QUANTILES.items():
            if key in metadata:
                yield "", [("quantile", share)], scaled(metadata[key])
        if "sum" in metadata:
            yield "_sum", [], scaled(metadata["sum"])
        if "count" in metadata:
            yield "_count", [], metadata["count"]
    else:
        counts: Mapping[str, int] = metadata["buckets"]["counts"]
        for bound, number in counts.items():
            yield "_bucket", [("le", _number(scaled(float(bound))))], number
        if "sum" in metadata["buckets"]:
            yield "_sum", [], scaled(metadata["buckets"]["sum"])
        yield "_count", [], max(counts.values())


@dataclass(frozen=True)
class _Scale:
    per_unit: float

    def __call__(self, number: int | float) -> int | float:
        return number if self.per_unit == 1 else number / self.per_unit


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    pairs = ",".join(f'{name}="{_escape(text, quotes=True)}"' for name, text in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escape(text: str, *, quotes: bool = False) -> str:
    escaped = _utf8(text).replace("\\", r"\\").replace("\n", r"\n")
    return escaped.replace('"', r"\"") if quotes else escaped


def _utf8(text: str) -> str:
    # A lone surrogate, as in the name of a file that is no UTF-8, would keep the whole text from being sent.
    return text.encode(errors="backslashreplace").decode()


def _number(number: Any) -> str:
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
    return float.__repr__(number) if isinstance(number, float) else repr(number)
