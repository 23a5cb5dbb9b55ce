"""The validation rules of the v1 schema, each in one place.

The source is the FlameIQ performance schema, version 1, "Field reference" and "Validation rules". If that
page is ambiguous, the rule here is the strictest one that accepts all output of FlameIQ. A violation is one
line: ``path: what is wrong``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from reprlib import Repr
from typing import Any

from metrics_framework.validation import is_finite_number

SCHEMA_VERSION = 1
LATENCY_FIELDS = ("mean", "p50", "p95", "p99")
MAX_TAGS = 50

# ISO 8601 in its extended form: a date, and optionally a time of day and an offset.
# Hours and minutes are bounded here, because Python versions differ in accepting 24:00 and +00:60.
_TIMESTAMP = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]([01]\d|2[0-3]):\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:[0-5]\d)?)?", re.ASCII
)


class _Quoting(Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # Python refuses to print that many digits
            return f"<int of {x.bit_length()} bits>"


_quoting = _Quoting()
_quoting.maxstring = _quoting.maxother = _quoting.maxlong = 60
quote = _quoting.repr
"""`repr` of any value, short enough for an error message."""


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a v1 snapshot.

    It accepts what `PerformanceSnapshot.from_dict` accepts, with one exception: it also accepts ``1.0`` as
    ``schema_version``, because JSON Schema does not distinguish it from the integer ``1``.
    """
    from importlib.resources import files  # slow to import

    text = (
        files("metrics_framework.snapshots")
        .joinpath("schema/performance-snapshot-v1.json")
        .read_text("utf-8")
    )
    schema: dict[str, Any] = json.loads(text)
    return schema


def is_version_1(value: object) -> bool:
    """Return whether a ``schema_version`` is the integer 1; ``True`` and ``1.0`` are not."""
    return type(value) is int and value == SCHEMA_VERSION


def document_violations(document: object) -> list[str]:
    """Return all violations of a document, in its order; an empty list for a valid v1 snapshot.

    Args:
        document: What `json.loads` returned.
    """
    if not isinstance(document, Mapping):
        return [f"document: must be an object, got {quote(document)}"]
    version = document.get("schema_version", SCHEMA_VERSION)
    if not is_version_1(version):
        return [version_violation(version)]
    violations = list(metadata_violations(document["metadata"], "metadata")) if "metadata" in document else []
    if "metrics" not in document:
        return [*violations, "metrics: is required"]
    return [*violations, *metrics_violations(document["metrics"], "metrics")]


def version_violation(version: object) -> str:
    """Return the violation for a version that is not 1."""
    return f"schema_version: must be the integer 1, got {quote(version)}"


def metadata_violations(metadata: object, path: str) -> Iterator[str]:
    """Yield the violations of a document's ``metadata``."""
    if not isinstance(metadata, Mapping):
        yield f"{path}: must be an object, got {quote(metadata)}"
        return
    if not isinstance(metadata.get("run_id", ""), str):
        yield f"{path}.run_id: must be a string, got {quote(metadata['run_id'])}"
    for key in ("commit", "branch"):
        if not isinstance(metadata.get(key), str | None):
            yield f"{path}.{key}: must be a string or null, got {quote(metadata[key])}"
    if "timestamp" in metadata:
        try:
            parse_timestamp(metadata["timestamp"])
        except ValueError as error:
            yield f"{path}.timestamp: {error}"
    if "tags" in metadata:
        yield from tags_violations(metadata["tags"], f"{path}.tags")


def parse_timestamp(text: object) -> datetime:
    """Return an ISO 8601 datetime as UTC; one without an offset is taken as UTC.

    Raises:
        ValueError: If ``text`` is anything else. The message follows the path in a violation.
    """
    problem = f"must be an ISO 8601 datetime like '2026-01-01T10:00:00+00:00', got {quote(text)}"
    if not isinstance(text, str) or not _TIMESTAMP.fullmatch(text):
        raise ValueError(problem)
    try:
        return as_utc(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        raise ValueError(problem) from None


def as_utc(moment: datetime) -> datetime:
    """Return a time in UTC. A time without an offset is taken as UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def tags_violations(tags: object, path: str) -> Iterator[str]:
    """Yield the violations of metadata tags."""
    if not isinstance(tags, Mapping):
        yield f"{path}: must be an object of strings, got {quote(tags)}"
        return
    if len(tags) > MAX_TAGS:
        yield f"{path}: must have at most {MAX_TAGS} entries, got {len(tags)}"
    for key, value in tags.items():
        if not isinstance(key, str) or not isinstance(value, str):
            yield f"{path}[{quote(key)}]: key and value must be strings, got {quote(value)}"


def metrics_violations(metrics: object, path: str) -> Iterator[str]:
    """Yield the violations of a document's ``metrics``."""
    if not isinstance(metrics, Mapping):
        yield f"{path}: must be an object, got {quote(metrics)}"
        return
    latency = metrics.get("latency")
    if latency is not None:
        yield from latency_violations(latency, f"{path}.latency")
    custom = metrics.get("custom", {})
    yield from value_violations(metrics, path)
    yield from custom_violations(custom, f"{path}.custom")
    standard = [metrics.get(key) for key in ("latency", "throughput", "memory_mb", "cpu_percent")]
    if not custom and all(value is None for value in standard):
        yield f"{path}: must hold at least one of latency, throughput, memory_mb, cpu_percent or custom"


def value_violations(metrics: Mapping[str, object], path: str) -> Iterator[str]:
    """Yield the violations of ``throughput``, ``memory_mb`` and ``cpu_percent``, which may be absent."""
    for key in ("throughput", "memory_mb"):
        value = metrics.get(key)
        if value is not None and not is_measurement(value):
            yield f"{path}.{key}: must be a finite number of 0 or more, got {quote(value)}"
    cpu = metrics.get("cpu_percent")
    if cpu is not None and not is_measurement(cpu, at_most=100):
        yield f"{path}.cpu_percent: must be a number from 0 to 100, got {quote(cpu)}"


def latency_violations(latency: object, path: str) -> Iterator[str]:
    """Yield the violations of a document's ``latency``."""
    if not isinstance(latency, Mapping):
        yield f"{path}: must be an object, got {quote(latency)}"
        return
    present = {key: latency[key] for key in LATENCY_FIELDS if latency.get(key) is not None}
    if not present:
        yield f"{path}: must hold at least one of {', '.join(LATENCY_FIELDS)}"
    for key, value in present.items():
        if not is_measurement(value):
            yield f"{path}.{key}: must be a finite number of 0 or more, got {quote(value)}"


def custom_violations(custom: object, path: str) -> Iterator[str]:
    """Yield the violations of custom metrics."""
    if not isinstance(custom, Mapping):
        yield f"{path}: must be an object of numbers, got {quote(custom)}"
        return
    for key, value in custom.items():
        if not isinstance(key, str) or not key or "." in key:
            yield f"{path}[{quote(key)}]: the key must be a non-empty string without '.'"
        if not is_measurement(value):
            yield f"{path}[{quote(key)}]: must be a finite number of 0 or more, got {quote(value)}"


def is_measurement(value: object, at_most: float = math.inf) -> bool:
    """Return whether a value is a finite number from 0 to ``at_most``. A boolean is not a number."""
    return is_finite_number(value) and 0 <= value <= at_most
