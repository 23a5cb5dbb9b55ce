"""The common envelope of telemetry events, which trackers of GPU and CPU memory write.

An event is a mapping with about twenty keys (schema versions 3 and 4). Its projection separates the fields of
all events, such as time, session, severity and stage, from the source (``resource``), the measurements
(``attributes``) and the relation to other events (``correlation``). The structure, names and record ids are
those of Stormlog 0.3.4 to 0.3.9.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Literal, TypeGuard

from metrics_framework.errors import InvalidInputError

TELEMETRY_PROJECTION_SCHEMA_VERSION: Literal[1] = 1
"""The version of the envelope."""

_BACKENDS = frozenset(("cpu", "cuda", "rocm", "mps", "tensorflow"))
_BACKENDS_IN_COLLECTORS = ("cuda", "rocm", "mps", "cpu", "tensorflow")  # the first match wins

_SEVERITIES = {
    "critical": "critical",
    "error": "error",
    "warning": "warning",
    "collector_degraded": "warning",
    "collector_recovered": "info",
    "start": "info",
    "stop": "info",
    "phase_enter": "info",
    "phase_exit": "info",
    "sample": "info",
}

_MEASURED_KEYS = {
    "sampling.interval_ms": "sampling_interval_ms",
    "memory.allocator.allocated_bytes": "allocator_allocated_bytes",
    "memory.allocator.reserved_bytes": "allocator_reserved_bytes",
    "memory.allocator.active_bytes": "allocator_active_bytes",
    "memory.allocator.inactive_bytes": "allocator_inactive_bytes",
    "memory.allocator.change_bytes": "allocator_change_bytes",
    "memory.device.used_bytes": "device_used_bytes",
    "memory.device.free_bytes": "device_free_bytes",
    "memory.device.total_bytes": "device_total_bytes",
}
_RESOURCE_KEYS = ("collector", "host", "pid", "device_id", "job_id", "rank", "local_rank", "world_size")
_CORRELATION_KEYS = ("session_id", "job_id", "rank", "local_rank", "world_size")
_PHASE_KEYS = ("scope_id", "parent_scope_id", "sequence")

_SCALARS = frozenset((str, int, float, bool, type(None)))


@dataclass(frozen=True)
class ProjectedTelemetryRecord:
    """One telemetry event in the envelope. It is immutable, including its mappings and their values.

    Attributes:
        schema_version: `TELEMETRY_PROJECTION_SCHEMA_VERSION`.
        record_id: ``telemetry-`` and a hash of 128 bits of the event. Equal events have equal ids.
        timestamp_ns: The time of the event, in nanoseconds since 1970.
        observed_timestamp_ns: The time at which it was observed.
        session_id: The run of a tracker.
        source_kind: ``cpu``, ``cuda``, ``rocm``, ``mps`` or ``tensorflow``; else ``gpu`` or ``other``.
        event_type: Such as ``sample``, ``allocation``, ``peak`` or ``warning``.
        stage: The innermost phase of the program.
        severity: ``info``, ``warning``, ``error`` or ``critical``, or the severity given in the event.
        severity_text: The severity in the words of the event.
        body: A message for people.
        resource: The source: collector, host, process, device, job and rank.
        attributes: The metadata of the event, and its measurements as ``memory.…``.
        correlation: The values that related events share: session, job, rank, phase.
    """

    schema_version: Literal[1]
    record_id: str
    timestamp_ns: int
    observed_timestamp_ns: int
    session_id: str
    source_kind: str
    event_type: str
    stage: str | None
    severity: str | None
    severity_text: str | None
    body: str | None
    resource: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    correlation: Mapping[str, Any] = field(default_factory=dict)


def project_telemetry_mapping(
    record: Mapping[str, Any], *, observed_timestamp_ns: int | None = None
) -> ProjectedTelemetryRecord:
    """Return a telemetry event in the envelope.

    Only the fields that identify the event are checked. Its type, schema version and other values are not.

    Args:
        record: The event, as parsed from a line of a telemetry file.
        observed_timestamp_ns: The time at which it was observed; the time of the event by default.

    Raises:
        InvalidInputError: If ``session_id``, ``timestamp_ns`` or ``event_type`` is missing or has the wrong
            type, ``metadata`` is not a mapping, or ``observed_timestamp_ns`` is not an integer of 0 or more.

    Example:
        >>> event = {"session_id": "s", "timestamp_ns": 7, "event_type": "warning", "device_id": 0}
        >>> record = project_telemetry_mapping(event)
        >>> record.source_kind, record.severity, record.record_id
        ('gpu', 'warning', 'telemetry-afe59c5f323bc72fdd8676b60d2eadaf')
    """
    session_id = record.get("session_id")
    if not isinstance(session_id, str) or not session_id.strip():
        raise _required("session_id")
    timestamp_ns = record.get("timestamp_ns")
    if not _is_integer(timestamp_ns):
        raise _required("integer timestamp_ns")
    if observed_timestamp_ns is not None:
        if not _is_integer(observed_timestamp_ns):
            raise _required("integer observed_timestamp_ns")
        if observed_timestamp_ns < 0:
            raise _required("non-negative observed_timestamp_ns")
    event_type = record.get("event_type")
    if not isinstance(event_type, str) or not event_type.strip():
        raise _required("event_type")
    given = record.get("metadata", {})
    if not isinstance(given, Mapping):
        raise InvalidInputError("projected telemetry record metadata must be a mapping")
    metadata = dict(given)

    source_kind = _source_kind(record, metadata)
    severity_text = metadata.get("severity_text")
    body = record.get("context")
    phase = metadata.get("phase_scope")
    if not isinstance(phase, Mapping):
        phase = {}
    return ProjectedTelemetryRecord(
        schema_version=TELEMETRY_PROJECTION_SCHEMA_VERSION,
        record_id=_record_id(record),
        timestamp_ns=timestamp_ns,
        observed_timestamp_ns=timestamp_ns if observed_timestamp_ns is None else observed_timestamp_ns,
        session_id=session_id,
        source_kind=source_kind,
        event_type=event_type,
        stage=_stage(phase),
        severity=_severity(event_type, metadata),
        severity_text=None if severity_text is None else str(severity_text),
        body=None if body is None else str(body),
        resource=_freeze({"source_kind": source_kind, **{key: record.get(key) for key in _RESOURCE_KEYS}}),
        attributes=_freeze({**metadata, **{name: record.get(key) for name, key in _MEASURED_KEYS.items()}}),
        correlation=_freeze(
            {
                **{key: record.get(key) for key in _CORRELATION_KEYS},
                **{f"phase.{key}": value for key in _PHASE_KEYS if (value := phase.get(key)) is not None},
            }
        ),
    )


def projected_record_to_dict(record: ProjectedTelemetryRecord) -> dict[str, Any]:
    """Return a record as plain data for JSON, with its keys in a fixed order."""
    return {name: _to_plain(getattr(record, name)) for name in _FIELDS}


_FIELDS = tuple(one.name for one in fields(ProjectedTelemetryRecord))


def unique_projected_resources(records: Iterable[ProjectedTelemetryRecord]) -> list[dict[str, Any]]:
    """Return the distinct ``resource`` mappings of records, in order of first appearance."""
    return list(_unique(record.resource for record in records))


def unique_projected_correlations(records: Iterable[ProjectedTelemetryRecord]) -> list[dict[str, Any]]:
    """Return the distinct ``correlation`` mappings of records, in order of first appearance."""
    return list(_unique(record.correlation for record in records))


def _unique(mappings: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for mapping in mappings:
        plain = _to_plain(mapping)
        text = _canonical(plain)
        if text not in seen:
            seen.add(text)
            yield plain


def _required(what: str) -> InvalidInputError:
    return InvalidInputError(f"projected telemetry record requires {what}")


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _source_kind(record: Mapping[str, Any], metadata: Mapping[str, Any]) -> str:
    backend = metadata.get("backend")
    if isinstance(backend, str) and (named := backend.strip().lower()) in _BACKENDS:
        return named
    collector = record.get("collector")
    if isinstance(collector, str):
        lowered = collector.lower()
        for candidate in _BACKENDS_IN_COLLECTORS:
            if candidate in lowered:
                return candidate
    device_id = record.get("device_id")
    return "gpu" if isinstance(device_id, int) and device_id >= 0 else "other"


def _stage(phase: Mapping[str, Any]) -> str | None:
    name = phase.get("name")
    if isinstance(name, str) and name.strip():
        return name
    path = phase.get("path")
    if isinstance(path, list) and path and isinstance(path[-1], str) and path[-1].strip():
        return path[-1]
    return None


def _severity(event_type: str, metadata: Mapping[str, Any]) -> str | None:
    given = metadata.get("severity")
    if isinstance(given, str) and given.strip():
        return given.strip().lower()
    return _SEVERITIES.get(event_type.strip().lower())


# -- frozen and plain data -----------------------------------------------------------------------------


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType(
            {
                (key if key.__class__ is str else str(key)): (
                    item if item.__class__ in _SCALARS else _freeze(item)
                )
                for key, item in value.items()
            }
        )
    if isinstance(value, (list, tuple)):
        return tuple(_freeze(item) for item in value)
    return value


def _to_plain(value: Any) -> Any:
    if value.__class__ in _SCALARS:
        return value
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_to_plain(item) for item in value]
    return value


# -- record ids ----------------------------------------------------------------------------------------

_encode = json.JSONEncoder(sort_keys=True, default=str).encode


def _record_id(record: Mapping[str, Any]) -> str:
    return f"telemetry-{hashlib.sha256(_canonical(record).encode()).hexdigest()[:32]}"


def _canonical(mapping: Mapping[str, Any]) -> str:
    """Return the JSON text from which record ids are made.

    By definition, the plain mapping is converted to JSON, parsed, and converted again. The first text is
    already the result, unless a key is not a string or there is a lone surrogate, which parsing changes.
    """
    try:
        if _is_plain(mapping) and "\\ud" not in (text := _encode(mapping)):
            return text
    except RecursionError:  # the full conversion may need less depth
        pass
    return _encode(json.loads(_encode(_to_plain(mapping))))


def _is_plain(value: Any) -> bool:
    """Return whether a value consists of types that JSON parsing returns, which need no conversion."""
    kind = value.__class__
    if kind in _SCALARS:
        return True
    if kind is dict:
        for key, item in value.items():
            if key.__class__ is not str or not (item.__class__ in _SCALARS or _is_plain(item)):
                return False
        return True
    return kind is list and all(_is_plain(item) for item in value)
