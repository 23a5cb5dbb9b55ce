"""A summary of many telemetry events, with bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from metrics_framework.telemetry.projection import ProjectedTelemetryRecord

MAX_TIMELINE_SLOTS = 240
"""Maximum number of slots in a timeline. Beyond it, the slots double in width."""

_MAX_INTEGER = (1 << 63) - 1


class PeakTimeline:
    """The peak of each time slot. Slots double in width as the timeline gets longer."""

    def __init__(self) -> None:
        self._slots: dict[int, float] = {}
        self._width_ns = 1

    def add(self, time_ns: int, value: float) -> None:
        """Add a value. Times may come in any order."""
        self._add(time_ns // self._width_ns, value)
        while max(self._slots) - min(self._slots) >= MAX_TIMELINE_SLOTS:
            before, self._slots = self._slots, {}
            self._width_ns *= 2
            for slot, peak in before.items():
                self._add(slot // 2, peak)

    def values(self) -> list[float]:
        """Return the peak of each slot. A slot without a value repeats the one before."""
        values: list[float] = []
        for slot in range(min(self._slots, default=0), max(self._slots, default=-1) + 1):
            values.append(self._slots[slot] if slot in self._slots else values[-1])
        return values

    def _add(self, slot: int, value: float) -> None:
        self._slots[slot] = max(self._slots.get(slot, value), value)


class GroupKey(NamedTuple):
    """The session, rank and stage of an event, by which events are grouped."""

    session_id: str
    rank: int | None
    stage: str | None


@dataclass
class GroupSummary:
    """The summary of one group of events.

    Attributes:
        first_ns: The time of the earliest event; ``None`` if no event has a time of 64 bits.
        last_ns: The time of the latest event, likewise.
        records: The number of events.
        source_kinds: The kinds of their sources.
        peak: The largest memory of an event, in bytes; ``None`` if no event has any. Numbers of more than 64
            bits are left out.
        memory: Memory over time: allocated memory, or memory used on the device.
    """

    first_ns: int | None = None
    last_ns: int | None = None
    records: int = 0
    source_kinds: set[str] = field(default_factory=set)
    peak: int | None = None
    memory: PeakTimeline = field(default_factory=PeakTimeline)

    def add(self, record: ProjectedTelemetryRecord) -> None:
        """Add an event."""
        self.records += 1
        self.source_kinds.add(record.source_kind)
        memory, time_ns = _memory(record), record.timestamp_ns
        if memory is not None:
            self.peak = memory if self.peak is None else max(self.peak, memory)
        if abs(time_ns) <= _MAX_INTEGER:
            self.first_ns = time_ns if self.first_ns is None else min(self.first_ns, time_ns)
            self.last_ns = time_ns if self.last_ns is None else max(self.last_ns, time_ns)
            if memory is not None:
                self.memory.add(time_ns, memory)


class TelemetrySummary:
    """Summarizes events by session, rank and stage.

    Attributes:
        records: The number of events.
        groups: The summary of each session, rank and stage, in the order of their first events.
        events: The number of events of each session, type and severity.
    """

    def __init__(self) -> None:
        self.records = 0
        self.groups: dict[GroupKey, GroupSummary] = {}
        self.events: Counter[tuple[str, str, str | None]] = Counter()

    def add(self, record: ProjectedTelemetryRecord) -> None:
        """Add an event."""
        self.records += 1
        rank = record.resource.get("rank")
        key = GroupKey(record.session_id, rank if isinstance(rank, int) else None, record.stage)
        if key not in self.groups:
            self.groups[key] = GroupSummary()
        self.groups[key].add(record)
        self.events[record.session_id, record.event_type, record.severity] += 1

    def sessions(self) -> dict[str, list[GroupSummary]]:
        """Return the groups of each session."""
        sessions: dict[str, list[GroupSummary]] = {}
        for key, summary in self.groups.items():
            sessions.setdefault(key.session_id, []).append(summary)
        return sessions

    def was_stopped(self, session_id: str) -> bool:
        """Return whether a session has a ``stop`` event."""
        return any(session == session_id and kind == "stop" for session, kind, _ in self.events)


def _memory(record: ProjectedTelemetryRecord) -> int | None:
    for attribute in ("memory.allocator.allocated_bytes", "memory.device.used_bytes"):
        value = record.attributes.get(attribute)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INTEGER:
            return value
    return None
