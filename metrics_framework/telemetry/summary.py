"""What a lot of events say together, in memory that does not grow with them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from metrics_framework.telemetry.projection import ProjectedTelemetryRecord

MAX_TIMELINE_SLOTS = 240
"""How many stretches of time the memory over time is kept for at least half of, and at most."""


class PeakTimeline:
    """The largest value of each stretch of time, stretches being as long as they need to be."""

    def __init__(self) -> None:
        self._slots: dict[int, float] = {}
        self._width_ns = 1

    def add(self, time_ns: int, value: float) -> None:
        """Take a value in; times may come in any order."""
        self._keep(time_ns // self._width_ns, value)
        while max(self._slots) - min(self._slots) >= MAX_TIMELINE_SLOTS:
            before, self._slots = self._slots, {}
            self._width_ns *= 2
            for slot, highest in before.items():
                self._keep(slot // 2, highest)

    def values(self) -> list[float]:
        """Return the values at equal distances in time; where nothing was measured it is the last one."""
        values: list[float] = []
        for slot in range(min(self._slots, default=0), max(self._slots, default=-1) + 1):
            values.append(self._slots[slot] if slot in self._slots else values[-1])
        return values

    def _keep(self, slot: int, value: float) -> None:
        self._slots[slot] = max(self._slots.get(slot, value), value)


class GroupKey(NamedTuple):
    """What events are told apart by: session, rank and stage, where they say them."""

    session_id: str
    rank: int | None
    stage: str | None


@dataclass
class GroupSummary:
    """What the events of one part say.

    Attributes:
        source_kinds: The kinds of their sources.
        records: How many they are.
        first_ns: The time of the earliest.
        last_ns: The time of the latest.
        peak: The most memory that one of them measured, in bytes; ``None`` where none did.
        memory: The memory over time: allocated, or else used on the device.
    """

    first_ns: int
    last_ns: int
    records: int = 0
    source_kinds: set[str] = field(default_factory=set)
    peak: int | None = None
    memory: PeakTimeline = field(default_factory=PeakTimeline)

    def add(self, record: ProjectedTelemetryRecord) -> None:
        """Take an event in."""
        self.records += 1
        self.first_ns = min(self.first_ns, record.timestamp_ns)
        self.last_ns = max(self.last_ns, record.timestamp_ns)
        self.source_kinds.add(record.source_kind)
        memory = _memory(record)
        if memory is not None:
            self.peak = memory if self.peak is None else max(self.peak, memory)
            self.memory.add(record.timestamp_ns, memory)


class TelemetrySummary:
    """Sums events up by session, rank and stage.

    Attributes:
        records: How many there were.
        parts: What those of each session, rank and stage say, in the order of their first events.
        events: How many there were of each session, type and severity.
    """

    def __init__(self) -> None:
        self.records = 0
        self.groups: dict[GroupKey, GroupSummary] = {}
        self.events: Counter[tuple[str, str, str | None]] = Counter()

    def add(self, record: ProjectedTelemetryRecord) -> None:
        """Take an event in."""
        self.records += 1
        rank = record.resource.get("rank")
        group = GroupKey(record.session_id, rank if isinstance(rank, int) else None, record.stage)
        if group not in self.groups:
            self.groups[group] = GroupSummary(record.timestamp_ns, record.timestamp_ns)
        self.groups[group].add(record)
        self.events[record.session_id, record.event_type, record.severity] += 1

    def sessions(self) -> dict[str, list[GroupSummary]]:
        """Return the parts of each session."""
        sessions: dict[str, list[GroupSummary]] = {}
        for group, summary in self.groups.items():
            sessions.setdefault(group.session_id, []).append(summary)
        return sessions

    def was_stopped(self, session_id: str) -> bool:
        """Return whether a session has an event that says so."""
        return any(session == session_id and kind == "stop" for session, kind, _ in self.events)


def _memory(record: ProjectedTelemetryRecord) -> int | None:
    for attribute in ("memory.allocator.allocated_bytes", "memory.device.used_bytes"):
        value = record.attributes.get(attribute)
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return value
    return None
