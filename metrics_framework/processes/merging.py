"""How the numbers of several workers become those of one store."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from metrics_framework.processes.contents import (
    Contents,
    Group,
    MetricKey,
    Reading,
    Recent,
    SharedSeriesKey,
)
from metrics_framework.processes.removed import RemovedNames
from metrics_framework.processes.sources import Archive, WorkerSource
from metrics_framework.recording.distribution import weighted_values
from metrics_framework.recording.engine import GaugeAggregate
from metrics_framework.recording.metric import GAUGE
from metrics_framework.recording.windows import (
    MAX_RECENT_NS,
    RecentWindows,
    Windows,
    combine_recent,
    combine_windows,
)

MAX_STEMS = 4_096
"""How many workers with deleted files the archive remembers, for readers that have read these files."""


def merge_readings(readings: Sequence[Reading], law: str, bounds: tuple[float, ...]) -> Reading | None:
    """Return the numbers of a series over several workers; ``None`` without any.

    Args:
        readings: Its numbers in each worker.
        law: How a gauge is combined.
        bounds: Upper bounds that the values of a distribution are counted by. The values of a worker that
            counts by another number of bounds are counted from its distribution, within 1 %.
    """
    if len(readings) <= 1 and not bounds:
        return readings[0] if readings else None
    if not readings:
        return None
    aggregate = readings[0][0]
    is_gauge = isinstance(aggregate, GaugeAggregate)
    for reading in readings[1:]:
        aggregate = aggregate.combine(reading[0], law) if is_gauge else aggregate.merge(reading[0])
    counts: tuple[int, ...] | None = None
    total: int | float = 0
    if bounds:
        counted = [_counted(reading, bounds) for reading in readings]
        counts = tuple(sum(some) for some in zip(*(one[0] for one in counted), strict=True))
        total = sum(one[1] for one in counted)
    created = [reading[3] for reading in readings if reading[3]] or [0]
    return aggregate, counts, total, min(created), max([reading[4] for reading in readings])


def _counted(reading: Reading, bounds: tuple[float, ...]) -> tuple[tuple[int, ...], int | float]:
    aggregate, counts, total, _, _ = reading
    if counts is not None and len(counts) == len(bounds) + 1:
        return counts, total
    seeded = [0] * (len(bounds) + 1)
    for value, number in weighted_values(aggregate):
        seeded[bisect_left(bounds, value)] += number
    return tuple(seeded), aggregate.sum


def law_of(described: str | None, is_stepped: bool) -> str:
    """Return how a gauge of several workers is combined, given what its description says."""
    return described or ("sum" if is_stepped else "latest")


class Merged:
    """The contents of an archive in the making: the sum of workers that have ended.

    Args:
        archive: The archive so far.
        removed: The removals.
        now_ns: Now.
    """

    def __init__(self, archive: Archive, removed: RemovedNames, now_ns: int) -> None:
        before = archive.contents
        self._removed = removed
        self._now_ns = now_ns
        self._stems = dict.fromkeys(before.header.get("stems", ()))
        self._lost = dict.fromkeys(before.header.get("lost", ()))
        self.contents = Contents(before.retention_ns, header=dict(before.header), counters=before.counters)
        self._add(archive)

    def add(self, stem: str, source: WorkerSource) -> None:
        """Add a worker that has ended."""
        self._stems[stem] = None
        if not source.is_readable:
            self._lost[stem] = None
            return
        start_ns, earliest_ns = source.contents.start_ns, self.contents.start_ns
        if start_ns is not None:
            self.contents.header["start_ns"] = start_ns if earliest_ns is None else min(start_ns, earliest_ns)
        self.contents.counters = self.contents.counters.plus(source.contents.counters)
        self._add(source)

    def items(self, existing: Iterable[str]) -> Iterable[Any]:
        """Return the items of the archive's file.

        Args:
            existing: The stems of the files that still exist.
        """
        existing = set(existing)
        gone = [stem for stem in self._stems if stem not in existing]
        forgotten = set(gone[: max(len(gone) - MAX_STEMS, 0)])
        stems = [stem for stem in self._stems if stem not in forgotten]
        return self.contents.items(stems=stems, lost=[stem for stem in self._lost if stem not in forgotten])

    def _add(self, source: WorkerSource) -> None:
        theirs, mine = source.contents, self.contents
        for contents in (theirs, source.slot_contents):
            mine.described.update(contents.described)
            mine.keys.update(contents.keys)
        for key, reading in theirs.series.items():
            if not self._removed.covers(key, reading[3]) and self._outlives(key.metric, reading):
                known = mine.series.get(key)
                bounds = mine.described[key.metric].bounds
                merged = merge_readings([reading] if known is None else [known, reading], "latest", bounds)
                if merged is not None:
                    mine.series[key] = merged
        for metric in source.metrics():
            for group, windows in source.windows(metric).items():
                self._add_windows(metric, group, self._removed.without_removed(metric, windows))
        for key in {*source.slot_contents.recent, *theirs.series}:
            recent = source.recent(key) if key in mine.series else None
            if recent is not None:
                self._add_recent(key, recent)

    def _outlives(self, metric: MetricKey, reading: Reading) -> bool:
        """Return whether the numbers of a series outlive its worker: all but levels of gauges that add up."""
        if metric.kind is not GAUGE:
            return True
        return law_of(self.contents.described[metric].law, reading[0].is_stepped) == "latest"

    def _add_windows(self, metric: MetricKey, group: Group, windows: Windows[Any]) -> None:
        groups = self.contents.windows.setdefault(metric, {})
        known = groups.get(group)
        if metric.kind is GAUGE:
            if not gauge_outlives(self.contents.described[metric].law, windows):
                return
            combine = _latest
        else:
            combine = _merge
        groups[group] = windows if known is None else combine_windows([known, windows], combine)

    def _add_recent(self, key: SharedSeriesKey, recent: Recent) -> None:
        known = self.contents.recent.get(key)
        if known is not None:
            combine = _latest if key.metric.kind is GAUGE else _merge
            windows = combine_recent([known.windows, recent.windows], combine, None)
            recent = Recent(windows, max(known.complete_ns, recent.complete_ns))
        slots = list(recent.windows.slots())
        kept = [slot for slot in slots if slot[1] > self._now_ns - MAX_RECENT_NS]
        if len(kept) < len(slots):
            complete_ns = max(recent.complete_ns, slots[len(slots) - len(kept) - 1][1])
            kept_ns = max(recent.windows.kept_from_ns, complete_ns)
            recent = Recent(RecentWindows.of_slots(kept, kept_ns), complete_ns)
        self.contents.recent[key] = recent


def gauge_outlives(law: str | None, windows: Windows[Any]) -> bool:
    """Return whether the windows of a gauge count after its worker has ended."""
    parts = [aggregate for _, _, aggregate in windows.slots()]
    parts += [] if windows.earlier is None else [windows.earlier]
    return law_of(law, any(part.is_stepped for part in parts)) == "latest"


def _merge(one: Any, other: Any) -> Any:
    return one.merge(other)


def _latest(one: Any, other: Any) -> Any:
    return one.combine(other, "latest")
