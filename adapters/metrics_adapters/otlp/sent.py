"""What a receiver has of each series, so that the next export says from when on its numbers count."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Literal, NamedTuple

from metrics_adapters.otlp.contents import Content, Part, began_anew, is_empty, since, whole
from metrics_adapters.otlp.readings import Reading

Temporality = Literal["cumulative", "delta"]


class Point(NamedTuple):
    """What is sent of a series.

    Attributes:
        reading: The series, and all that it holds.
        start_ns: When it began to count what is sent, in nanoseconds since the epoch.
        part: What is sent.
    """

    reading: Reading
    start_ns: int
    part: Part


class _Entry(NamedTuple):
    start_ns: int
    sent_ns: int
    content: Content


class Sent:
    """Keeps what was received, by series.

    Only what `commit` is told of counts as received, so an export that fails loses nothing: the next one has
    it too.

    Args:
        start_ns: When the source began, in nanoseconds since the epoch.
        temporality: ``cumulative`` sends all since a series began, ``delta`` what is new.
    """

    def __init__(self, start_ns: int, temporality: Temporality) -> None:
        self._since_ns = start_ns
        self._is_delta = temporality == "delta"
        self._entries: dict[Hashable, _Entry] = {}

    def points(self, readings: Iterable[Reading]) -> list[Point]:
        """Return what is to be sent of some series; as deltas, those without anything new are left out."""
        found = self._delta if self._is_delta else self._cumulative
        return [point for reading in readings if (point := found(reading)) is not None]

    def commit(self, points: Iterable[Point], now_ns: int) -> None:
        """Take note that some points, which were read at that time, were received."""
        for reading, start_ns, _ in points:
            if reading.stream.kind != "gauge":
                self._entries[reading.key] = _Entry(start_ns, now_ns, reading.content)

    def complete(self, readings: Iterable[Reading], now_ns: int) -> None:
        """Take note that everything was received; what is there no more is forgotten."""
        present = {reading.key for reading in readings}
        for key in [key for key in self._entries if key not in present]:
            del self._entries[key]
        self._since_ns = now_ns

    def _cumulative(self, reading: Reading) -> Point:
        entry = self._entries.get(reading.key)
        start_ns = self._since_ns
        if entry is not None:
            # What holds less than before was removed, and began anew after it was sent last.
            start_ns = entry.sent_ns if began_anew(reading.content, entry.content) else entry.start_ns
        return Point(reading, start_ns, whole(reading.content))

    def _delta(self, reading: Reading) -> Point | None:
        if reading.stream.kind == "gauge":
            return Point(reading, self._since_ns, whole(reading.content))
        entry = self._entries.get(reading.key)
        start_ns, part = self._since_ns, None
        if entry is not None:
            if entry.content == reading.content:
                return None
            start_ns, part = max(start_ns, entry.sent_ns), since(reading.content, entry.content)
        if part is None:
            part = whole(reading.content)
        return None if is_empty(part) else Point(reading, start_ns, part)
