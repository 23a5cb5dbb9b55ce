"""The models of a v1 performance snapshot.

The format is the FlameIQ performance schema, version 1. It is stable, and the ``flameiq`` command line reads
and writes it too. All rules are in `metrics_framework.snapshots.rules`; constructors check them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from metrics_framework.errors import SchemaVersionError, SnapshotError
from metrics_framework.snapshots import rules


class Environment(StrEnum):
    """The environment of a run; any other value becomes `CUSTOM`."""

    CI = "ci"
    LOCAL = "local"
    STAGING = "staging"
    CUSTOM = "custom"

    @classmethod
    def _missing_(cls, value: object) -> Environment:
        return cls.CUSTOM


@dataclass(frozen=True)
class LatencyMetrics:
    """Latency in milliseconds, with at least one field.

    Attributes:
        mean: The arithmetic mean.
        p50: The median.
        p95: The 95th percentile, the first one that comparisons use.
        p99: The 99th percentile.

    Raises:
        SnapshotError: If all fields are ``None``, or a field is not a finite number of 0 or more.
    """

    mean: float | None = None
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None

    def __post_init__(self) -> None:
        _raise_if_any(rules.latency_violations(vars(self), "latency"))


@dataclass(frozen=True)
class Metrics:
    """All measurements of one run, at least one.

    Attributes:
        latency: The durations of operations, in milliseconds.
        throughput: Operations per second.
        memory_mb: Peak resident memory in megabytes of 10^6 bytes.
        cpu_percent: Average CPU utilization, 0 to 100 for all cores together.
        custom: Other measurements. A key has no dot.

    Raises:
        SnapshotError: If there is no measurement, or a value breaks a rule of the schema.
    """

    latency: LatencyMetrics | None = None
    throughput: float | None = None
    memory_mb: float | None = None
    cpu_percent: float | None = None
    custom: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.latency is not None and not isinstance(self.latency, LatencyMetrics):
            _raise_if_any([f"metrics.latency: must be LatencyMetrics, got {rules.quote(self.latency)}"])
        _raise_if_any(rules.metrics_violations(self._to_dict(), "metrics"))

    def flat(self) -> dict[str, float]:
        """Return every measurement under its flat key.

        Keys are ``latency.mean``, ``latency.p50``, ``latency.p95``, ``latency.p99``, ``throughput``,
        ``memory_mb``, ``cpu_percent`` and ``custom.<name>``, in this order. Absent measurements are omitted.
        """
        plain = self._to_dict()
        latency, custom = plain.pop("latency", {}), plain.pop("custom", {})
        return {
            **{f"latency.{key}": float(value) for key, value in latency.items()},
            **{key: float(value) for key, value in plain.items()},
            **{f"custom.{key}": float(value) for key, value in custom.items()},
        }

    def _to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {}
        if self.latency is not None:
            plain["latency"] = {key: value for key, value in vars(self.latency).items() if value is not None}
        for key in ("throughput", "memory_mb", "cpu_percent"):
            if getattr(self, key) is not None:
                plain[key] = getattr(self, key)
        if self.custom or not isinstance(self.custom, dict):
            plain["custom"] = dict(self.custom) if isinstance(self.custom, Mapping) else self.custom
        return plain


@dataclass(frozen=True)
class SnapshotMetadata:
    """The context of a run.

    Attributes:
        run_id: Identifies the run; a new UUID4 by default.
        commit: The git commit, or ``None`` outside a repository.
        branch: The git branch, or ``None`` if there is none.
        timestamp: The time of the run, converted to UTC; now by default.
        environment: The environment of the run. A string is converted to an `Environment`.
        tags: Any other context: at most 50 pairs of strings.

    Raises:
        SnapshotError: If a value breaks a rule of the schema.
    """

    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    commit: str | None = None
    branch: str | None = None
    timestamp: datetime = field(default_factory=lambda: datetime.now(tz=UTC))
    environment: Environment = Environment.CI
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain = {key: getattr(self, key) for key in ("run_id", "commit", "branch", "tags")}
        violations = list(rules.metadata_violations(plain, "metadata"))
        try:
            if not isinstance(self.timestamp, datetime):
                raise TypeError
            object.__setattr__(self, "timestamp", rules.as_utc(self.timestamp))
        except (TypeError, OverflowError):
            violations.append(f"metadata.timestamp: must be a datetime, got {rules.quote(self.timestamp)}")
        _raise_if_any(violations)
        object.__setattr__(self, "environment", Environment(self.environment))


@dataclass(frozen=True)
class PerformanceSnapshot:
    """The measurements and the context of one run.

    Attributes:
        metrics: The measurements.
        schema_version: The integer 1.
        metadata: The context.

    Raises:
        SchemaVersionError: If ``schema_version`` is not the integer 1.
        SnapshotError: If a part is of another type.

    Example:
        >>> snapshot = PerformanceSnapshot(Metrics(latency=LatencyMetrics(p95=180.0), throughput=950.2))
        >>> PerformanceSnapshot.from_dict(snapshot.to_dict()) == snapshot
        True
    """

    metrics: Metrics
    schema_version: int = rules.SCHEMA_VERSION
    metadata: SnapshotMetadata = field(default_factory=SnapshotMetadata)

    def __post_init__(self) -> None:
        if not rules.is_version_1(self.schema_version):
            raise SchemaVersionError([rules.version_violation(self.schema_version)])
        parts = (("metrics", self.metrics, Metrics), ("metadata", self.metadata, SnapshotMetadata))
        _raise_if_any(
            f"{name}: must be {kind.__name__}, got {rules.quote(part)}"
            for name, part, kind in parts
            if not isinstance(part, kind)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON. `from_dict` returns an equal snapshot from it."""
        metadata = self.metadata
        return {
            "schema_version": self.schema_version,
            "metadata": {
                "run_id": metadata.run_id,
                "commit": metadata.commit,
                "branch": metadata.branch,
                "timestamp": metadata.timestamp.isoformat(),
                "environment": metadata.environment.value,
                "tags": dict(metadata.tags),
            },
            "metrics": self.metrics._to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PerformanceSnapshot:
        """Return a snapshot from plain data, such as a parsed JSON document.

        Absent fields get their defaults (``schema_version`` 1, the current time as timestamp), an unknown
        environment becomes ``custom``, and fields that v1 does not have are ignored.

        Raises:
            SchemaVersionError: If ``schema_version`` is not the integer 1.
            SnapshotError: If anything else breaks a rule. It lists every violation.
        """
        violations = rules.document_violations(data)
        if violations:
            wrong_version = violations[0].startswith("schema_version")
            raise (SchemaVersionError if wrong_version else SnapshotError)(violations)
        metadata = dict(data.get("metadata", {}))
        if "timestamp" in metadata:
            metadata["timestamp"] = rules.parse_timestamp(metadata["timestamp"])
        if "tags" in metadata:
            metadata["tags"] = dict(metadata["tags"])
        metrics = data["metrics"]
        latency = metrics.get("latency")
        return cls(
            metrics=Metrics(
                latency=LatencyMetrics(**_pick(latency, rules.LATENCY_FIELDS))
                if latency is not None
                else None,
                throughput=metrics.get("throughput"),
                memory_mb=metrics.get("memory_mb"),
                cpu_percent=metrics.get("cpu_percent"),
                custom=dict(metrics.get("custom", {})),
            ),
            metadata=SnapshotMetadata(
                **_pick(metadata, ("run_id", "commit", "branch", "timestamp", "environment", "tags"))
            ),
        )


def _pick(data: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: data[key] for key in keys if key in data}


def _raise_if_any(violations: Iterable[str]) -> None:
    found = list(violations)
    if found:
        raise SnapshotError(found)
