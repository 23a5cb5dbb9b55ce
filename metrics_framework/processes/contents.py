"""What the files of workers say: the numbers of series, their windows, and their form in frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import uuid4

from metrics_framework.recording import engine
from metrics_framework.recording.aggregates import Sum
from metrics_framework.recording.distribution import Buckets, DistributionState, PackedCounts
from metrics_framework.recording.engine import ENGINE
from metrics_framework.recording.metric import KINDS, OUTCOMES, Kind
from metrics_framework.recording.windows import (
    RECENT_SLOT_NS,
    SLOT_NS,
    RecentWindows,
    Windows,
    combine_windows,
)

_KINDS = {**KINDS, OUTCOMES.label: OUTCOMES}
_NO_WINDOWS: Windows[Any] = Windows()


class MetricKey(NamedTuple):
    """Identifies a metric, or one half of an operation, in all workers.

    Attributes:
        name: Its name.
        label: The label of its kind, like ``"counter"``; ``"operation"`` stands for outcomes.
        is_operation: Whether it belongs to an operation.
    """

    name: str
    label: str
    is_operation: bool

    @property
    def kind(self) -> Kind:
        """Its kind."""
        return _KINDS[self.label]


class SharedSeriesKey(NamedTuple):
    """Identifies a series in all workers."""

    metric: MetricKey
    names: tuple[str, ...]
    values: tuple[str, ...]

    @property
    def tags(self) -> dict[str, str]:
        """The tags, sorted by name."""
        return dict(zip(self.names, self.values, strict=True))


class Described(NamedTuple):
    """What a worker's application says about a metric; see `Description`."""

    unit: str | None
    help: str
    law: str | None
    bounds: tuple[float, ...]
    window_by: tuple[str, ...]


@lru_cache(maxsize=10_000)
def parse_key(key: str) -> tuple[MetricKey, tuple[str, ...], Described]:
    """Return what the key of a tag set says: the metric, the names of the tags, and the description.

    Raises:
        ValueError: If it is not the key of a tag set.
    """
    try:
        name, label, is_operation, names, unit, help, law, bounds, window_by = json.loads(key)
        metric = MetricKey(str(name), _KINDS[label].label, bool(is_operation))
        return metric, tuple(names), Described(unit, help, law, tuple(bounds), tuple(window_by))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{key!r} is not the key of a tag set") from error


Reading = tuple[Any, "tuple[int, ...] | None", int | float, int, int]
"""The numbers of a series in one worker or several, as `Series.set_others` takes them."""

Group = tuple[tuple[str, str], ...]
"""The tags and values of series whose windows are kept together."""


