"""One metric: its series by their tags, and its windows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, reduce
from typing import Any, NamedTuple

from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import engine
from metrics_framework.recording.aggregates import (
    Summary,
    summarize_counter,
    summarize_distribution,
    summarize_gauge,
)
from metrics_framework.recording.buckets import BucketCounts
from metrics_framework.recording.cardinality import OTHER, SeriesLimiter
from metrics_framework.recording.distribution import subtract_distribution
from metrics_framework.recording.engine import ErrorTypes, GaugeSeries, Series, Slot, TagSet
from metrics_framework.recording.exposed_names import Named
from metrics_framework.recording.removals import Removal
from metrics_framework.recording.state import Others, OthersPart, StoreState
from metrics_framework.recording.windows import (
    RECENT_SLOT_NS,
    SLOT_NS,
    RecentWindows,
    Window,
    Windows,
    combine_recent,
    combine_windows,
    join_windows,
    line_up_recent,
    merge_all,
)
from metrics_framework.runtime.cooperative import yield_gil
from metrics_framework.validation import check_name, milliseconds, plain_number
from metrics_framework.values import MetricType

MAX_WINDOW_GROUPS = 100
"""How many groups of series a metric may keep windows apart for."""

MAX_SERIES_OF_HISTORY = 100
"""How many single series a time series by tags is put together from at most: one takes up to 0.4 ms."""

MAX_READS = 3
"""How often a series is read again because another thread recorded into it in the meantime."""

_NO_WINDOWS: Windows[Any] = Windows()
_NO_RECENT_WINDOWS: RecentWindows[Any] = RecentWindows()

_reads_own: ContextVar[bool] = ContextVar("metrics_framework.reads_own", default=False)


@contextmanager
def own_records() -> Iterator[None]:
    """Let readings of single series in the block return what this process itself recorded.

    Exporters of increments use it: each worker of a group exports its own. Bucket counts are left out.
    """
    token = _reads_own.set(True)
    try:
        yield
    finally:
        _reads_own.reset(token)


# -- kinds -----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """One kind of number.

    Attributes:
        metric_type: What users know it as; outcomes are a rate.
        label: What errors call it.
        slot_kind: What the engine calls it.
        series: The class of its series.
        nothing: The aggregate of no records.
        summarize: Summarizes a window.
    """

    metric_type: MetricType
    label: str
    slot_kind: str
    series: type[Series]
    nothing: Any
    summarize: Callable[[Window[Any]], Summary]


COUNTER = Kind(
    MetricType.COUNTER,
    "counter",
    "counter",
    engine.CounterSeries,
    engine.CounterAggregate(),
    lambda window: summarize_counter(window.aggregate, window.seconds),
)
GAUGE = Kind(
    MetricType.GAUGE,
    "gauge",
    "gauge",
    engine.GaugeSeries,
    engine.GaugeAggregate(),
    lambda window: summarize_gauge(window.aggregate, window.start_ns, window.end_ns, window.before),
)
HISTOGRAM = Kind(
    MetricType.HISTOGRAM,
    "histogram",
    "distribution",
    engine.HistogramSeries,
    engine.Distribution.of(()),
    lambda window: summarize_distribution(window.aggregate, window.seconds),
)
TIMER = HISTOGRAM._replace(metric_type=MetricType.TIMER, label="timer", series=engine.TimerSeries)
OUTCOMES = Kind(
    MetricType.RATE,
    "operation",
    "outcome",
    engine.OutcomeSeries,
    engine.OutcomeAggregate.of(()),
    lambda window: {"count": window.aggregate.records, "seconds": window.seconds},
)
KINDS = {kind.label: kind for kind in (COUNTER, GAUGE, HISTOGRAM, TIMER)}
"""The kinds of metrics by label."""


def check_number(kind: Kind, name: str, value: object, signed: bool) -> int | float:
    """Return a number that a series of a kind can record; gauges take ``True`` and ``False`` as 1 and 0.

    Raises:
        InvalidInputError: If it is anything else.
    """
    return plain_number(name, value, signed=signed, boolean=kind is GAUGE)


def check_milliseconds(name: str, value: object, unit: Any) -> float:
    """Return a duration in milliseconds.

    Raises:
        InvalidInputError: If it is not a duration that can be recorded, or ``unit`` does not measure time.
    """
    return milliseconds(name, plain_number(name, value, signed=False), unit)


# -- the metric ------------------------------------------------------------------------------------------


class Metric:
    """A name with its series. The engine calls it for everything that is not a number.

    Windows are kept once for all series, or once for each combination of the values of the tags in
    ``window_by`` of its description. Each series has its own recent windows, as far as the budget goes.

    Args:
        state: Shared by all metrics of the store.
        named: Its name, and whether it belongs to an operation.
        kind: The kind of its numbers.
        successor: Returns the metric that has the name now, created if it does not exist.

    Attributes:
        tag_sets: Series by the names of their tags.
        declared: Whether it is known without any record.
        exposed: Whether a consumer has exposed bucket counts. Bounds that are described before start from
            the values so far; later ones start from zero.
        bounds: Upper bounds that values are counted by.
        version: Replaced whenever a series is added or removed.
        error_types: The error types of an operation, as far as the budget goes.
        window_by: The tags that windows are kept apart for.
        removed_ns: About when a removed series was recorded into last; -1 if none was removed.
    """

    def __init__(self, state: StoreState, named: Named, kind: Kind, successor: Callable[[], Metric]) -> None:
        self.state = state
        self.name = name = named.name
        self.named = named
        self.kind = kind
        self.tag_sets: dict[tuple[str, ...], TagSet] = {}
        self.declared = False
        self.exposed = False
        self.version = object()
        self.error_types = ErrorTypes()
        self.window_by = () if kind is GAUGE else state.describe(name).window_by
        self.bounds = state.bounds(name, kind.metric_type)
        self.limiter = SeriesLimiter(state.cardinality, self, lambda: state.max_series(name))
        self._successor = successor
        self._slots: dict[tuple[str, ...], Slot] = {}
        self._next_expiry_ns = 0
        self.removed_ns = -1
        self._was_recorded = False

    # -- series ----------------------------------------------------------------------------------------

    def series(self) -> Iterator[Series]:
        """Yield all current series."""
        for tag_set in list(self.tag_sets.values()):
            yield from tag_set

    @property
    def series_count(self) -> int:
        """The number of series."""
        return sum(map(len, list(self.tag_sets.values())))

    @property
    def is_known(self) -> bool:
        """Whether it has records, had any before its series expired, or was declared."""
        if not self.declared and not self._was_recorded:
            self._was_recorded = any(map(_has_records, self.series())) or any(
                slot.windows is not None or slot.peek()[2] is not None for slot in self.slots
            )
            if not self._was_recorded and self.state.others is not None:
                self._was_recorded = bool(self.state.others.windows(self.named))
        return self.declared or self._was_recorded

    def find(self, tags: Mapping[str, str]) -> Series | None:
        """Return the series of these tags if there is one."""
        tag_set = self.tag_sets.get(tuple(tags))
        return None if tag_set is None else tag_set.get(tuple(tags.values()))

    def find_or_make(self, tags: Mapping[str, str]) -> Series:
        """Return the series of these tags: a new one within the budget, else a shared one.

        Args:
            tags: Tags as `plain_tags` returns them.
        """
        found = self.find(tags)
        if found is not None:
            return found
        if self.limiter.has_room() or (self._expire_to_make_room() and self.limiter.has_room()):
            return self.make(tags)
        return self.limiter.collapse(tags)

    def make(self, tags: Mapping[str, str]) -> Series:
        """Return the series of these tags, created if it does not exist, whatever the budget."""
        names, values = tuple(tags), tuple(map(self.state.share_text, tags.values()))
        tag_set = self.tag_sets.get(names)
        if tag_set is None:
            tag_set = self.tag_sets.setdefault(names, TagSet(self, names, self._key_of(names)))
        # Two concurrent threads get the same series.
        return self._admit(self.kind.series(tag_set, values, self._slot(tags)))

    def key(self) -> str:
        """Return what other processes need to make the metric."""
        return self._key_of(()).decode()

    def _key_of(self, names: tuple[str, ...]) -> bytes:
        """Return what other processes need to make the metric and a series with these tag names."""
        description = self.state.describe(self.name)
        unit = None if description.unit is None else description.unit.value
        identity = [self.name, self.kind.label, self.named.is_operation, names]
        law = description.merge if description.is_merge_given else None
        described = [unit, description.help, law, self.bounds, self.window_by]
        return json.dumps([*identity, *described], separators=(",", ":"), allow_nan=False).encode()

    def _admit(self, series: Series) -> Series:
        was_live = series.is_live
        live = series.tag_set.add(series)
        if live is series and not was_live:
            self.version = object()
            self.state.cardinality.series_count += 1
        return live

    def remove(self, series: Series, *, keeps_level: bool = False) -> None:
        """Forget a series; its records stay in the metric's windows and totals.

        Args:
            series: The series.
            keeps_level: Whether a gauge that turns out to be counted up and down goes on at its level.
        """
        if not series.is_live:
            return
        state = self.state
        had_records = series.own_state() is not None
        steps = [self.count_removal, self._keep_level] if keeps_level else [self.count_removal]
        if state.others is not None:
            # Idle series are removed with all that was recorded before now, in the second of the last record:
            # another process may have begun a new one since then.
            last_ns = series.last_ns - series.last_ns % SLOT_NS + SLOT_NS - 1
            now = state.core.now()
            time_ns = min(last_ns, now) if keeps_level else now
            steps.insert(1, partial(self._tell_others, state.others, time_ns))
        removal = Removal(steps, series, had_records, tuple(state.on_removed), state.live_consumers())
        series.tag_set.remove(series, state.removals, removal)
        state.report_removals()

    def count_removal(self, removal: Removal, final: Any) -> None:
        """Count a removed series out of the budgets.

        Args:
            removal: The removal.
            final: The final aggregate of the series.
        """
        if final is None and removal.had_records:  # another thread has removed it in the meantime
            return
        cardinality = self.state.cardinality
        cardinality.series_count -= 1
        self.version = object()
        if final is not None or removal.last_ns:
            self.removed_ns = max(self.removed_ns, removal.last_ns)
        cardinality.recent.forget(removal.recent)
        self.limiter.forget(removal.series)

    def _tell_others(self, others: Others, time_ns: int, removal: Removal, final: Any) -> None:
        others.removed(self.named, removal.series.tags, time_ns)

    def _keep_level(self, removal: Removal, final: Any) -> None:
        """Bring a gauge back that was counted up or down between the check of its level and its removal."""
        if (
            not isinstance(removal.series, GaugeSeries)
            or final is None
            or not final.is_stepped
            or final.last == 0
        ):
            return
        live = self.readmit(removal.series)
        if isinstance(live, GaugeSeries):
            aggregate = live.own_state()
            if aggregate is None or aggregate.is_stepped:  # else it was set to a level in the meantime
                live.increment(final.last)

    def expire(self, many: Iterable[Series], before_ns: int) -> None:
        """Remove those of some series whose last record is older than a moment.

        A gauge that is counted up and down stays while its level is not 0: its next step would lead from 0 to
        a wrong level.
        """
        before_ns -= before_ns % SLOT_NS  # a series may know the second of its last record only
        for series in many:
            if series.last_ns < before_ns and _has_records(series) and not _has_level(series):
                self.remove(series, keeps_level=True)

    def _expire_to_make_room(self) -> bool:
        """Remove idle series at intervals if the budget is used up; return whether it did."""
        state, now = self.state, self.state.core.now()
        if state.expire_ns is None or now < self._next_expiry_ns or not state.describe(self.name).expires:
            return False
        self._next_expiry_ns = now + max(state.expire_ns // 10, SLOT_NS)
        self.expire(self.series(), now - state.expire_ns)
        return True

    def reset(self) -> None:
        """Start from zero in a child process, after the engine's core did."""
        self._was_recorded = False
        self._next_expiry_ns = 0
        self.removed_ns = -1

    # -- callbacks of the engine -----------------------------------------------------------------------

    def number(self, value: object, signed: bool) -> int | float | None:
        """Return a number of a type that the engine does not handle; ``None`` if it was rejected and counted.

        Raises:
            InvalidInputError: If it is not a number that can be recorded.
        """
        return self.state.checked(check_number, self.kind, self.name, value, signed)

    def milliseconds(self, value: object, unit: object) -> float | None:
        """Return a duration in milliseconds; ``None`` if it was rejected and counted.

        Raises:
            InvalidInputError: If it is not a duration that can be recorded.
        """
        return self.state.checked(check_milliseconds, self.name, value, unit)

    def error_type(self, error_type: object) -> str | None:
        """Return the name under which a new error type is counted; ``None`` if it was rejected and counted.

        Raises:
            InvalidInputError: If it is not a non-empty string.
        """
        name = self.state.checked(check_name, error_type, "error type")
        if name is None or name in self.error_types:
            return name
        return self.state.cardinality.admit_error_type(self.error_types, name, self.name)

    def readmit(self, series: Series) -> Series | None:
        """Re-add a removed series that has a new record, or return its replacement.

        Returns:
            ``None`` if another kind of metric has the name now, and that was counted.

        Raises:
            InvalidInputError: If another kind of metric has the name now.
        """
        successor = self.state.checked(self._successor)
        if successor is None:
            return None
        return self._admit(series) if successor is self else successor.find_or_make(series.tags)

    # -- slots -----------------------------------------------------------------------------------------

    @property
    def slots(self) -> list[Slot]:
        """The open slots of all groups."""
        return list(self._slots.values())

    def groups(self) -> list[tuple[tuple[tuple[str, str], ...], Slot]]:
        """Return the tags of each group, and its open slot."""
        groups = list(self._slots.items())
        return [(tuple(zip(self.window_by, group, strict=True)), slot) for group, slot in groups]

    def group_of(self, slot: Slot) -> tuple[tuple[str, str], ...] | None:
        """Return the tags of the group that has an open slot; ``None`` if none has it."""
        return next((group for group, one in self.groups() if one is slot), None)

    def _slot(self, tags: Mapping[str, str]) -> Slot:
        group = tuple(tags.get(name, "") for name in self.window_by)
        if group not in self._slots and len(self._slots) >= MAX_WINDOW_GROUPS:
            self.state.notice(
                "too many groups of one name; windows of new ones are kept together", metric=self.name
            )
            group = (OTHER,) * len(group)
        slot = self._slots.get(group)
        if slot is None:
            error_types = self.error_types if self.kind is OUTCOMES else None
            slot = Slot(self.state.core, self.kind.slot_kind, self.publish, error_types)
            # Before other threads see the slot: counts that began would be computed again, within 1 %.
            self._apply_description_to(slot)
            slot = self._slots.setdefault(group, slot)
            self._apply_description_to(slot)  # it may have changed in the meantime
        return slot

    def _apply_description_to(self, slot: Slot) -> None:
        description, bounds = self.state.describe(self.name), self.bounds
        if slot.law != description.merge or description.is_merge_given:
            slot.law = description.merge
        if slot.bounds != bounds:
            slot.count_by(bounds, seed=not self.exposed)

    def publish(self, slot: Slot) -> None:
        """Move the closed slots of a group into its windows; the engine calls it after some records."""
        retention_ns = self.state.retention_ns
        while True:
            windows, closed, _ = slot.peek()
            if not closed:
                return
            after = (_NO_WINDOWS if windows is None else windows).extend(closed, retention_ns)
            if slot.commit(windows, after, len(closed)):
                if self.state.others is not None:
                    self.state.others.slot_closed(self.named, slot)
                return

    def expose(self) -> None:
        """Fix the bounds for a consumer of bucket counts. Call it before reading the counts."""
        if self.kind.slot_kind == HISTOGRAM.slot_kind and not self.bounds:
            self.apply_description()  # another thread made the metric while the default bounds were set
        self.exposed = True

    def apply_description(self) -> None:
        """Apply a change of the description, the rules or the default buckets."""
        bounds = self.state.bounds(self.name, self.kind.metric_type)
        if self.exposed and bounds != self.bounds:
            self.state.notice(
                "buckets of an exposed metric changed; counts start from zero", metric=self.name
            )
        has_changed, self.bounds = bounds != self.bounds, bounds
        for slot in self.slots:
            self._apply_description_to(slot)
        for names, tag_set in list(self.tag_sets.items()):
            tag_set.key = self._key_of(names)
        if has_changed and self.state.others is not None:
            self.state.others.bounds_changed(self.named)

    # -- reading ---------------------------------------------------------------------------------------

    def read(self) -> list[tuple[dict[str, str], Any]]:
        """Return the tags and the aggregate of each series that has records."""
        found: list[tuple[dict[str, str], Any]] = []
        for series in self.series():
            yield_gil()
            aggregate = series.state()
            if aggregate is not None:
                found.append((series.tags, aggregate))
        return found

    @property
    def has_removed_series(self) -> bool:
        """Whether the totals have records of removed series."""
        return self.removed_ns >= 0 or any(
            removal.named == self.named for removal in list(self.state.removals)
        )

    def states(self) -> Iterator[tuple[int, Series, Any, BucketCounts | None]]:
        """Yield each series that has records with its aggregate and bucket counts, and when it was read."""
        read = read_counts if self.kind.slot_kind == "distribution" else _plain
        if _reads_own.get():
            read = _own
        for series in self.series():
            found = read(series)
            if found is not None:
                aggregate, buckets = found
                yield self.state.core.now(), series, aggregate, buckets

    def streams(self) -> list[Windows[Any]]:
        """Return windows that hold all records so far, taken together; see `join`."""
        return self._streams({})

    def streams_by_tag(self, tags: Mapping[str, str], since_ns: int) -> list[Windows[Any]]:
        """Return windows that hold the records of the series that carry some tags, for a time series.

        They reach back over the whole retention if `window_by` has the tags, or if all series carry them.
        Else they are put together from the recent windows of single series: coarse, and for an hour.

        Args:
            tags: Tags of series, as `plain_tags` returns them.
            since_ns: The moment before which records are not of interest.

        Raises:
            InvalidInputError: If they are not known.
        """
        self._check_kept(tags)
        if tags.keys() <= set(self.window_by):
            self._check_group(tags)
            return self._streams(tags)
        return _WindowByTags(self, tags).streams(since_ns)

    def _streams(self, wanted: Mapping[str, str]) -> list[Windows[Any]]:
        """Return the windows of the groups that carry some tags, of all processes."""
        streams: list[Windows[Any]] = []
        for group, slot in list(self._slots.items()):
            if wanted.items() <= dict(zip(self.window_by, group, strict=True)).items():
                streams.append(_read(slot, _NO_WINDOWS, self.state.retention_ns))
        if self.state.others is not None:
            others = self.state.others.windows(self.named)
            streams += [windows for tags, windows in others if wanted.items() <= tags.items()]
        if self.kind is GAUGE and len(streams) > 1:  # values at the same time do not follow one another
            law = self.law(
                any(aggregate.is_stepped for each in streams for _, _, aggregate in each.slots())
                or any(each.earlier is not None and each.earlier.is_stepped for each in streams)
            )
            return [combine_windows(streams, *_combining(law))]
        return streams

    def law(self, is_stepped: bool) -> str:
        """Return how the records of several processes into one gauge are combined.

        Args:
            is_stepped: Whether it was incremented or decremented.
        """
        description = self.state.describe(self.name)
        return "sum" if is_stepped and not description.is_merge_given else description.merge

    def window(self, window_ns: int | None, tags: Mapping[str, str] | None = None) -> Window[Any]:
        """Return the records of a window: those of all series, or of the series that carry some tags.

        By tag, a window is exact. It reaches back over the whole retention if ``window_by`` of the
        description has the tags. Else it is put together from the recent windows of single series: it begins
        at an edge that all of them have in common, and may cover more or less than requested.

        Args:
            window_ns: How far back; ``None`` is since the start.
            tags: Tags of series, as `plain_tags` returns them.

        Raises:
            InvalidInputError: If the window by these tags is not known.
        """
        wanted = dict(tags or {})
        self._check_kept(wanted)
        if wanted.keys() <= set(self.window_by):
            self._check_group(wanted)
            return self.join(self._streams(wanted), window_ns)
        return _WindowByTags(self, wanted).read(window_ns)

    def _check_kept(self, wanted: Mapping[str, str]) -> None:
        if wanted and self.limiter.loses(wanted):
            raise InvalidInputError(
                f"{self.name!r} is past its budget of series, and records with tags={dict(wanted)!r} are"
                " counted together with others: raise Budgets(series_per_name=…), or record fewer values of"
                " its tags"
            )

    def _check_group(self, wanted: Mapping[str, str]) -> None:
        groups = {group: dict(zip(self.window_by, group, strict=True)) for group in list(self._slots)}
        if wanted and len(groups) > MAX_WINDOW_GROUPS and wanted not in groups.values():
            raise InvalidInputError(
                f"{self.name!r} has more than {MAX_WINDOW_GROUPS} combinations of {list(self.window_by)!r}:"
                f" the windows of {dict(wanted)!r} are kept together with those of others. Describe it with"
                " fewer tags in window_by="
            )

    def join(self, streams: Sequence[Windows[Any]], window_ns: int | None) -> Window[Any]:
        """Return a window over several groups.

        Args:
            streams: The windows of the groups, as `streams` returns them.
            window_ns: How far back; ``None`` is since the start.
        """
        now_ns = self.state.core.now()
        return join_windows(streams, window_ns, self.state.start_ns, now_ns, self.kind.nothing)


