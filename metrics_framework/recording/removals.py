"""Removed series: the steps of a removal, and the numbers that exporters of increments still have to send."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias

from metrics_framework.recording.cardinality import OTHER
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.values import MetricType

if TYPE_CHECKING:
    from metrics_framework.recording.engine import Series
    from metrics_framework.recording.exposed_names import Named

    SeriesIdentity: TypeAlias = tuple[Named, tuple[str, ...], tuple[str, ...]]
    """The owner of a series, the names of its tags and their values: the same after a removal."""

    Finals: TypeAlias = Mapping[SeriesIdentity, Any]
    """Removed series, each with the merge of its final aggregates."""

MAX_REMOVED_SERIES = 10_000
"""How many removed series are kept apart until an export. Further ones lose the values of their tags."""

MAX_UNMERGED_REMOVALS = 1_000
"""How many removals are kept one by one before those of the same series are merged."""


class Removal:
    """The removal of a series, and the steps that follow it.

    Args:
        steps: Called with the removal and the final aggregate, before the listeners.
        series: The series.
        had_records: Whether it had records before.
        listeners: Called with the series and its final aggregate.
        consumers: Get the final aggregate, unless it is that of a gauge.
    """

    def __init__(
        self,
        steps: Iterable[Callable[[Removal, Any], None]],
        series: Series,
        had_records: bool,
        listeners: Iterable[Callable[[Named, Series, Any], object]],
        consumers: Iterable[RemovedSeries],
    ) -> None:
        self.steps = iter(steps)
        self.series = series
        self.named: Named = series.owner.named
        self.recent = series.recent
        self.last_ns = series.last_ns
        self.had_records = had_records
        self.listeners = iter(listeners)
        is_gauge = self.named.metric_type is MetricType.GAUGE
        self._unmerged = iter([] if is_gauge else [consumer.unmerged for consumer in consumers])

    def give(self, final: Any) -> None:
        """Give the final aggregate to each consumer, once."""
        # One call without Python code of its own: no handler raises between two of its steps.
        any(map(dict.__setitem__, self._unmerged, repeat(self), repeat(final)))


class _Merged:
    """One state of `RemovedSeries`. It never changes; another one follows it.

    Attributes:
        exported: The numbers of the export in progress, or of the last one if it failed.
        later: The numbers of series that were removed after that.
        removals: The removals that this state has added.
        next: Holds the next state, once there is one.
    """

    __slots__ = ("exported", "later", "next", "removals")

    def __init__(self, exported: Finals, later: Finals, removals: Iterable[Removal] = ()) -> None:
        self.exported = exported
        self.later = later
        self.removals = frozenset(removals)
        self.next: dict[None, _Merged] = {}


class RemovedSeries:
    """The final numbers of removed series, kept for one exporter of increments until they are exported.

    The total of a series, over all of its removals, is the sum of the numbers here and of its current
    aggregate. Gauges have no total. The memory is bounded: beyond `MAX_REMOVED_SERIES`, removed series that
    were never exported are counted under the tag values ``__other__``, and beyond twice as many
    under the name of an overflow.

    Args:
        prepare: Removes idle series.
        is_exported: Returns whether a series was exported, given its key and an aggregate.

    Attributes:
        unmerged: The latest removals and the final aggregates.
    """

    def __init__(
        self, prepare: Callable[[], None], is_exported: Callable[[SeriesIdentity, Any], bool]
    ) -> None:
        self.unmerged: dict[Removal, Any] = {}
        self._prepare = prepare
        self._is_exported = is_exported
        self._is_exporting = False
        self._last = _Merged({}, {})
        reset_after_fork(self, RemovedSeries._reset_in_child, ForkOrder.STATE)

    @contextmanager
    def exporting(self) -> Iterator[Finals]:
        """Return the numbers to export. They are kept for the next export if the block raises.

        One thread at a time. Read the current aggregates in the block: a series that is removed in the
        meantime is missing here, so its total falls, and is complete in the next export.
        """
        self._prepare()
        exported = self._follow(self._with_later)
        self._is_exporting = True  # a series may be sent already, and not be known as exported yet
        try:
            yield exported
            self._follow(lambda _exported, later: ({}, later))
        finally:
            self._is_exporting = False

    def merge_if_many(self) -> None:
        """Merge the removals of the same series if there are many."""
        if len(self.unmerged) >= MAX_UNMERGED_REMOVALS:
            self._follow(lambda exported, later: (exported, later))

    def _with_later(self, exported: Finals, later: Finals) -> tuple[Finals, Finals]:
        merged = dict(exported)
        for key, final in later.items():
            self._add(merged, {}, key, final)
        return merged, {}

    def _follow(self, change: Callable[[Finals, Finals], tuple[Finals, Finals]]) -> Finals:
        """Merge the latest removals, change the state, and return the numbers to export.

        Each state is computed aside and follows the last one in one step, so that no lock is needed in the
        middle of a record, and no thread and no handler that raises loses a removal or counts it twice.
        """
        while True:
            last = self._settle()
            removals = {
                removal: final
                for removal, final in self.unmerged.copy().items()
                if removal not in last.removals
            }
            later = dict(last.later)
            for removal, final in removals.items():
                tag_set, values = removal.series.tag_set, removal.series.values
                self._add(later, last.exported, (removal.named, tag_set.names, values), final)
            merged = _Merged(*change(last.exported, later), removals)
            if last.next.setdefault(None, merged) is merged:
                self._settle()
                return merged.exported

    def _settle(self) -> _Merged:
        last = self._last
        while last.next:
            last = last.next[None]
        for removal in last.removals:
            self.unmerged.pop(removal, None)
        self._last = last
        return last

    def _add(
        self, finals: dict[SeriesIdentity, Any], others: Finals, key: SeriesIdentity, final: Any
    ) -> None:
        """Add a final aggregate to those of its series, or to a shared one."""
        number = len(finals) + len(others)
        if (
            number >= MAX_REMOVED_SERIES
            and not self._is_exporting
            and key not in finals
            and key not in others
            and not self._is_exported(key, final)
        ):
            named, names, _ = key
            key = (named, names, (OTHER,) * len(names))
            if number >= 2 * MAX_REMOVED_SERIES and key not in finals and key not in others:
                kind = "operation" if named.metric_type is MetricType.RATE else named.metric_type.value
                key = (named._replace(name=f"{OTHER}{kind}"), (), ())
        before = finals.get(key)
        finals[key] = final if before is None else before.merge(final)

    def _reset_in_child(self) -> None:
        self.unmerged.clear()
        self._last = _Merged({}, {})
        self._is_exporting = False
