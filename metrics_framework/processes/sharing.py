"""A store that shares its numbers: it writes its own to files, and reads those of the other workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from metrics_framework.errors import InvalidInputError
from metrics_framework.log import LogOnce, log_event
from metrics_framework.processes.contents import (
    Counters,
    Described,
    Group,
    Items,
    MetricKey,
    Reading,
    Recent,
    SharedSeriesKey,
    newest_ns,
)
from metrics_framework.processes.frames import FrameFile, write_file
from metrics_framework.processes.merging import Merged, gauge_outlives, merge_readings
from metrics_framework.processes.removed import Removed, RemovedNames
from metrics_framework.processes.sources import (
    FRAMES,
    OUT_OF_RESOURCES,
    PAGE,
    SLOTS,
    Archive,
    WorkerSource,
    source_of,
)
from metrics_framework.recording import Store
from metrics_framework.recording.engine import ENGINE, Series, Slot
from metrics_framework.recording.exposed_names import Named
from metrics_framework.recording.metric import GAUGE, Metric
from metrics_framework.recording.namespaces import Namespace
from metrics_framework.recording.state import SLOTS_AT_ONCE, Description, OthersPart, StoreState
from metrics_framework.recording.windows import RECENT_SLOT_NS, RecentWindows, Windows
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.values import MetricUnit

MAX_READ_ATTEMPTS = 5
"""How often a read starts again because workers were archived in the meantime."""

MAX_ARCHIVED_AT_ONCE = 100
"""How many workers that have ended are archived in one go. Reads wait for it."""

REPAIR_SECONDS = 10.0
"""How long a worker that knows only a damaged archive leaves its repair to the others."""

COMPACT_FACTOR = 4
COMPACT_BYTES = 1 << 20
"""A file is written again when it has grown by this factor and by this many bytes."""

_UNFINISHED = (f"{PAGE}~", ".new")
"""The endings of files that a worker was about to create when it was killed."""

_NO_RECENT: RecentWindows[Any] = RecentWindows()


class Peers(Protocol):
    """What `SharedStore` needs of a group of workers."""

    @property
    def folder(self) -> Path:
        """The folder of the group's files."""
        ...

    def is_alive(self, stem: str) -> bool:
        """Return whether the worker is alive whose files begin with a stem."""
        ...

    def try_lock(self) -> AbstractContextManager[bool]:
        """Return a context with the lock of the group; ``False`` if another process or thread has it."""
        ...


class _Exclusive:
    """A lock for work that a signal handler may begin again in the middle of itself: it skips it then."""

    def __init__(self) -> None:
        # Of one thread, so that a handler between two lines of `begin` does not wait for itself.
        self._lock = threading.RLock()
        self._is_begun = False

    @contextmanager
    def begin(self) -> Iterator[bool]:
        """Wait until no other thread does the work; ``False`` if this thread is in the middle of it."""
        with self._lock, self._begun() as is_mine:
            yield is_mine

    @contextmanager
    def begin_if_free(self) -> Iterator[bool]:
        """Do not wait; ``False`` if another thread does the work, or if this one is in the middle of it."""
        if not self._lock.acquire(blocking=False):
            yield False
            return
        try:
            with self._begun() as is_mine:
                yield is_mine
        finally:
            self._lock.release()

    @contextmanager
    def _begun(self) -> Iterator[bool]:
        if self._is_begun:
            yield False
            return
        self._is_begun = True
        try:
            yield True
        finally:
            self._is_begun = False