class _Part(NamedTuple):
    """A series of a window by tags, or what one other process recorded into it.

    Attributes:
        state: Returns the aggregate of all of its records.
        first_ns: Start of the 16-second slot of its first record.
        last_ns: Start of the 16-second slot of its last record.
        windows: Its recent windows; ``None`` if it has none.
        complete_ns: The moment from which on its windows are complete.
    """

    state: Callable[[], Any]
    first_ns: int
    last_ns: int
    windows: RecentWindows[Any] | None
    complete_ns: int

    def is_split_by(self, edge_ns: int) -> bool:
        """Return whether it has records before and after a moment."""
        return self.first_ns < edge_ns <= self.last_ns

    def slots(self, kind: Kind, whole: Any, since_ns: int) -> tuple[list[tuple[int, int, Any]], int]:
        """Return its slots, and the moment from which on they are complete; 0 is the first record.

        A series gets its windows when it records in a second slot of 16 seconds. So the records of its first
        slot are those that its windows lack. Both slots may overlap.

        Args:
            kind: The kind of its numbers.
            whole: All of its records, read at the same time as the windows.
            since_ns: The moment before which records are not of interest.
        """
        first = (self.first_ns, self.first_ns + RECENT_SLOT_NS)
        slots = [] if self.windows is None else list(self.windows.slots())
        if not slots and self.first_ns == self.last_ns:
            return [(*first, whole)], 0
        if self.windows is None or (kind is GAUGE and not slots):  # only the last level or moment is known
            last = (self.last_ns, self.last_ns + RECENT_SLOT_NS)
            return [(*last, whole)], last[1]
        if self.complete_ns > self.first_ns or first[1] <= since_ns:
            return slots, max(self.complete_ns, first[1])
        early = _difference(whole, merge_all((content for _, _, content in slots), kind.nothing))
        return [(*first, early), *slots] if early.records > 0 else slots, 0


