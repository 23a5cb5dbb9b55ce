"""Records projected events as gauges and a counter, so that Prometheus, streams and snapshots get them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from metrics_framework.protocols import MetricCollector
from metrics_framework.recording.store import store_of
from metrics_framework.telemetry.projection import ProjectedTelemetryRecord
from metrics_framework.validation import is_finite_number
from metrics_framework.values import MetricUnit

EVENTS_COUNTER = "telemetry.events"
"""Counts events by type and severity."""

MAX_SOURCES = 10_000
"""Maximum number of sources whose last event is remembered."""


@dataclass(frozen=True)
class TelemetryGauge:
    """The gauge of an attribute of a record.

    Attributes:
        attribute: The attribute.
        name: The name of the gauge.
        help: Its description.
        unit: Its unit, unless the name tells it.
        merge: How its series are merged, if the collector supports it.
    """

    attribute: str
    name: str
    help: str
    unit: MetricUnit | None = None
    merge: Literal["sum", "max"] = "max"


def _memory(place: str, kind: str, help: str, merge: Literal["sum", "max"]) -> TelemetryGauge:
    name = f"memory.{place}.{kind}"
    return TelemetryGauge(f"{name}_bytes", f"telemetry.{name}", help, MetricUnit.BYTES, merge)


TELEMETRY_GAUGES = (
    _memory("allocator", "allocated", "Memory that the allocator has handed out.", "sum"),
    _memory("allocator", "reserved", "Memory that the allocator has reserved on the device.", "sum"),
    _memory("allocator", "active", "Memory in blocks in use.", "sum"),
    _memory("allocator", "inactive", "Memory in blocks that can be reused.", "sum"),
    _memory("allocator", "change", "Change of allocated memory by the last event.", "sum"),
    _memory("device", "used", "Used memory of the device.", "max"),
    _memory("device", "free", "Free memory of the device.", "max"),
    _memory("device", "total", "Total memory of the device.", "max"),
    TelemetryGauge("gpu.utilization", "telemetry.gpu.utilization", "Share of time that the GPU was busy."),
    TelemetryGauge("gpu.power_watts", "telemetry.gpu.power_watts", "Power draw of the GPU.", merge="sum"),
    TelemetryGauge("gpu.temperature_celsius", "telemetry.gpu.temperature_celsius", "Temperature of the GPU."),
)


class TelemetryRecorder:
    """Records the measurements of projected events as gauges, and counts the events.

    Gauges and the counter have the tags ``source_kind``, ``host``, ``rank`` and ``device``, which are
    ``unknown`` if the event does not have them. The counter also has ``event_type`` and ``severity``, which
    may be ``none``. An event older than the last one of its source is counted, but sets no gauge.

    Args:
        collector: Receives the records.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> from metrics_framework.telemetry import project_telemetry_mapping
        >>> metrics = MetricsSystem()
        >>> event = {"session_id": "s", "timestamp_ns": 1, "event_type": "peak", "device_used_bytes": 7}
        >>> TelemetryRecorder(metrics.collector).record(project_telemetry_mapping(event))
        >>> metrics.aggregator.get_metric_summary("telemetry.memory.device.used")["last"]
        7
    """

    def __init__(self, collector: MetricCollector) -> None:
        self._collector = collector
        self._latest: dict[tuple[str, ...], int] = {}
        _describe(collector)

    def record(self, record: ProjectedTelemetryRecord) -> None:
        """Record an event. Measurements that are not finite numbers are left out.

        Raises:
            InvalidInputError: If the collector refuses it, for example because a name has another type.
        """
        tags = _tags(record)
        kind = {"event_type": record.event_type, "severity": record.severity or "none"}
        self._collector.record_counter(EVENTS_COUNTER, 1, {**tags, **kind})
        if not self._is_latest(tuple(tags.values()), record.timestamp_ns):
            return
        for gauge in TELEMETRY_GAUGES:
            value = record.attributes.get(gauge.attribute)
            if is_finite_number(value):
                self._collector.record_gauge(gauge.name, value, tags)

    def record_all(self, records: Iterable[ProjectedTelemetryRecord]) -> int:
        """Record events, and return their number."""
        count = 0
        for record in records:
            self.record(record)
            count += 1
        return count

    def _is_latest(self, source: tuple[str, ...], timestamp_ns: int) -> bool:
        latest = self._latest.pop(source, timestamp_ns)
        # Inserted again at the end, so that the source without events for longest is removed.
        self._latest[source] = max(latest, timestamp_ns)
        if len(self._latest) > MAX_SOURCES:
            del self._latest[next(iter(self._latest))]
        return timestamp_ns >= latest


def _tags(record: ProjectedTelemetryRecord) -> dict[str, str]:
    tags = {"source_kind": record.source_kind}
    for tag, key in (("host", "host"), ("rank", "rank"), ("device", "device_id")):
        value = record.resource.get(key)
        tags[tag] = str(value) if isinstance(value, (str, int)) else "unknown"
    return tags


def _describe(collector: MetricCollector) -> None:
    """Describe the gauges, if the collector has a store and they are not described yet."""
    store = store_of(collector)
    if store is None:
        return
    for gauge in TELEMETRY_GAUGES:
        before = store.description(gauge.name)
        if before.unit is None and not before.help and before.merge == "latest":
            store.describe(gauge.name, unit=gauge.unit, help=gauge.help, merge=gauge.merge)
    if not store.description(EVENTS_COUNTER).help:
        store.describe(EVENTS_COUNTER, help="Telemetry events.")
