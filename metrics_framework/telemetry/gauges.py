"""Projected events as gauges and counters: so they reach Prometheus, streams and snapshots."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeGuard

from metrics_framework.protocols import MetricCollector
from metrics_framework.recording.store import store_of
from metrics_framework.telemetry.projection import ProjectedTelemetryRecord
from metrics_framework.values import MetricUnit

EVENTS = "telemetry.events"
"""The counter of events, by type and severity."""

MAX_SOURCES = 10_000
"""Of how many sources the time of the last event is remembered."""


@dataclass(frozen=True)
class TelemetryGauge:
    """What an attribute of a record is recorded as.

    Attributes:
        attribute: The attribute.
        name: The gauge's name.
        help: What it is.
        unit: What it is counted in, where that is not in the name.
        merge: What its series are together, on a collector that can be told.
    """

    attribute: str
    name: str
    help: str
    unit: MetricUnit | None = None
    merge: Literal["sum", "max"] = "max"


def _memory(place: str, what: str, help: str, merge: Literal["sum", "max"]) -> TelemetryGauge:
    name = f"memory.{place}.{what}"
    return TelemetryGauge(f"{name}_bytes", f"telemetry.{name}", help, MetricUnit.BYTES, merge)


TELEMETRY_GAUGES = (
    _memory("allocator", "allocated", "Memory that a program's allocator has given out.", "sum"),
    _memory("allocator", "reserved", "Memory that a program's allocator has taken from the device.", "sum"),
    _memory("allocator", "active", "Memory in blocks that are in use.", "sum"),
    _memory("allocator", "inactive", "Memory in blocks that could be used again.", "sum"),
    _memory("allocator", "change", "How much the last event changed.", "sum"),
    _memory("device", "used", "Memory of the device that anybody uses.", "max"),
    _memory("device", "free", "Memory of the device that nobody uses.", "max"),
    _memory("device", "total", "Memory of the device.", "max"),
    TelemetryGauge("gpu.utilization", "telemetry.gpu.utilization", "Share of the time that the GPU worked."),
    TelemetryGauge("gpu.power_watts", "telemetry.gpu.power_watts", "Power that the GPU draws.", merge="sum"),
    TelemetryGauge("gpu.temperature_celsius", "telemetry.gpu.temperature_celsius", "The GPU's temperature."),
)


class TelemetryRecorder:
    """Records projected events: what they measured as gauges, and that they happened as a counter.

    Gauges and the counter bear the tags ``source_kind``, ``host``, ``rank`` and ``device``, which are
    ``unknown`` where the event does not say them; the counter ``event_type`` and ``severity`` as well, which
    may be ``none``. An event that is older than the last one of its source is counted and moves no gauge.

    Args:
        collector: Where to.

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
        """Record an event; what is no finite number in it is left out.

        Raises:
            InvalidInputError: If the collector refuses it, as where a name is another type of metric.
        """
        tags = _tags(record)
        kind = {"event_type": record.event_type, "severity": record.severity or "none"}
        self._collector.record_counter(EVENTS, 1, {**tags, **kind})
        if not self._is_latest(tuple(tags.values()), record.timestamp_ns):
            return
        for gauge in TELEMETRY_GAUGES:
            value = record.attributes.get(gauge.attribute)
            if _is_number(value):
                self._collector.record_gauge(gauge.name, value, tags)

    def record_all(self, records: Iterable[ProjectedTelemetryRecord]) -> int:
        """Record events, and return how many they were."""
        count = 0
        for record in records:
            self.record(record)
            count += 1
        return count

    def _is_latest(self, source: tuple[str, ...], timestamp_ns: int) -> bool:
        latest = self._latest.pop(source, timestamp_ns)
        # Put back at the end: what is forgotten is the source that was silent for longest.
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


def _is_number(value: object) -> TypeGuard[int | float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _describe(collector: MetricCollector) -> None:
    """Say what the gauges are, where the collector has a store and nobody said it before."""
    store = store_of(collector)
    if store is None:
        return
    for gauge in TELEMETRY_GAUGES:
        said = store.description(gauge.name)
        if said.unit is None and not said.help and said.merge == "latest":
            store.describe(gauge.name, unit=gauge.unit, help=gauge.help, merge=gauge.merge)
    if not store.description(EVENTS).help:
        store.describe(EVENTS, help="Telemetry events.")