class Counters(NamedTuple):
    """The internal counters of a store, for its health."""

    records: int = 0
    rejected: int = 0
    overflowed: int = 0
    abandoned: int = 0

    def plus(self, other: Counters) -> Counters:
        """Return the sums."""
        return Counters(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Recent(NamedTuple):
    """The recent windows of one series in one worker, and from which moment on they are complete."""

    windows: RecentWindows[Any]
    complete_ns: int


_NOTHING_RECENT = Recent(RecentWindows(), 0)


# -- aggregates ------------------------------------------------------------------------------------------


def encode(aggregate: Any) -> Any:
    """Return an aggregate in a form that JSON keeps exactly."""
    if isinstance(aggregate, engine.Distribution):
        state = aggregate.state
        fields = (
            state.count,
            state.min,
            state.max,
            list(state.sum),
            state.mean,
            state.stddev,
            state.failures,
        )
        if state.exact is not None:
            return [*fields, list(state.exact)]
        buckets = state.buckets
        return [
            *fields,
            None,
            buckets.scale,
            buckets.zeros,
            *map(_encode_counts, (buckets.negative, buckets.positive)),
        ]
    if isinstance(aggregate, engine.OutcomeAggregate):
        return list(aggregate.endings.items())
    if isinstance(aggregate, tuple):
        return [list(part) if isinstance(part, Sum) else part for part in aggregate]
    return list(aggregate.__reduce__()[1])


def _encode_counts(counts: PackedCounts) -> Any:
    return [counts.low, counts.bits, counts.peak, f"{counts.packed:x}"]


def _decode_counts(low: int, bits: int, peak: int, packed: str) -> PackedCounts:
    return PackedCounts(low, bits, peak, int(packed, 16))


def decode(slot_kind: str, encoded: Any) -> Any:
    """Return the aggregate of a kind that `encode` was given.

    Raises:
        ValueError: If it is not one.
        TypeError: Likewise.
    """
    if slot_kind == "counter":
        if ENGINE == "pure":
            records, total, is_exact = encoded
            return engine.CounterAggregate(records, Sum(*total), is_exact)
        return engine.CounterAggregate(*encoded)
    if slot_kind == "gauge":
        return engine.GaugeAggregate(*encoded)
    if slot_kind == "outcome":
        endings = dict(encoded)
        of_endings: Callable[[dict[str | None, int]], Any] = getattr(
            engine.OutcomeAggregate, "of_endings", engine.OutcomeAggregate
        )
        return of_endings(endings)
    count, low, high, total, mean, stddev, failures, exact, *counted = encoded
    if counted:
        scale, zeros, *signs = counted
        negative, positive = (_decode_counts(*sign) for sign in signs)
        buckets = Buckets(scale, negative, zeros, positive)
    else:
        buckets = engine.Distribution().state.buckets
    kept = None if exact is None else tuple(exact)
    return engine.Distribution.of_state(
        DistributionState(count, low, high, Sum(*total), mean, stddev, kept, buckets, failures)
    )


# -- items of frames -------------------------------------------------------------------------------------


class Items:
    """Makes the items of one file. Keys are written once, and referred to by their number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def header(self, start_ns: int, **more: Any) -> Iterator[Any]:
        """Yield the first item of a file: its engine, and when the store of the worker began."""
        yield ["h", {"engine": ENGINE, "start_ns": start_ns, "file": uuid4().hex, **more}]

    def series(self, key: str, values: tuple[str, ...], reading: Reading) -> Iterator[Any]:
        """Yield the numbers of a series."""
        number = yield from self._number(key)
        yield ["s", number, values, encode(reading[0]), *reading[1:]]

    def removed(self, key: SharedSeriesKey) -> Iterator[Any]:
        """Yield that a series was removed."""
        yield ["d", key.metric, key.names, key.values]

    def windows(self, key: str, group: Group, windows: Windows[Any]) -> Iterator[Any]:
        """Yield all windows of a group of series."""
        number = yield from self._number(key)
        earlier = None if windows.earlier is None else encode(windows.earlier)
        yield ["w", number, group, windows.kept_from_ns, earlier, _encode_slots(windows.slots())]

    def slots(self, key: str, group: Group, slots: Iterable[tuple[int, int, Any]]) -> Iterator[Any]:
        """Yield slots that follow those of a group that were written before."""
        number = yield from self._number(key)
        yield ["a", number, group, _encode_slots(slots)]

    def open_slots(self, key: str, group: Group, slots: Iterable[tuple[int, Any]]) -> Iterator[Any]:
        """Yield the slots of a group that are not in its windows yet."""
        number = yield from self._number(key)
        yield ["o", number, group, _encode_starts(slots)]

    def recent(self, key: str, values: tuple[str, ...], recent: Recent) -> Iterator[Any]:
        """Yield all recent windows of a series."""
        number = yield from self._number(key)
        windows, complete_ns = recent
        yield ["r", number, values, complete_ns, windows.kept_from_ns, _encode_slots(windows.slots())]

    def recent_slots(
        self, key: str, values: tuple[str, ...], complete_ns: int, slots: Iterable[tuple[int, Any]]
    ) -> Iterator[Any]:
        """Yield slots that follow the recent windows of a series that were written before."""
        number = yield from self._number(key)
        yield ["q", number, values, complete_ns, _encode_starts(slots)]

    def open_recent(
        self, key: str, values: tuple[str, ...], slots: Iterable[tuple[int, Any]]
    ) -> Iterator[Any]:
        """Yield the slots of a series that are not in its recent windows yet."""
        number = yield from self._number(key)
        yield ["p", number, values, _encode_starts(slots)]

    def counters(self, counters: Counters) -> Iterator[Any]:
        """Yield the internal counters."""
        yield ["c", *counters]

    def forget(self, metric: MetricKey) -> Iterator[Any]:
        """Yield that a name was removed, with its windows."""
        yield ["x", *metric]

    def _number(self, key: str) -> Generator[Any, None, int]:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._numbers)
            yield ["k", number, key]
        return number


def _encode_slots(slots: Iterable[tuple[int, int, Any]]) -> list[Any]:
    return [[start_ns, end_ns, encode(aggregate)] for start_ns, end_ns, aggregate in slots]


def _encode_starts(slots: Iterable[tuple[int, Any]]) -> list[Any]:
    return [[start_ns, encode(aggregate)] for start_ns, aggregate in slots]


# -- contents --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Contents:
    """What a file says. `apply` adds items in the order in which they were written.

    Attributes:
        retention_ns: How long slots of names are kept.
        header: The fields of the header.
        counters: The internal counters.
        series: The numbers of each series.
        described: The description of each metric.
        keys: A key of each metric and the names of its tags.
        windows: The windows of each group of series of a metric.
        opened: The slots that are not in the windows yet.
        recent: The recent windows of each series.
        opened_recent: The slots of series that are not in their recent windows yet.
    """

    retention_ns: int
    header: dict[str, Any] = field(default_factory=dict)
    counters: Counters = field(default_factory=Counters)
    series: dict[SharedSeriesKey, Reading] = field(default_factory=dict)
    described: dict[MetricKey, Described] = field(default_factory=dict)
    keys: dict[tuple[MetricKey, tuple[str, ...]], str] = field(default_factory=dict)
    windows: dict[MetricKey, dict[Group, Windows[Any]]] = field(default_factory=dict)
    opened: dict[MetricKey, dict[Group, list[tuple[int, Any]]]] = field(default_factory=dict)
    recent: dict[SharedSeriesKey, Recent] = field(default_factory=dict)
    opened_recent: dict[SharedSeriesKey, list[tuple[int, Any]]] = field(default_factory=dict)
    _numbers: dict[int, tuple[MetricKey, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def start_ns(self) -> int | None:
        """When the store of the worker began; the earliest of several."""
        start_ns: int | None = self.header.get("start_ns")
        return start_ns

    def describe(self, key: str) -> tuple[MetricKey, tuple[str, ...]]:
        """Remember the key of a tag set, and return the metric and the names of its tags.

        Raises:
            ValueError: If it is not the key of a tag set.
        """
        metric, names, described = parse_key(key)
        self.described[metric] = described
        self.keys[metric, names] = key
        return metric, names

    def apply(self, items: Iterable[Any]) -> set[SharedSeriesKey]:
        """Add items, and return the series whose numbers changed.

        Raises:
            ValueError: If an item is not one of `Items`, or is that of another engine.
        """
        changed: set[SharedSeriesKey] = set()
        try:
            for kind, *fields in items:
                getattr(self, f"_apply_{kind}")(changed, *fields)
        except (TypeError, AttributeError, KeyError, IndexError, OverflowError) as error:
            raise ValueError(f"an item of a frame cannot be read: {error!r}") from error
        return changed

    def _apply_h(self, changed: set[SharedSeriesKey], header: dict[str, Any]) -> None:
        if header["engine"] != ENGINE:
            raise ValueError(
                f"it is of a worker with the {header['engine']} engine, and this one has the {ENGINE} engine"
            )
        self.header = header

    def _apply_k(self, changed: set[SharedSeriesKey], number: int, key: str) -> None:
        self._numbers[number] = self.describe(key)

    def _apply_c(self, changed: set[SharedSeriesKey], *counters: int) -> None:
        self.counters = Counters(*counters)

    def _apply_s(
        self,
        changed: set[SharedSeriesKey],
        number: int,
        values: Any,
        encoded: Any,
        counts: list[int] | None,
        total: int | float,
        created_ns: int,
        last_ns: int,
    ) -> None:
        key = self._series_key(number, values)
        changed.add(key)
        aggregate = decode(key.metric.kind.slot_kind, encoded)
        self.series[key] = aggregate, None if counts is None else tuple(counts), total, created_ns, last_ns

    def _apply_d(self, changed: set[SharedSeriesKey], metric: Any, names: Any, values: Any) -> None:
        key = SharedSeriesKey(MetricKey(*metric), tuple(names), tuple(values))
        changed.add(key)
        for known in (self.series, self.recent, self.opened_recent):
            known.pop(key, None)

    def _apply_w(
        self,
        changed: set[SharedSeriesKey],
        number: int,
        group: Any,
        kept_from_ns: int,
        earlier: Any,
        slots: Any,
    ) -> None:
        metric = self._numbers[number][0]
        slot_kind = metric.kind.slot_kind
        self.windows.setdefault(metric, {})[_group(group)] = Windows.of_slots(
            _decode_slots(slot_kind, slots),
            None if earlier is None else decode(slot_kind, earlier),
            kept_from_ns,
        )

    def _apply_a(self, changed: set[SharedSeriesKey], number: int, group: Any, slots: Any) -> None:
        metric = self._numbers[number][0]
        groups, its_group = self.windows.setdefault(metric, {}), _group(group)
        groups[its_group] = add_slots(
            groups.get(its_group, _NO_WINDOWS), _decode_slots(metric.kind.slot_kind, slots), self.retention_ns
        )

    def _apply_o(self, changed: set[SharedSeriesKey], number: int, group: Any, slots: Any) -> None:
        metric = self._numbers[number][0]
        slot_kind = metric.kind.slot_kind
        self.opened.setdefault(metric, {})[_group(group)] = [
            (start_ns, decode(slot_kind, encoded)) for start_ns, encoded in slots
        ]

    def _apply_r(
        self,
        changed: set[SharedSeriesKey],
        number: int,
        values: Any,
        complete_ns: int,
        kept_from_ns: int,
        slots: Any,
    ) -> None:
        key = self._series_key(number, values)
        windows = RecentWindows.of_slots(_decode_slots(key.metric.kind.slot_kind, slots), kept_from_ns)
        self.recent[key] = Recent(windows, complete_ns)

    def _apply_q(
        self, changed: set[SharedSeriesKey], number: int, values: Any, complete_ns: int, slots: Any
    ) -> None:
        key = self._series_key(number, values)
        known = self.recent.get(key, _NOTHING_RECENT)
        decoded = [(start_ns, decode(key.metric.kind.slot_kind, encoded)) for start_ns, encoded in slots]
        self.recent[key] = Recent(add_recent(known.windows, decoded), complete_ns)

    def _apply_p(self, changed: set[SharedSeriesKey], number: int, values: Any, slots: Any) -> None:
        key = self._series_key(number, values)
        self.opened_recent[key] = [
            (start_ns, decode(key.metric.kind.slot_kind, encoded)) for start_ns, encoded in slots
        ]

    def _apply_x(self, changed: set[SharedSeriesKey], name: str, label: str, is_operation: bool) -> None:
        metric = MetricKey(name, label, is_operation)
        self.windows.pop(metric, None)
        self.opened.pop(metric, None)
        for key in [key for key in self.recent if key.metric == metric]:
            self.recent.pop(key)

    def _series_key(self, number: int, values: Iterable[str]) -> SharedSeriesKey:
        return SharedSeriesKey(*self._numbers[number], tuple(values))

    def items(self, **header: Any) -> Iterator[Any]:
        """Yield items that say the same."""
        items = Items()
        yield from items.header(self.start_ns or 0, **header)
        yield from items.counters(self.counters)
        for series_key, reading in self.series.items():
            yield from items.series(self.keys[series_key[:2]], series_key.values, reading)
        for metric, groups in self.windows.items():
            key = next(text for (one, _), text in self.keys.items() if one == metric)
            for group, windows in groups.items():
                yield from items.windows(key, group, windows)
        for series_key, recent in self.recent.items():
            yield from items.recent(self.keys[series_key[:2]], series_key.values, recent)


def _group(group: Iterable[Iterable[str]]) -> Group:
    return tuple((name, value) for name, value in group)


def _decode_slots(slot_kind: str, slots: Any) -> list[tuple[int, int, Any]]:
    return [(start_ns, end_ns, decode(slot_kind, encoded)) for start_ns, end_ns, encoded in slots]


def newest_ns(windows: Windows[Any]) -> int:
    """Return the start of the newest slot, or the moment from which on slots are kept; -1 if it is empty."""
    for level in windows.levels:
        if level:
            start_ns: int = level[-2]
            return start_ns
    return -1 if windows.earlier is None else windows.kept_from_ns - 1


def add_slots(
    windows: Windows[Any], slots: Iterable[tuple[int, int, Any]], retention_ns: int
) -> Windows[Any]:
    """Return windows with more slots. Those that they have already, and older ones, change nothing."""
    for start_ns, end_ns, aggregate in slots:
        if start_ns <= newest_ns(windows):
            continue
        if end_ns - start_ns == SLOT_NS:
            windows = windows.extend([(start_ns, aggregate)], retention_ns)
        else:  # the writer merged slots before it wrote them
            added: Windows[Any] = Windows.of_slots([(start_ns, end_ns, aggregate)])
            windows = combine_windows([windows, added], lambda one, other: one.merge(other))
    return windows


def add_recent(windows: RecentWindows[Any], slots: Iterable[tuple[int, Any]]) -> RecentWindows[Any]:
    """Return recent windows with more slots of 16 seconds; those that they have already change nothing."""
    for start_ns, aggregate in slots:
        if all(end <= start_ns for _, end, _ in windows.slots()):
            windows = windows.extend([(start_ns - start_ns % RECENT_SLOT_NS, aggregate)])
    return windows
