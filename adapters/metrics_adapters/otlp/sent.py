"""What a receiver has of each series, so that the next export says from when on its numbers count."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from metrics_adapters.otlp.contents import Content, Part, is_empty, since, whole
from metrics_adapters.otlp.readings import Reading, Stream

Temporality = Literal["cumulative", "delta"]

_Key = tuple[Stream, frozenset[tuple[str, str]]]


class Point(NamedTuple):
    """What is sent of a series.

    Attributes:
        stream: What all series of its name have in common.
        attributes: What tells it from the others.
        start_ns: When it began to count what it holds, in nanoseconds since the epoch.
        part: What it holds.
    """

    stream: Stream
    attributes: dict[str, str]
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
        self._entries: dict[_Key, _Entry] = {}

    def points(self, readings: Iterable[Reading]) -> list[Point]:
        """Return what is to be sent of some series; as deltas, those without anything new are left out."""
        points = []
        for reading in readings:
            stream, attributes, content = reading
            entry = self._entries.get(_key(reading))
            start_ns, part = self._since_ns, None
            if entry is not None and stream.kind != "gauge":
                part = since(content, entry.content)
                # One that holds less than before was removed, or is another process's: it began anew.
                start_ns = entry.sent_ns if self._is_delta or part is None else entry.start_ns
            if stream.kind == "gauge" or part is None or not self._is_delta:
                part = whole(content)
            if self._is_delta and stream.kind != "gauge" and is_empty(part):
                continue
            points.append(Point(stream, attributes, start_ns, part))
        return points

    def commit(self, readings: Iterable[Reading], points: Iterable[Point], now_ns: int) -> None:
        """Take note that some series were received.

        Args:
            readings: What was read of them.
            points: What was sent of them.
            now_ns: When they were read.
        """
        starts = {(point.stream, frozenset(point.attributes.items())): point.start_ns for point in points}
        for reading in readings:
            if reading.stream.kind != "gauge":
                key = _key(reading)
                self._entries[key] = _Entry(starts.get(key, self._since_ns), now_ns, reading.content)

    def complete(self, readings: Iterable[Reading], now_ns: int) -> None:
        """Take note that everything was received; what is there no more is forgotten."""
        present = {_key(reading) for reading in readings}
        self._entries = {key: entry for key, entry in self._entries.items() if key in present}
        self._since_ns = now_ns


def _key(reading: Reading) -> _Key:
    return reading.stream, frozenset(reading.attributes.items())
