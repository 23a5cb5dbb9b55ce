"""The workers whose numbers a store reads: live ones, dead ones, and those that were archived."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from metrics_framework.processes.contents import (
    Contents,
    Counters,
    Group,
    MetricKey,
    Reading,
    Recent,
    SharedSeriesKey,
    add_recent,
    add_slots,
    newest_ns,
)
from metrics_framework.processes.frames import FrameReader
from metrics_framework.recording import engine
from metrics_framework.recording.cardinality import OTHER
from metrics_framework.recording.windows import SLOT_NS, RecentWindows, Windows

PAGE, FRAMES, SLOTS = ".page", ".frames", ".slots"
"""The endings of a worker's files: its numbers as a page of the engine or as frames, and closed slots."""

_NO_WINDOWS: Windows[Any] = Windows()
_NO_RECENT: RecentWindows[Any] = RecentWindows()

OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""The errors of files that can be read later, when this process has fewer open files or more memory."""

Report = Callable[[Path, str], None]
"""Called with a file and its fault, each time that it is read."""


class FileContents:
    """What the frames of one file say, and said before a bad frame replaced it.

    Args:
        path: The file.
        retention_ns: How long slots of names are kept.
        report: Called with damage.
    """

    def __init__(self, path: Path, retention_ns: int, report: Report) -> None:
        self.contents = Contents(retention_ns)
        self._reader = FrameReader(path)
        self._report = report
        self._is_refused = False

    @property
    def is_readable(self) -> bool:
        """Whether anything was read from it."""
        return bool(self.contents.header)

    @property
    def is_damaged(self) -> bool:
        """Whether a part of the file cannot be read."""
        return self._is_refused or self._reader.fault is not None

    def poll(self) -> set[SharedSeriesKey]:
        """Read new frames, and return the series whose numbers changed.

        Raises:
            OSError: If the file cannot be read.
        """
        is_replaced, items = self._reader.poll()
        if is_replaced:
            self._is_refused = False
        changed: set[SharedSeriesKey] = set()
        if self._is_refused or (not is_replaced and not items):
            return changed
        before = self.contents
        if is_replaced:
            self.contents = Contents(before.retention_ns)
        try:
            changed = self.contents.apply(items)
        except ValueError as error:
            self._is_refused = True
            self._report(self._reader.path, str(error))
        except BaseException:  # an interrupt, or a fault of this library
            self.contents = before
            self._reader.restart()
            raise
        if self._reader.fault is not None:
            self._report(self._reader.path, self._reader.fault)
        if is_replaced and before.header:
            changed |= before.series.keys()
            if self._reader.fault is not None or self._is_refused:  # totals never fall because of damage
                self._keep(before)
        return changed

    def _keep(self, before: Contents) -> None:
        now = self.contents
        now.header = now.header or before.header
        now.counters = Counters(*map(max, before.counters, now.counters))
        now.described = {**before.described, **now.described}
        now.keys = {**before.keys, **now.keys}
        for key, reading in before.series.items():
            if key not in now.series or _age(now.series[key]) < _age(reading):
                now.series[key] = reading
        for metric, groups in before.windows.items():
            kept = now.windows.setdefault(metric, {})
            for group, windows in groups.items():
                if group not in kept or newest_ns(kept[group]) < newest_ns(windows):
                    kept[group] = windows
        for metric, opened in before.opened.items():
            slots = now.opened.setdefault(metric, {})
            for group, latest in opened.items():
                if group not in slots or slots[group][-1][0] <= latest[-1][0]:
                    slots[group] = latest
        now.recent = {**before.recent, **now.recent}


def _age(reading: Reading) -> tuple[int, int]:
    """Return what tells which of two readings of one series is the later one."""
    return reading[4], reading[0].records


class WorkerSource:
    """The files of one worker, or the archive.

    Args:
        path: The path of its files, without the ending; the archive has one file of this name.
        retention_ns: How long slots of names are kept.
        report: Called with damage.

    Attributes:
        is_alive: Whether the worker is alive. The archive counts as dead.
    """

    def __init__(self, path: Path, retention_ns: int, report: Report) -> None:
        self.path = path
        self.is_alive = True
        self._report = report
        self._slots = FileContents(_with_ending(path, SLOTS), retention_ns, report)
        self._has_slots = True
        self._last_windows: dict[MetricKey, dict[Group, Windows[Any]]] = {}

    @property
    def contents(self) -> Contents:
        """The numbers of its series."""
        raise NotImplementedError

    @property
    def slot_contents(self) -> Contents:
        """Its closed slots."""
        return self._slots.contents

    @property
    def is_readable(self) -> bool:
        """Whether anything was read from it."""
        raise NotImplementedError

    def poll(self) -> set[SharedSeriesKey]:
        """Read the changes, and return the series whose numbers changed.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        raise NotImplementedError

    def poll_all(self) -> set[SharedSeriesKey]:
        """Read the last numbers and closed slots of a worker that has ended.

        Raises:
            FileNotFoundError: If the numbers are missing.
            OSError: If a file cannot be read.
        """
        changed = self.poll()
        with suppress(FileNotFoundError):  # nothing was closed yet
            self._slots.poll()
        return changed

    def open_slots(self, metric: MetricKey) -> Iterator[tuple[Group, list[tuple[int, Any]]]]:
        """Yield the slots of each group of series that may not be in its windows yet, the oldest first."""
        yield from self.contents.opened.get(metric, {}).items()

    def open_recent(self, key: SharedSeriesKey) -> list[tuple[int, Any]]:
        """Return the slots of a series that may not be in its recent windows yet, the oldest first."""
        return self.contents.opened_recent.get(key, [])

    def poll_slots(self) -> None:
        """Read closed slots."""
        try:
            self._slots.poll()
            self._has_slots = True
        except FileNotFoundError:
            self._has_slots = not self._slots.is_readable  # else the file was deleted
        except OSError as error:
            self._report(self.path, f"closed slots cannot be read: {error}")

    def windows(self, metric: MetricKey) -> dict[Group, Windows[Any]]:
        """Return the windows of each group of series of a metric, with all slots so far."""
        opened = list(self.open_slots(metric))  # before the closed ones: a slot that closes is in one of them
        self.poll_slots()
        if not self._has_slots and metric in self._last_windows:
            return self._last_windows[metric]  # slots that were closed since then are lost: totals never fall
        contents = self.slot_contents
        found = dict(contents.windows.get(metric, {}))
        # A slot whose series were all removed is in the file although it is open.
        latest = {group: dict(slots) for group, slots in contents.opened.get(metric, {}).items()}
        for group, slots in opened:
            latest.setdefault(group, {}).update(slots)
        for group, starts in latest.items():
            slots_and_ends = [(start_ns, start_ns + SLOT_NS, starts[start_ns]) for start_ns in sorted(starts)]
            found[group] = add_slots(found.get(group, _NO_WINDOWS), slots_and_ends, contents.retention_ns)
        self._last_windows[metric] = found
        return found

    def recent(self, key: SharedSeriesKey) -> Recent | None:
        """Return the recent windows of a series; ``None`` if it has none."""
        opened = self.open_recent(key)
        self.poll_slots()
        known = self.slot_contents.recent.get(key)
        if known is None and not opened:
            return None
        windows, complete_ns = known or Recent(_NO_RECENT, opened[0][0])
        return Recent(add_recent(windows, opened), complete_ns)

    def metrics(self) -> set[MetricKey]:
        """Return all metrics that it has numbers or windows of."""
        return {*self.contents.described, *self.slot_contents.windows}