class SharedStore:
    """The numbers of a store and of the other workers of its group; see `Others`.

    With the compiled engine, a record is in the worker's page at once. With the engine in pure Python,
    `flush` writes numbers that changed, and a worker that is killed loses those after the last one. Closed
    slots wait for the next `flush`: call `work` at least once in the time of a slot. A record writes them if
    that is late.

    No error of the disk is raised: the store goes on with what it has, and the error is logged once.

    Args:
        store: The store. Nothing may be recorded in it yet.
        peers: The group.
    """

    def __init__(self, store: Store, peers: Peers) -> None:
        self._store = store
        self._state: StoreState = store._state
        self._peers = peers
        self._log = LogOnce()
        self._stem = ""
        self._start()

    def _start(self) -> None:
        """Forget all files, at first and in a forked child."""
        folder = self._peers.folder
        self._reading, self._writing = _Exclusive(), _Exclusive()
        self._pid = os.getpid()
        self._begun = time.monotonic()
        self._has_repaired = False
        self._numbers: FrameFile | None = None
        self._slots: FrameFile | None = None
        self._number_items, self._slot_items = Items(), Items()
        self._compact_sizes = {FRAMES: 0, SLOTS: 0}
        self._written: dict[SharedSeriesKey, Any] = {}
        self._written_slots: dict[Slot, Any] = {}
        self._written_counters = Counters()
        self._newest: dict[Slot, int] = {}
        self._newest_recent: dict[Series, int] = {}
        self._closed: dict[Slot, Named] = {}
        self._closed_recent: dict[Series, None] = {}
        self._orphans: dict[Metric, None] = {}
        self._to_forget: dict[MetricKey, None] = {}
        self._to_tell: dict[Removed, None] = {}
        self._obeying: set[tuple[MetricKey, tuple[tuple[str, str], ...] | None]] = set()
        self._removed = RemovedNames(folder / "removed")
        self._archive = self._new_archive()
        self._sources: dict[str, WorkerSource] = {}
        self._applied: dict[SharedSeriesKey, Any] = {}
        self._dirty: set[SharedSeriesKey] = set()
        self._dirty_metrics: dict[MetricKey, None] = {}

    # -- the life of the worker ------------------------------------------------------------------------

    def begin(self, stem: str) -> None:
        """Create the files of this worker, and let the store read those of others.

        Args:
            stem: What the names of its files begin with; no other file may begin with it.

        Raises:
            OSError: If a file cannot be created. Nothing is shared, and the store works on.
        """
        self._stem = stem
        path = self._peers.folder / stem
        self._slots = FrameFile(_ending(path, SLOTS))
        try:
            self._slots.append(self._slot_items.header(self._state.start_ns))
            if ENGINE == "pure":
                self._numbers = FrameFile(_ending(path, FRAMES))
                self._numbers.append(self._number_items.header(self._state.start_ns))
            else:
                core: Any = self._state.core
                core.share(str(_ending(path, PAGE)), anchor_monotonic=self._state.start_ns)
        except BaseException:
            self._slots = self._numbers = None
            self._unlink(stem)
            raise
        if ENGINE == "pure":
            self._state.core.shows_written = True
        self._state.cardinality.recent.on_closed = self._recent_closed
        self._state.others = self
        self._state.core.publish_at = 1  # the page of a worker that is killed has its last closed slot only
        for metric in self._metrics():
            for slot in metric.slots:
                metric.publish(slot)

    def begin_in_child(self, stem: str) -> None:
        """Leave the files of the parent in a forked child, and begin with files of its own.

        Call it after the store was reset.

        Raises:
            OSError: If a file cannot be created. Nothing is shared, and the store works on.
        """
        self._start()
        self._stop_reading()
        self.begin(stem)

    def work(self) -> None:
        """Write, obey removals, archive workers that have ended, and rewrite large files, as far as due."""
        self.flush()
        self.refresh()
        self._attempt("cannot archive the numbers of workers that have ended", self._archive_dead)

    def close(self) -> None:
        """Write all numbers for the last time. The files stay for the others to archive, and reads go on.

        Later records of this worker are not shared. The end of the interpreter, which takes the series apart,
        must not take them out of the page.
        """
        self.flush()
        if ENGINE != "pure" and self._pid == os.getpid():
            core: Any = self._state.core
            core.unshare()

    def remove(self) -> None:
        """Delete the files of this worker, which is the last one of its group, and stop reading others."""
        self._stop_reading()
        with self._writing.begin():
            self._slots = self._numbers = None
            if ENGINE != "pure":
                core: Any = self._state.core
                core.unshare()
            self._unlink(self._stem)

    def _stop_reading(self) -> None:
        self._state.others = None
        self._state.core.publish_at = SLOTS_AT_ONCE
        self._state.cardinality.recent.on_closed = None
        if ENGINE == "pure":
            self._state.core.shows_written = False

    def live_stems(self) -> list[str]:
        """Return the stems of the files of other live workers."""
        stems = self._stems() or {}
        return [stem for stem in stems if stem != self._stem and self._peers.is_alive(stem)]

    def _unlink(self, stem: str) -> None:
        """Delete all files of a worker."""
        with suppress(OSError):
            for path in list(self._peers.folder.iterdir()):
                if path.name.startswith(f"{stem}."):
                    path.unlink(missing_ok=True)

    def _attempt(self, event: str, function: Callable[[], object]) -> None:
        try:
            function()
        except OSError as error:
            self._log.log("warning", event, once_for=(event, error.errno), error=str(error))

    def _report(self, path: Path, fault: str) -> None:
        self._log.log(
            "warning",
            "the numbers of a worker are damaged",
            once_for=(path, fault),
            path=str(path),
            fault=fault,
        )

    # -- writing ---------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write numbers that are not in the page, and closed slots."""
        if self._pid != os.getpid() or self._slots is None:
            return
        with self._writing.begin() as is_mine:
            if is_mine:
                self._attempt("cannot write the numbers of this worker for others", self._write)

    def _write(self) -> None:
        slots, numbers = self._slots, self._numbers
        if slots is None:
            return
        # Closed slots first: the numbers, which a reader reads before them, no longer state them as open.
        try:
            if slots.is_broken or self._is_large(slots, SLOTS):
                self._rewrite_slots(slots)
            slots.append(self._new_slot_items())
        finally:
            if numbers is not None:
                self._write_numbers(numbers)
        self._tell()
        self._check_page()

    def _check_page(self) -> None:
        """Log if the others do not see all numbers of this worker."""
        core: Any = self._state.core
        if ENGINE != "pure" and core.is_private:
            self._log.log(
                "warning",
                "the page of this worker cannot grow: others do not see its new series",
                once_for="private",
                folder=str(self._peers.folder),
                remedy="make room, or share another folder; in Docker, raise --shm-size",
            )
        elif ENGINE != "pure" and core.unshared_series:
            self._log.log(
                "warning",
                "series with very long tags are not shared",
                once_for="unshared",
                series=core.unshared_series,
            )

    def _is_large(self, file: FrameFile, ending: str) -> bool:
        return file.size > COMPACT_FACTOR * self._compact_sizes[ending] + COMPACT_BYTES

    def _write_numbers(self, file: FrameFile) -> None:
        """Write the numbers that have changed: with the engine in pure Python."""
        if file.is_broken or self._is_large(file, FRAMES):
            self._written.clear()
            self._written_slots.clear()
            self._number_items = Items()
            start = self._number_items.header(self._state.start_ns)
            self._publish_numbers(lambda items: file.replace([*start, *items]))
            self._compact_sizes[FRAMES] = file.size
            return
        self._publish_numbers(file.append)

    def _publish_numbers(self, write: Callable[[list[Any]], None]) -> None:
        shown: list[tuple[Any, Any]] = []
        try:
            write(self._new_number_items(shown))
        finally:  # also without the file: this worker goes on showing its own numbers
            for series, state in shown:
                series.show(state)

    def _new_number_items(self, shown: list[tuple[Any, Any]]) -> list[Any]:
        items = self._number_items
        found: list[Any] = []
        live: set[SharedSeriesKey] = set()
        for metric in self._metrics():
            for tag_set in list(metric.tag_sets.values()):
                key = tag_set.key.decode()
                for series in tag_set:
                    yield_gil()
                    aggregate = series.own_state()
                    if aggregate is None:
                        continue
                    identity = SharedSeriesKey(_key_of(metric.named), tag_set.names, series.values)
                    live.add(identity)
                    if self._written.get(identity) is aggregate:
                        continue
                    reading, state = series.take_reading()
                    if reading is not None:
                        shown.append((series, state))
                        self._written[identity] = reading[0]
                        found += items.series(key, series.values, reading)
                        if series.recent is not None:
                            found += items.open_recent(key, series.values, _open_slots(series.recent))
            for group, slot in metric.groups():
                opened = _open_slots(slot, self._newest.get(slot, -1))
                if opened and self._written_slots.get(slot) is not opened[-1][1]:
                    self._written_slots[slot] = opened[-1][1]
                    found += items.open_slots(metric.key(), group, opened)
        for identity in self._written.keys() - live:
            self._written.pop(identity, None)
            found += items.removed(identity)
        counters = self._own_counters()
        if counters != self._written_counters:
            self._written_counters = counters
            found += items.counters(counters)
        return found

    def _own_counters(self) -> Counters:
        state = self._state
        return Counters(
            state.core.records,
            state.rejected.value,
            state.cardinality.overflowed.value,
            state.abandoned.value,
        )

    def slot_closed(self, named: Named, slot: Slot) -> None:
        """Note that windows of a metric have grown. A record calls it, so it never waits."""
        is_late = slot in self._closed
        self._closed[slot] = named
        if is_late and self._numbers is None:
            # The page keeps the last closed slot only, and the thread that calls `flush` gets no time.
            with self._writing.begin_if_free() as is_mine:
                if is_mine:
                    self._attempt("cannot write the windows of this worker for others", self._write_slots)

    def _write_slots(self) -> None:
        if self._slots is not None and self._pid == os.getpid():
            self._slots.append(self._new_slot_items())

    def _recent_closed(self, series: Series) -> None:
        self._closed_recent[series] = None

    def _new_slot_items(self) -> list[Any]:
        items = self._slot_items
        found: list[Any] = []
        for metric_key in list(self._to_forget):
            self._to_forget.pop(metric_key, None)
            found += items.forget(metric_key)
        for slot, named in list(self._closed.items()):
            self._closed.pop(slot, None)
            metric = self._metric(_key_of(named))
            group = None if metric is None else metric.group_of(slot)
            windows = slot.windows
            if metric is None or group is None or windows is None:
                self._newest.pop(slot, None)
                continue
            newest = self._newest.get(slot, -1)
            self._newest[slot] = newest_ns(windows)
            found += items.slots(metric.key(), group, _newer(windows, newest))
        if self._orphans:
            self._forget_removed()
        for metric in list(self._orphans):
            self._orphans.pop(metric, None)
            for group, slot in metric.groups():
                opened = _open_slots(slot)
                if opened:
                    found += items.open_slots(metric.key(), group, opened)
        for series in list(self._closed_recent):
            self._closed_recent.pop(series, None)
            its_slot = series.recent
            if its_slot is None or its_slot.windows is None or not series.is_live:
                self._newest_recent.pop(series, None)
                continue
            found += self._new_recent_items(series, its_slot.windows)
        return found

    def _forget_removed(self) -> None:
        """Release the slots and series that were removed."""
        slots = {slot for metric in self._metrics() for _, slot in metric.groups()}
        self._newest = {slot: newest for slot, newest in self._newest.items() if slot in slots}
        self._written_slots = {slot: one for slot, one in self._written_slots.items() if slot in slots}
        self._newest_recent = {one: newest for one, newest in self._newest_recent.items() if one.is_live}

    def _new_recent_items(self, series: Series, windows: RecentWindows[Any]) -> Iterator[Any]:
        items, key = self._slot_items, series.tag_set.key.decode()
        recent = Recent(windows, _complete_ns(series, windows))
        slots = list(windows.slots())
        newest = self._newest_recent.get(series)
        self._newest_recent[series] = slots[-1][0]
        fresh = [] if newest is None else [slot for slot in slots if slot[0] > newest]
        if fresh and all(end - start == RECENT_SLOT_NS for start, end, _ in fresh):
            added = [(start_ns, aggregate) for start_ns, _, aggregate in fresh]
            return items.recent_slots(key, series.values, recent.complete_ns, added)
        return items.recent(key, series.values, recent)

    def _rewrite_slots(self, file: FrameFile) -> None:
        """Write the file of closed slots again, without those that were merged into wider ones."""
        items = self._slot_items = Items()
        found = [*items.header(self._state.start_ns)]
        newest: dict[Slot, int] = {}
        for metric in self._metrics():
            for group, slot in metric.groups():
                windows = slot.windows
                if windows is not None:
                    newest[slot] = newest_ns(windows)
                    found += items.windows(metric.key(), group, windows)
            self._orphans[metric] = None
            for series in metric.series():
                yield_gil()
                recent = series.recent
                if recent is not None and recent.windows is not None:
                    known = Recent(recent.windows, _complete_ns(series, recent.windows))
                    found += items.recent(series.tag_set.key.decode(), series.values, known)
        file.replace(found)
        self._newest, self._newest_recent = newest, {}
        self._compact_sizes[SLOTS] = file.size

    def _metrics(self) -> Iterator[Metric]:
        for namespace in self._store.namespaces:
            yield from namespace.metrics()

    # -- removals --------------------------------------------------------------------------------------

    def removed(self, named: Named, tags: Mapping[str, str] | None, time_ns: int) -> None:
        """Note that a name, or a series of it, was removed. A record may call it."""
        metric_key = _key_of(named)
        pairs = None if tags is None else tuple(tags.items())
        metric = self._namespace(metric_key).get(named.name)
        if metric is not None:
            self._orphans[metric] = None
        if pairs is None:
            self._to_forget[metric_key] = None
        if (metric_key, pairs) in self._obeying or (metric_key, None) in self._obeying:
            return
        self._to_tell[Removed(metric_key, pairs, time_ns)] = None

    def _tell(self) -> None:
        """Tell the others about removals."""
        told = list(self._to_tell)
        for removed in told:
            if self._removed.note(removed):
                self._dirty_metrics[removed.metric] = None
        names = {removed.metric for removed in told if removed.tags is None}
        self._removed.write(
            removed for removed in told if removed.tags is None or removed.metric not in names
        )
        for removed in told:
            self._to_tell.pop(removed, None)

    def _obey(self, removed: Removed) -> None:
        """Remove what another worker has removed, unless it was created later."""
        self._dirty_metrics[removed.metric] = None
        namespace = self._namespace(removed.metric)
        metric = namespace.get(removed.metric.name)
        if metric is None or metric.kind is not removed.metric.kind:
            return
        metric.removed_ns = max(metric.removed_ns, removed.time_ns)
        found = metric.series() if removed.tags is None else [metric.find(dict(removed.tags))]
        many = [series for series in found if series is not None]
        old = [series for series in many if not _is_newer(series, removed.time_ns)]
        if removed.tags is None and len(old) == len(many):
            self._remove_quietly((removed.metric, None), lambda: namespace.remove(removed.metric.name))
            return
        for series in old:
            self._remove_series(removed.metric, metric, series)

    def _remove_series(self, key: MetricKey, metric: Metric, series: Series) -> None:
        self._remove_quietly((key, tuple(series.tags.items())), lambda: metric.remove(series))

    def _remove_quietly(
        self, key: tuple[MetricKey, tuple[tuple[str, str], ...] | None], remove: Callable[[], object]
    ) -> None:
        """Remove a name or series without telling the others."""
        self._obeying.add(key)
        try:
            remove()
        finally:
            self._obeying.discard(key)

    # -- reading ---------------------------------------------------------------------------------------

    @property
    def records(self) -> int:
        """The number of records of the other workers."""
        return sum(counters.records for counters in self._counters())

    @property
    def rejected(self) -> int:
        """The number of records that they rejected and counted."""
        return sum(counters.rejected for counters in self._counters())

    @property
    def overflowed(self) -> int:
        """How many of their records lost a tag value, a name or an error type to a budget."""
        return sum(counters.overflowed for counters in self._counters())

    @property
    def abandoned(self) -> int:
        """The number of timers that they abandoned."""
        return sum(counters.abandoned for counters in self._counters())

    def _counters(self) -> list[Counters]:
        return [source.contents.counters for source in self._every_source()]

    def _every_source(self) -> list[WorkerSource]:
        return [self._archive, *list(self._sources.values())]

    def refresh(self) -> None:
        """Bring the series of the store up to date with what the other workers have recorded."""
        if self._pid != os.getpid() or self._slots is None:
            return
        self.flush()
        with self._reading.begin() as is_mine:
            if is_mine:
                try:
                    self._refresh()
                except Exception as error:  # noqa: BLE001 - a read of the own numbers must not fail
                    self._log.log(
                        "error",
                        "cannot read the numbers of other workers",
                        once_for=repr(error),
                        error=repr(error),
                    )

    def _refresh(self) -> None:
        for removed in self._removed.poll():
            self._obey(removed)
        self._attempt("cannot read the numbers of other workers", self._poll)
        dirty, self._dirty = self._dirty, set()
        for metric in list(self._dirty_metrics):
            self._dirty_metrics.pop(metric, None)
            dirty.update(
                key
                for source in self._every_source()
                for key in source.contents.series
                if key.metric == metric
            )
            dirty.update(key for key in self._applied if key.metric == metric)
        by_metric: dict[MetricKey, list[SharedSeriesKey]] = {}
        for key in dirty:
            by_metric.setdefault(key.metric, []).append(key)
        self._dirty |= dirty  # in case of an interrupt
        for metric, keys in by_metric.items():
            try:
                self._apply(metric, keys)
            except InvalidInputError as error:
                self._log.log(
                    "warning", "a metric of another worker is left out", once_for=metric, error=str(error)
                )
            self._dirty.difference_update(keys)

    def _poll(self) -> None:
        for _ in range(MAX_READ_ATTEMPTS):
            identity = self._archive.identity()
            changed = self._archive.poll()
            if changed:
                self._dirty |= changed
                self._adopt_all(self._archive)
            for stem, endings in (self._stems() or {}).items():
                if stem != self._stem and stem not in self._archive.stems and endings & {PAGE, FRAMES}:
                    self._poll_source(stem, endings)
            for stem in self._archive.stems & self._sources.keys():
                self._drop(stem)
            if self._archive.identity() == identity:
                break

    def _poll_source(self, stem: str, endings: set[str]) -> None:
        source = self._sources.get(stem)
        if source is None:
            source = self._sources[stem] = self._new_source(stem, endings)
        is_alive = self._peers.is_alive(stem)  # before the numbers: those of a dead worker are its last ones
        if source.is_alive and not is_alive:
            source.is_alive = False
            self._dirty.update(key for key in source.contents.series if key.metric.kind is GAUGE)
        start_ns = source.contents.start_ns
        with suppress(
            FileNotFoundError
        ):  # it was archived in the meantime, or deleted: then its numbers stay
            self._dirty |= source.poll()
        if start_ns is None and source.contents.start_ns is not None:
            self._state.start_ns = min(self._state.start_ns, source.contents.start_ns)

    def _drop(self, stem: str) -> None:
        """Stop reading a worker whose numbers are in the archive."""
        source = self._sources[stem]
        if stem in self._archive.lost_stems and source.is_readable:
            if source.is_alive:
                source.is_alive = False
                self._dirty.update(source.contents.series)
            return  # the archive could not read it, and totals never fall
        self._dirty.update(self._sources.pop(stem).contents.series)

    def _stems(self) -> dict[str, set[str]] | None:
        """Return the stem of each worker's files, and their endings; ``None`` if the folder is gone."""
        found: dict[str, set[str]] = {}
        try:
            paths = list(self._peers.folder.iterdir())
        except OSError as error:
            self._log.log("warning", "the folder of the workers' numbers cannot be read", error=str(error))
            return None
        for path in paths:
            if path.suffix in (PAGE, FRAMES, SLOTS, *_UNFINISHED):
                found.setdefault(path.name.partition(".")[0], set()).add(path.suffix)
        return found

    def _new_archive(self) -> Archive:
        return Archive(self._peers.folder / "archive", self._state.retention_ns, self._report)

    def _new_source(self, stem: str, endings: set[str]) -> WorkerSource:
        return source_of(self._peers.folder / stem, endings, self._state.retention_ns, self._report)

    def _adopt_all(self, source: WorkerSource) -> None:
        """Make the metrics that only windows are left of."""
        if source.contents.start_ns:
            self._state.start_ns = min(self._state.start_ns, source.contents.start_ns)
        for key in source.metrics():
            with suppress(InvalidInputError):  # `_apply` logs it
                self._adopt(key, source.contents.described[key])

    def _adopt(self, key: MetricKey, described: Described) -> Metric:
        """Return the metric of another worker, created if it does not exist.

        Raises:
            InvalidInputError: If another metric has its name here.
        """
        namespace, state, name = self._namespace(key), self._state, key.name
        metric = namespace.get(name)
        if metric is None and name not in state.descriptions:
            unit = None if described.unit is None else MetricUnit(described.unit)
            law: Any = described.law or "latest"
            description = Description(
                unit,
                described.help,
                law,
                window_by=described.window_by,
                is_merge_given=described.law is not None,
            )
            state.set_description(name, description)
            if described.bounds != state.bounds(name, key.kind.metric_type):
                state.set_description(name, replace(description, buckets=described.bounds))
        if metric is None:
            metric = namespace.adopt(key.kind, name)
        if metric.kind is not key.kind:
            metric = namespace.metric(key.kind, name)
        return metric

    def _apply(self, metric_key: MetricKey, keys: Iterable[SharedSeriesKey]) -> None:
        """Give series of a metric what the other workers recorded into them.

        Raises:
            InvalidInputError: If another metric has the name here.
        """
        sources, name = self._every_source(), metric_key.name
        every = [(source.is_alive, source.contents.series) for source in sources]
        described = [source.contents.described.get(metric_key) for source in sources]
        known = next((one for one in described if one is not None), None)
        metric, is_adopted = self._namespace(metric_key).get(name), False
        for key in keys:
            yield_gil()
            found = [
                (is_alive, reading)
                for is_alive, series_of in every
                if (reading := series_of.get(key)) is not None and not self._removed.covers(key, reading[3])
            ]
            if found and known is not None and not is_adopted:
                metric, is_adopted = self._adopt(metric_key, known), True
            if metric is None or metric.kind is not metric_key.kind:
                self._applied.pop(key, None)
            else:
                self._apply_to_series(metric, key, found)

    def _apply_to_series(
        self, metric: Metric, key: SharedSeriesKey, found: list[tuple[bool, Reading]]
    ) -> None:
        before, before_merged = self._applied.get(key, (None, None))
        series = before if before is not None and before.is_live else metric.find(key.tags)
        law = "latest"
        if metric.kind is GAUGE:
            own = None if series is None else series.own_state()
            aggregates = [reading[0] for _, reading in found] + ([] if own is None else [own])
            law = metric.law(any(aggregate.is_stepped for aggregate in aggregates))
        merged = merge_readings(
            [reading for is_alive, reading in found if is_alive or law == "latest"], law, metric.bounds
        )
        if merged is None:
            self._applied.pop(key, None)
            if series is not None:
                series.set_others(None)
                if series.own_state() is None:
                    self._remove_series(key.metric, metric, series)
            return
        if series is None:
            series = metric.make(key.tags)
        if series is not before or merged != before_merged:
            series.set_others(merged)
            self._applied[key] = (series, merged)

    def windows(self, named: Named) -> list[tuple[Mapping[str, str], Windows[Any]]]:
        """Return the windows of a metric in each of the other workers: those of each group of series."""
        key, description = _key_of(named), self._state.describe(named.name)
        law = description.merge if description.is_merge_given else None
        found: list[tuple[Mapping[str, str], Windows[Any]]] = []
        with self._reading.begin():  # a worker that another thread finds in the archive would count twice
            for source in self._every_source():
                for group, windows in self._windows_of(source, key).items():
                    windows = self._removed.without_removed(key, windows)
                    if source.is_alive or key.kind is not GAUGE or gauge_outlives(law, windows):
                        found.append((dict(group), windows))
        return found

    def _windows_of(self, source: WorkerSource, key: MetricKey) -> dict[Group, Windows[Any]]:
        try:
            return source.windows(key)
        except Exception as error:  # noqa: BLE001 - a read of the own numbers must not fail
            self._report(source.path, repr(error))
            return {}

    def parts(self, series: Series) -> list[OthersPart]:
        """Return what each of the other workers recorded into a series."""
        with self._reading.begin():
            return self._parts(series)

    def _parts(self, series: Series) -> list[OthersPart]:
        metric: Metric = series.owner
        key = SharedSeriesKey(_key_of(metric.named), series.tag_set.names, series.values)
        found: list[OthersPart] = []
        for source in self._every_source():
            reading = source.contents.series.get(key)
            if reading is None or self._removed.covers(key, reading[3]):
                continue
            aggregate, _, _, first_ns, last_ns = reading
            if metric.kind is GAUGE and not source.is_alive and metric.law(aggregate.is_stepped) != "latest":
                continue
            recent = source.recent(key)
            is_short = first_ns // RECENT_SLOT_NS == last_ns // RECENT_SLOT_NS
            if recent is None:
                found.append(OthersPart(aggregate, first_ns, last_ns, _NO_RECENT if is_short else None, 0))
                continue
            windows, complete_ns = recent
            if metric.kind is GAUGE:  # the level before the first slot is not known
                complete_ns = max(complete_ns, next((end for _, end, _ in windows.slots()), 0))
            found.append(OthersPart(aggregate, first_ns, last_ns, windows, complete_ns))
        return found

    def bounds_changed(self, named: Named) -> None:
        """Note that values of a metric are counted by other bounds."""
        self._dirty_metrics[_key_of(named)] = None

    def _metric(self, key: MetricKey) -> Metric | None:
        return self._namespace(key).get(key.name)

    def _namespace(self, key: MetricKey) -> Namespace:
        return self._store.namespace(key.label, key.is_operation)

    # -- the archive -----------------------------------------------------------------------------------

    def _archive_dead(self) -> None:
        """Add the workers that have ended to the archive, and delete their files."""
        ended = [
            stem for stem in self._stems() or {} if stem != self._stem and not self._peers.is_alive(stem)
        ]
        # Once: workers with different versions of this library do not take turns to write the archive.
        is_repair = self._archive.is_damaged and not self._has_repaired
        if not ended and not is_repair and not self._removed.are_many:
            return
        with self._reading.begin() as is_mine, self._peers.try_lock() as is_locked:
            if is_mine and is_locked:
                self._add_to_archive(ended[:MAX_ARCHIVED_AT_ONCE])

    def _add_to_archive(self, ended: Iterable[str]) -> None:
        archive = self._new_archive()
        archive.poll()
        is_repair = archive.is_damaged
        if is_repair:
            self._poll()
            if self._archive.is_partial and time.monotonic() < self._begun + REPAIR_SECONDS:
                return  # a worker that read the archive before the damage repairs it
            archive = self._archive
        stems = self._stems() or {}
        merged = Merged(archive, self._removed, self._state.core.now())
        readable = [stem for stem in ended if stems.get(stem, set()) & {PAGE, FRAMES}]
        added = [stem for stem in readable if stem not in archive.stems]
        for stem in added:
            yield_gil()
            source = self._sources.get(stem)
            if source is None:
                source = self._new_source(stem, stems[stem])
            source.is_alive = False
            try:
                self._dirty |= source.poll_all()
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    raise  # the files stay, and are read later
                self._report(source.path, str(error))
            merged.add(stem, source)
        if added or is_repair or self._removed.are_many:
            write_file(archive.path, merged.items(stems))
            self._has_repaired |= is_repair
            if self._removed.are_many:
                self._removed.compact(self._state.core.now())
            log_event("debug", "archived the numbers of workers that have ended", workers=len(added))
        for stem in ended:
            self._unlink(stem)


