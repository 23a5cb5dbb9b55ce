"""Names and series that a worker removed, which the other workers remove as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from metrics_framework.processes.contents import MetricKey, SharedSeriesKey
from metrics_framework.processes.frames import FrameReader, append_to, write_file
from metrics_framework.recording.windows import Windows

MAX_REMOVED = 10_000
"""From how many removals on old ones are dropped."""

KEPT_NS = 600_000_000_000
"""How long a removal is kept. Live workers obey it within a second, and dead ones are archived with it."""


class Removed(NamedTuple):
    """A removal.

    Attributes:
        metric: The metric.
        tags: The tags of a series, sorted; ``None`` for the whole name.
        time_ns: The time of the removal. It covers all series that were created until then.
    """

    metric: MetricKey
    tags: tuple[tuple[str, str], ...] | None
    time_ns: int


class RemovedNames:
    """The removals of all workers of a group.

    Args:
        path: The file that they share.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reader = FrameReader(path, skips_damage=True)
        self._times: dict[tuple[MetricKey, tuple[tuple[str, str], ...] | None], int] = {}
        self._kept = 0  # at the last `compact`

    @property
    def are_many(self) -> bool:
        """Whether `compact` is due."""
        return len(self._times) >= MAX_REMOVED + 2 * self._kept

    def poll(self) -> list[Removed]:
        """Return the removals that were not known yet, without those that are damaged."""
        try:
            is_replaced, items = self._reader.poll()
        except OSError:
            return []
        before = self._times
        if is_replaced:  # old removals were dropped from the file
            self._times = {}
            self._kept = len(items) if before else 0
        found: list[Removed] = []
        for item in items:
            try:
                name, label, is_operation, tags, time_ns = item
                pairs = None if tags is None else tuple((str(tag), str(value)) for tag, value in tags)
                removed = Removed(MetricKey(name, label, is_operation), pairs, int(time_ns))
            except (TypeError, ValueError):
                continue
            known_ns = before.get(removed[:2], -1)  # first: `note` may change the same dict
            if self.note(removed) and known_ns < removed.time_ns:
                found.append(removed)
        return found

    def note(self, removed: Removed) -> bool:
        """Remember a removal, and return whether it is later than the known one."""
        key = removed[:2]
        if self._times.get(key, -1) >= removed.time_ns:
            return False
        self._times[key] = removed.time_ns
        return True

    def write(self, removed: Iterable[Removed]) -> None:
        """Add removals to the file.

        Raises:
            OSError: If the disk refuses them.
        """
        items = [_item(one) for one in removed]
        if items:
            append_to(self.path, items)

    def compact(self, now_ns: int) -> None:
        """Drop old removals from the file.

        Call it with the lock of the group, after the archive was written again without the removed series.

        Raises:
            OSError: If the disk refuses it.
        """
        kept = list(self._times.items())
        self._times = {key: time_ns for key, time_ns in kept if time_ns > now_ns - KEPT_NS}
        self._kept = len(self._times)
        write_file(self.path, [_item(Removed(*key, time_ns)) for key, time_ns in self._times.items()])

    def covers(self, key: SharedSeriesKey, created_ns: int) -> bool:
        """Return whether a series that was created at some moment has been removed."""
        if not self._times:
            return False
        by_name = self._times.get((key.metric, None), -1)
        by_tags = self._times.get((key.metric, tuple(zip(key.names, key.values, strict=True))), -1)
        return created_ns <= max(by_name, by_tags)

    def without_removed(self, metric: MetricKey, windows: Windows[Any]) -> Windows[Any]:
        """Return windows without the slots before the removal of the whole name."""
        time_ns = self._times.get((metric, None))
        if time_ns is None:
            return windows
        kept = [slot for slot in windows.slots() if slot[1] > time_ns]
        return Windows.of_slots(kept, None, max(windows.kept_from_ns, 0))

    def time_ns(self, metric: MetricKey) -> int:
        """Return when the metric, or a series of it, was removed last; -1 if it was not."""
        times: Mapping[Any, int] = self._times
        return max((time for (known, _), time in times.items() if known == metric), default=-1)


def _item(removed: Removed) -> list[Any]:
    return [*removed.metric, removed.tags, removed.time_ns]