class FrameSource(WorkerSource):
    """A worker with the engine in pure Python, which writes its numbers in frames."""

    def __init__(self, path: Path, retention_ns: int, report: Report) -> None:
        super().__init__(path, retention_ns, report)
        self._numbers = FileContents(_with_ending(path, FRAMES), retention_ns, report)

    @property
    def contents(self) -> Contents:
        """The numbers of its series."""
        return self._numbers.contents

    @property
    def is_readable(self) -> bool:
        """Whether anything was read from it."""
        return self._numbers.is_readable

    def poll(self) -> set[SharedSeriesKey]:
        """Read the changes, and return the series whose numbers changed.

        Raises:
            FileNotFoundError: If a file is missing.
        """
        return self._numbers.poll()


class Archive(WorkerSource):
    """The sum of the workers that have ended."""

    def __init__(self, path: Path, retention_ns: int, report: Report) -> None:
        super().__init__(path, retention_ns, report)
        self.is_alive = False
        self._slots = FileContents(path, retention_ns, report)
        self._was_whole = False

    @property
    def contents(self) -> Contents:
        """The numbers of its series."""
        return self._slots.contents

    @property
    def is_readable(self) -> bool:
        """Whether anything was read from it."""
        return self._slots.is_readable

    @property
    def stems(self) -> frozenset[str]:
        """The stems of the workers that it contains."""
        return frozenset(self.contents.header.get("stems", ()))

    @property
    def lost_stems(self) -> frozenset[str]:
        """The stems of the workers of which nothing could be read."""
        return frozenset(self.contents.header.get("lost", ()))

    @property
    def is_damaged(self) -> bool:
        """Whether a part of the file cannot be read. Then its earlier contents stay."""
        return self._slots.is_damaged

    @property
    def is_partial(self) -> bool:
        """Whether the file is damaged, and was never read before."""
        return self.is_damaged and not self._was_whole

    def poll(self) -> set[SharedSeriesKey]:
        """Read the archive if it was replaced, and return the series whose numbers changed."""
        try:
            changed = self._slots.poll()
        except FileNotFoundError:
            return set()
        self._was_whole = self._was_whole or not self.is_damaged
        return changed

    def identity(self) -> tuple[int, int] | None:
        """Return what identifies the file; ``None`` if there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def poll_slots(self) -> None:
        """Do nothing: `poll` has read all."""


class PageSource(WorkerSource):
    """A worker with the compiled engine, which keeps its numbers in a page of shared memory."""

    def __init__(self, path: Path, retention_ns: int, report: Report) -> None:
        super().__init__(path, retention_ns, report)
        self._contents = Contents(retention_ns)
        self._page: Any = None
        self._is_final = False
        self._keys: dict[int, SharedSeriesKey] = {}
        self._indexes: dict[SharedSeriesKey, int] = {}
        self._slots_of: dict[MetricKey, dict[int, dict[int, Group]]] = {}  # slot to index to group
        self._unread: set[int] = set()
        self._last_open: dict[MetricKey, dict[Group, list[tuple[int, Any]]]] = {}

    @property
    def contents(self) -> Contents:
        """The numbers of its series."""
        return self._contents

    @property
    def is_readable(self) -> bool:
        """Whether anything was read from it."""
        return bool(self._contents.header)

    def poll(self) -> set[SharedSeriesKey]:
        """Read the changes, and return the series whose numbers changed.

        Raises:
            FileNotFoundError: If the page is missing.
        """
        if self._is_final:
            return set()
        page = self._page
        if not self.is_alive or page is None:
            try:
                page = self._open()
            except FileNotFoundError:
                raise
            except (OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES:
                    self._is_final = False  # a later call tries again
                    raise
                self._report(_with_ending(self.path, PAGE), str(error))
                return set()
        changed = self._read_directory()
        for index in {*page.changed(), *self._unread}:
            if self._read(index):
                changed.add(self._keys[index])
        if self._is_final and not page.damaged:  # else the earlier numbers stay: totals never fall
            gone = self._contents.series.keys() - self._indexes.keys()
            for key in gone:
                self._contents.series.pop(key)
            changed |= gone
        header = page.header()
        self._contents.header = {"start_ns": header["anchor_monotonic"]}
        self._contents.counters = Counters(*(header[name] for name in Counters._fields))
        return changed

    def _open(self) -> Any:
        """Map the page of a live worker, and read that of a dead one, as a cut file must not be mapped."""
        page, self._page = self._page, None
        if page is not None:
            page.close()
        self._is_final = not self.is_alive
        path, reader = _with_ending(self.path, PAGE), engine.PageReader
        if reader is None:
            raise ValueError(
                "it is a page of the compiled engine, and this worker has the engine in pure Python"
            )
        if self.is_alive:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                page = reader(descriptor)
            finally:
                os.close(descriptor)
        else:
            page = reader.of(path.read_bytes())
        self._page = page
        self._keys, self._indexes, self._slots_of, self._unread = {}, {}, {}, set()
        return page

    def _read_directory(self) -> set[SharedSeriesKey]:
        changed: set[SharedSeriesKey] = set()
        for index, found in self._page.poll():
            gone = self._keys.pop(index, None)
            if gone is not None:
                self._forget(index, gone)
                changed.add(gone)
            if found is None:
                continue
            key, values, slot = found
            try:
                metric, names = self._contents.describe(key.decode())
                series_key = SharedSeriesKey(metric, names, tuple(values))
                tags = series_key.tags
            except ValueError as error:
                self._report(_with_ending(self.path, PAGE), str(error))
                continue
            self._keys[index], self._indexes[series_key] = series_key, index
            self._unread.add(index)
            window_by = self._contents.described[metric].window_by
            group = tuple((name, tags.get(name, "")) for name in window_by)
            self._slots_of.setdefault(metric, {}).setdefault(slot, {})[index] = group
        return changed

    def _forget(self, index: int, key: SharedSeriesKey) -> None:
        self._unread.discard(index)
        if self._indexes.get(key) == index:
            self._contents.series.pop(key, None)
            self._indexes.pop(key)
        for indexes in self._slots_of.get(key.metric, {}).values():
            indexes.pop(index, None)

    def _read(self, index: int) -> bool:
        key = self._keys.get(index)
        if key is None:
            return False
        self._unread.discard(index)
        try:
            reading = self._page.read(index)
        except ValueError as error:
            self._report(_with_ending(self.path, PAGE), str(error))
            return False
        if reading is None:  # it has no records, or is private to the worker, whose disk is full
            return False
        self._contents.series[key] = reading
        return True

    def open_slots(self, metric: MetricKey) -> Iterator[tuple[Group, list[tuple[int, Any]]]]:
        """Yield the slots of each group of series that may not be in its windows yet, the oldest first."""
        opened = self._last_open.setdefault(metric, {})
        for indexes in list(self._slots_of.get(metric, {}).values()):
            if not indexes or self._page is None:
                continue
            index, group = next(iter(indexes.items()))
            slots = [
                slot for slot in self._read_slots(self._page.read_slots, index)[::-1] if slot is not None
            ]
            if len(set(indexes.values())) > 1:  # there are too many groups to keep apart
                group = tuple((name, OTHER) for name, _ in group)
            if slots:
                opened[group] = slots
        yield from list(opened.items())  # also those of before the damage: totals never fall

    def open_recent(self, key: SharedSeriesKey) -> list[tuple[int, Any]]:
        """Return the slots of a series that may not be in its recent windows yet, the oldest first."""
        index = self._indexes.get(key)
        if index is None or self._page is None:
            return []
        opened, closed = self._read_slots(self._page.read_recent, index)
        return [slot for slot in (closed, opened) if slot is not None]

    def _read_slots(self, read: Callable[[int], tuple[Any, Any]], index: int) -> tuple[Any, Any]:
        try:
            return read(index)
        except ValueError as error:
            self._report(_with_ending(self.path, PAGE), str(error))
            return None, None


def source_of(path: Path, files: Iterable[str], retention_ns: int, report: Report) -> WorkerSource:
    """Return the source of a worker.

    Args:
        path: The path of its files, without the ending.
        files: The endings of the files that it has.
        retention_ns: How long slots of names are kept.
        report: Called with damage.
    """
    kind = PageSource if PAGE in files else FrameSource
    return kind(path, retention_ns, report)


def _with_ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