class _WindowByTags:
    """Builds a window by tags from the series that have these tags.

    Args:
        metric: The metric.
        wanted: The tags.
    """

    def __init__(self, metric: Metric, wanted: Mapping[str, str]) -> None:
        self._metric = metric
        self._wanted = wanted

    def read(self, window_ns: int | None) -> Window[Any]:
        """Return the window.

        Raises:
            InvalidInputError: If it is not known.
        """
        metric, state = self._metric, self._metric.state
        matching = list(filter(_has_records, self._matching()))
        if metric.kind is GAUGE and len(matching) > 1:
            raise InvalidInputError(
                f"{metric.name!r} is a gauge and has {len(matching)} series with tags={dict(self._wanted)!r}:"
                " pass all tags of one series, or none for all series together"
            )
        if window_ns is None:
            states = [aggregate for series in matching if (aggregate := series.state()) is not None]
            now_ns = state.core.now()
            return Window(merge_all(states, metric.kind.nothing), state.start_ns, now_ns)
        parts = [part for series in matching for part in self._parts(series)]
        now_ns = state.core.now()
        edge_ns = self._edge(parts, max(now_ns - window_ns, 0), now_ns)
        start_ns = max(edge_ns, state.start_ns)
        inside: list[Any] = []
        before: Any = None
        for part in parts:
            if part.first_ns >= edge_ns:
                inside.append(part.state() or metric.kind.nothing)
            elif not part.is_split_by(edge_ns):
                before = part.state()
            else:
                assert part.windows is not None
                for slot_start_ns, _, aggregate in part.windows.slots():
                    if slot_start_ns >= edge_ns:
                        inside.append(aggregate)
                    else:
                        before = aggregate
        return Window(merge_all(inside, metric.kind.nothing), start_ns, now_ns, before)

    def streams(self, since_ns: int) -> list[Windows[Any]]:
        """Return the windows of the series, for a time series.

        Args:
            since_ns: The moment before which records are not of interest.

        Raises:
            InvalidInputError: If they are not known.
        """
        metric, kind = self._metric, self._metric.kind
        matching: list[Series] = []
        for series in self._matching():
            yield_gil()
            if _has_records(series):
                matching.append(series)
        if len(matching) == metric.series_count and not metric.has_removed_series:
            return metric.streams()
        if len(matching) > (1 if kind is GAUGE else MAX_SERIES_OF_HISTORY):
            raise self._refused(f"has {len(matching)} series with these tags, too many for a time series")
        now_ns = metric.state.core.now()
        slots: list[tuple[int, int, Any]] = []
        complete_ns = self._after_removed_ns
        for series in matching:
            for part, whole in self._whole_parts(series):
                kept, since_ns = part.slots(kind, whole, since_ns)
                slots += kept
                complete_ns = max(complete_ns, since_ns)
        if complete_ns > now_ns:
            wait = (complete_ns - now_ns) / 1e9
            raise self._refused(f"has windows by these tags only from {wait:.0f} seconds from now on")
        windows = line_up_recent(slots, complete_ns)
        if windows.kept_from_ns > now_ns:
            raise self._refused("has no complete windows by these tags yet")
        return [windows]

    @property
    def _after_removed_ns(self) -> int:
        """The moment after which nothing was recorded into removed series."""
        removed_ns = self._metric.removed_ns
        return _recent_start(removed_ns) + RECENT_SLOT_NS if removed_ns >= 0 else 0

    def _edge(self, parts: Iterable[_Part], edge_ns: int, now_ns: int) -> int:
        """Return the start of the window: the edge nearest to the requested one at which no slot is split."""
        edge_ns -= edge_ns % RECENT_SLOT_NS
        lowest_ns = self._after_removed_ns
        is_rising = False  # the window gets longer, unless it reaches beyond complete windows
        while True:
            split = [part for part in parts if part.is_split_by(edge_ns)]
            if any(part.windows is None for part in split):
                raise self._refused("has series with these tags that have no windows")
            lowest_ns = max([lowest_ns, *(part.complete_ns for part in split)])
            if edge_ns < lowest_ns:
                edge_ns, is_rising = lowest_ns, True
                continue
            edges = [
                part.windows.round_up(edge_ns) if is_rising else part.windows.round_down(edge_ns)
                for part in split
                if part.windows is not None
            ]
            rounded = (max if is_rising else min)(edges, default=edge_ns)
            if edge_ns > now_ns:
                wait = (edge_ns - now_ns) / 1e9
                raise self._refused(f"has windows by these tags only from {wait:.0f} seconds from now on")
            if rounded == edge_ns:
                return edge_ns
            edge_ns = rounded

    def _matching(self) -> Iterator[Series]:
        """Yield the series that carry the tags; a constant tag counts unless a series has its own."""
        constant = self._metric.state.tags
        for names, tag_set in list(self._metric.tag_sets.items()):
            places: list[tuple[int, str]] = []
            for name, value in self._wanted.items():
                if name in names:
                    places.append((names.index(name), value))
                elif constant.get(name) != value:
                    break
            else:
                if len(places) == len(names):  # there is one such series at most
                    series = tag_set.get(tuple(value for _, value in sorted(places)))
                    yield from () if series is None else (series,)
                    continue
                for series in tag_set:
                    values = series.values
                    if all(values[place] == value for place, value in places):
                        yield series

    def _parts(self, series: Series) -> list[_Part]:
        """Return the parts of a series, one for each process that recorded into it."""
        others = self._metric.state.others
        parts = [] if others is None else [_part_of_another(one) for one in others.parts(series)]
        if not parts:
            return [self._part(series)]
        own = series.own_reading()
        if own is not None:
            first_ns, last_ns = _recent_start(own[3]), _recent_start(own[4])
            own_part = self._part(series)
            parts.append(own_part._replace(state=series.own_state, first_ns=first_ns, last_ns=last_ns))
        if self._metric.kind is not GAUGE or len(parts) == 1:
            return parts
        aggregates = [aggregate for part in parts if (aggregate := part.state()) is not None]
        combine, hold = _combining(self._metric.law(any(each.is_stepped for each in aggregates)))
        windows = [part.windows for part in parts if part.windows is not None]
        return [
            _Part(
                partial(_itself, reduce(combine, aggregates)),
                min(part.first_ns for part in parts),
                max(part.last_ns for part in parts),
                combine_recent(windows, combine, hold) if len(windows) == len(parts) else None,
                max(part.complete_ns for part in parts),
            )
        ]

    def _whole_parts(self, series: Series) -> list[tuple[_Part, Any]]:
        """Return the parts of a series, each with all of its records, which are those of its windows."""
        found: list[tuple[_Part, Any]] = []
        for _ in range(MAX_READS):
            before = series.own_state()
            found = [(part, whole) for part in self._parts(series) if (whole := part.state()) is not None]
            after = series.own_state()
            if before is None or after is None or before.records == after.records:
                break
        return found

    def _part(self, series: Series) -> _Part:
        # Read the last record first: the windows, which are read later, contain it.
        last_ns, first_ns = _recent_start(series.last_ns), _recent_start(series.created_ns)
        slot, windows, complete_ns = series.recent, None, 0
        if slot is not None:
            windows = _read(slot, _NO_RECENT_WINDOWS)
            complete_ns = max(windows.kept_from_ns, series.recent_from_ns if series.recent_missed else 0)
            if self._metric.kind is GAUGE:  # the level before the first slot is not known
                complete_ns = max(complete_ns, next((end for _, end, _ in windows.slots()), 0))
        elif not series.recent_missed:
            windows = _NO_RECENT_WINDOWS
        return _Part(series.state, first_ns, last_ns, windows, complete_ns)

    def _refused(self, reason: str) -> InvalidInputError:
        name, tags = self._metric.name, list(self._wanted)
        return InvalidInputError(
            f"{name!r} {reason}. describe({name!r}, window_by={tags!r}) before its first record keeps windows"
            f" by {' and '.join(map(repr, tags))}"
        )