def _ending(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _key_of(named: Named) -> MetricKey:
    label = "operation" if named.metric_type.value == "rate" else named.metric_type.value
    return MetricKey(named.name, label, named.is_operation)


def _open_slots(slot: Slot, written_ns: int | None = None) -> list[tuple[int, Any]]:
    """Return the slots of time that are not in the windows, the oldest first.

    Args:
        slot: The slot.
        written_ns: The start of the newest slot that was written; later ones in the windows are returned too.
    """
    windows, closed, opened = slot.peek()
    found = [*closed, *(() if opened is None else (opened,))]
    if written_ns is not None and windows is not None:
        found[:0] = [(start_ns, aggregate) for start_ns, _, aggregate in _newer(windows, written_ns)]
    return found


def _newer(windows: Windows[Any], than_ns: int) -> list[tuple[int, int, Any]]:
    """Return the slots that start after a moment, the oldest first."""
    return [slot for slot in windows.slots() if slot[0] > than_ns]


def _complete_ns(series: Series, windows: RecentWindows[Any]) -> int:
    return max(windows.kept_from_ns, series.recent_from_ns if series.recent_missed else 0)


def _is_newer(series: Series, time_ns: int) -> bool:
    """Return whether the records of this worker into a series began after a moment."""
    own = series.own_reading()
    return own is not None and own[3] > time_ns
