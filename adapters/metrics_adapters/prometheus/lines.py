"""The lines of a family: one class for each kind of number.

The part of the lines that never changes is made once, from the labels of the series: `fixed`. Each scrape
reads the series and puts their numbers into it. Labels and fixed texts are patterns for ``%``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from metrics_adapters.prometheus.families import FamilyHeader, bound_text, failures_of, in_base_unit
from metrics_adapters.prometheus.text import quotable
from metrics_framework.exposition.text import BASE_UNITS
from metrics_framework.recording import Distribution
from metrics_framework.recording.engine import read_values
from metrics_framework.values import MetricType, MetricUnit


class Lines(Protocol):
    """The lines of one family.

    Attributes:
        a_series: About how many lines a series has.
    """

    a_series: int

    def fixed(self, labels: Sequence[str]) -> Any:
        """Return the part of the lines of some series that never changes."""
        ...

    def text(self, fixed: Any, series: Sequence[Any]) -> str:
        """Return the lines of some series as they are now, without those that have no records.

        Args:
            fixed: The part of their lines that never changes.
            series: The series.
        """
        ...


class NumberLines:
    """Counters and gauges: one line for each series."""

    a_series = 1

    def __init__(self, name: str, heading: FamilyHeader) -> None:
        self._name = name
        self._scale = _Scale(heading.recorded_unit)

    def fixed(self, labels: Sequence[str]) -> str:
        """Return the part of the lines of some series that never changes."""
        return "".join([f"{self._name}{{{text}}} %s\n" if text else f"{self._name} %s\n" for text in labels])

    def text(self, fixed: str, series: Sequence[Any]) -> str:
        """Return the lines of some series as they are now, without those that have no records."""
        values = read_values(series)
        if not all(values):  # a series without records reads as 0, too
            present = [place for place, value in enumerate(values) if value or _has_records(series[place])]
            if len(present) < len(values):
                lines = fixed.split("\n")
                fixed = "".join([f"{lines[place]}\n" for place in present])
                values = tuple([values[place] for place in present])
        return fixed % tuple(self._scale(values))


def _has_records(series: Any) -> bool:
    # The time of the first record may be 0 on a clock that a test moves.
    return series.created_ns != 0 or series.state() is not None


class HistogramLines:
    """Histograms and timers: the number of values up to each bound and, if it cannot fall, their sum."""

    a_series = 18

    def __init__(self, heading: FamilyHeader) -> None:
        self._heading = heading
        self._scale = _Scale(heading.recorded_unit)
        self._layouts: dict[tuple[float, ...], _Layout] = {}

    def fixed(self, labels: Sequence[str]) -> Sequence[str]:
        """Return the labels: eighteen lines for each of them would take too much memory."""
        return labels

    def text(self, fixed: Sequence[str], series: Sequence[Any]) -> str:
        """Return the lines of some series as they are now, without those that have no records."""
        counted = [
            (labels, found)
            for labels, one in zip(fixed, series, strict=True)
            if (found := _Counted.of(one)) is not None
        ]
        totals = self._scale([found.total for _, found in counted])
        patterns: list[str] = []
        values: list[Any] = []
        for (labels, (distribution, bounds, counts, _)), total in zip(counted, totals, strict=True):
            layout = self._layouts.get(bounds) or self._layout(bounds)
            cumulated = [*accumulate(counts)]
            values += cumulated if layout.pick is None else layout.pick(cumulated)
            # A sum that may fall would be taken for a counter that was reset, and without it there is no
            # count either (OpenMetrics 1.0, "Histogram").
            if distribution.min >= 0 and not layout.is_signed:
                values += (cumulated[-1], total)
                pattern = layout.whole if labels else layout.whole_unlabelled
            else:
                pattern = layout.buckets if labels else layout.buckets_unlabelled
            patterns.append(pattern.replace("\0", labels))
        return "".join(patterns) % tuple(values)

    def _layout(self, bounds: tuple[float, ...]) -> _Layout:
        # Two bounds that are one in the base unit are one bucket, up to the higher one.
        places = {
            bound_text(bound, self._heading.recorded_unit): place
            for place, bound in enumerate((*bounds, math.inf))
        }
        name = self._heading.name
        buckets = "".join(f'{name}_bucket{{\0,le="{bound}"}} %s\n' for bound in places)
        rest = f"{name}_count{{\0}} %s\n{name}_sum{{\0}} %s\n"
        pick = itemgetter(*places.values()) if len(places) <= len(bounds) else None
        layout = _Layout(
            whole=buckets + rest,
            whole_unlabelled=(buckets + rest).replace("{\0}", "").replace("\0,", ""),
            buckets=buckets,
            buckets_unlabelled=buckets.replace("\0,", ""),
            pick=(lambda counts: (pick(counts),)) if pick and len(places) == 1 else pick,
            is_signed=bool(bounds) and bounds[0] < 0,
        )
        if len(self._layouts) > 10:  # bounds were changed again and again
            self._layouts.clear()
        self._layouts[bounds] = layout
        return layout


class _Counted(NamedTuple):
    """One histogram or timer at one moment.

    Attributes:
        distribution: All of its values.
        bounds: The upper bounds that values are counted by.
        counts: The number of values in each bucket, one more than there are bounds.
        total: The sum of the counted values.
    """

    distribution: Distribution
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: int | float

    @classmethod
    def of(cls, series: Any) -> _Counted | None:
        """Read a series; ``None`` if it has no records."""
        slot = series.slot
        while True:
            bounds = slot.bounds
            read = series.counted()
            if slot.bounds == bounds:  # else they changed in between
                break
        if read is None:
            return None
        distribution, counts, total = read
        return cls(distribution, bounds, (distribution.count,) if counts is None else counts, total)


class _Layout(NamedTuple):
    """The lines of one histogram; NUL stands for its labels."""

    whole: str
    whole_unlabelled: str
    buckets: str
    buckets_unlabelled: str
    pick: Callable[[list[int]], Sequence[int]] | None
    is_signed: bool


class OutcomeLines:
    """How operations ended: a line for successes, and one for each error type."""

    a_series = 3

    def __init__(self, heading: FamilyHeader) -> None:
        self._name = f"{heading.name}_total"

    def fixed(self, labels: Sequence[str]) -> Sequence[str]:
        """Return the part of the lines of some series that never changes."""
        return [f"{self._name}{{{text}," if text else f"{self._name}{{" for text in labels]

    def text(self, fixed: Sequence[str], series: Sequence[Any]) -> str:
        """Return the lines of some series as they are now, without those that have no records."""
        values: list[int] = []
        patterns: list[str] = []
        for begin, one in zip(fixed, series, strict=True):
            outcomes = one.state()
            if outcomes is None:
                continue
            patterns.append(f'{begin}outcome="success",error_type=""}} %s\n')
            values.append(outcomes.successes)
            for error_type, number in failures_of(outcomes.failures).items():
                text = quotable(error_type).replace("%", "%%")
                patterns.append(f'{begin}outcome="failure",error_type="{text}"}} %s\n')
                values.append(number)
        return "".join(patterns) % tuple(values)


def lines_of(metric_type: MetricType, heading: FamilyHeader) -> Lines:
    """Return the writer of the lines of a family.

    Args:
        metric_type: What kind of number it is.
        heading: What all samples of the family have in common.
    """
    if metric_type is MetricType.COUNTER:
        return NumberLines(f"{heading.name}_total", heading)
    if metric_type is MetricType.GAUGE:
        return NumberLines(heading.name, heading)
    if metric_type is MetricType.RATE:
        return OutcomeLines(heading)
    return HistogramLines(heading)


class _Scale:
    """Converts numbers of a unit to its base unit; numbers beyond the largest float become text."""

    def __init__(self, unit: MetricUnit) -> None:
        self._unit = unit
        self._per_unit = BASE_UNITS.get(unit, ("", 1.0))[1]

    def __call__(self, values: Sequence[float]) -> Iterable[float | str]:
        try:
            scaled = values if self._per_unit == 1 else [value / self._per_unit for value in values]
            if math.isfinite(sum(scaled)):  # nearly always, and then each of them is
                return scaled
        except OverflowError:
            pass
        return [_number(in_base_unit(value, self._unit)) for value in values]


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "+Inf" if value > 0 else "-Inf"