def _difference(whole: Any, later: Any) -> Any:
    """Return the records of a counter, distribution or operation that are not among its later ones."""
    if isinstance(whole, engine.CounterAggregate):
        return whole.subtract(later)
    if isinstance(whole, engine.Distribution):
        return engine.Distribution.of_state(subtract_distribution(whole, later))
    after = later.endings
    early = {ending: number - after.get(ending, 0) for ending, number in whole.endings.items()}
    return engine.OutcomeAggregate.of_endings(
        {ending: number for ending, number in early.items() if number > 0}
    )


def _read(slot: Slot, nothing: Any, *retention_ns: int) -> Any:
    """Return the windows of a slot with all records so far; nothing is published."""
    windows, closed, opened = slot.peek()
    slots = closed if opened is None else (*closed, opened)
    return (nothing if windows is None else windows).extend(slots, *retention_ns)


def _recent_start(time_ns: int) -> int:
    return time_ns - time_ns % RECENT_SLOT_NS


def _part_of_another(part: OthersPart) -> _Part:
    return _Part(
        partial(_itself, part.aggregate),
        _recent_start(part.first_ns),
        _recent_start(part.last_ns),
        part.windows,
        part.complete_ns,
    )


def _itself(aggregate: Any) -> Any:
    return aggregate


def _combining(law: str) -> tuple[Callable[[Any, Any], Any], Callable[[Any, int], Any] | None]:
    """Return how aggregates of a gauge that were recorded at the same time are combined, and how values hold.

    The latest value replaces the others, so it alone holds.
    """
    return (lambda one, other: one.combine(other, law)), None if law == "latest" else _held


def _held(before: Any, time_ns: int) -> Any:
    last = before.last
    return engine.GaugeAggregate(0, last, last, last, last, time_ns, time_ns, 0.0, before.is_stepped)


def read_counts(series: Any) -> tuple[Any, BucketCounts | None] | None:
    """Return the distribution and bucket counts of a series from one reading; ``None`` without records."""
    while True:
        bounds = series.slot.bounds
        found = series.counted()
        if found is None:
            return None
        aggregate, counts, total = found
        if counts is None:
            return aggregate, None
        if len(counts) == len(bounds) + 1:  # else other bounds were described in between
            return aggregate, BucketCounts(bounds, counts, total)


def _plain(series: Series) -> tuple[Any, None] | None:
    aggregate = series.state()
    return None if aggregate is None else (aggregate, None)


def _own(series: Series) -> tuple[Any, None] | None:
    aggregate = series.own_state()
    return None if aggregate is None else (aggregate, None)


def _has_records(series: Series) -> bool:
    # With a clock that starts at 0, the first record is at 0, which also means "no record".
    return series.last_ns != 0 or series.state() is not None


def _has_level(series: Series) -> bool:
    if isinstance(series, GaugeSeries) and series.is_stepped:
        aggregate = series.state()
        return aggregate is not None and aggregate.last != 0
    return False
