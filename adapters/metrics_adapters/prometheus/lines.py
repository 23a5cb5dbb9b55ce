"""What is published of series, as the lines of a family: one class for each kind of number.

What never changes of the lines of some series is made once, of their labels: `fixed`. Each scrape puts the
numbers into it. Labels and fixed texts are patterns for ``%``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from metrics_adapters.prometheus.families import Heading, bound_text, failures_of, in_base_unit
from metrics_adapters.prometheus.text import quotable
from metrics_framework.exposition import BASE_UNITS
from metrics_framework.recording import sums
from metrics_framework.recording.bounds import BucketCounts
from metrics_framework.recording.distribution import Distribution
from metrics_framework.recording.ledger import parts
from metrics_framework.recording.traces import CounterTrace, GaugeTrace, OutcomeTrace
from metrics_framework.values import MetricType, MetricUnit

_last = itemgetter(GaugeTrace._fields.index("last"))


class Lines(Protocol):
    """The lines of one family.

    Attributes:
        a_series: About how many lines a series has.
    """

    a_series: int

    def fixed(self, labels: Sequence[str]) -> Any:
        """Return what never changes of the lines of some series."""
        ...

    def pick(self, fixed: Any, places: Iterable[int]) -> Any:
        """Return what never changes of the lines of some of them."""
        ...

    def text(self, fixed: Any, states: Sequence[Any]) -> str:
        """Return the lines of some series.

        Args:
            fixed: What never changes of them.
            states: What is published of each.
        """
        ...


class NumberLines:
    """Counters and gauges: a line a series."""

    a_series = 1

    def __init__(
        self, name: str, heading: Heading, values: Callable[[Sequence[Any]], Sequence[float]]
    ) -> None:
        self._name = name
        self._values = values
        self._scale = _Scale(heading.recorded_unit)

    def fixed(self, labels: Sequence[str]) -> str:
        """Return what never changes of the lines of some series."""
        return "".join([f"{self._name}{{{text}}} %s\n" if text else f"{self._name} %s\n" for text in labels])

    def pick(self, fixed: str, places: Iterable[int]) -> str:
        """Return what never changes of the lines of some of them."""
        lines = fixed.split("\n")
        return "".join([f"{lines[place]}\n" for place in places])

    def text(self, fixed: str, states: Sequence[Any]) -> str:
        """Return the lines of some series."""
        return fixed % tuple(self._scale(self._values(states)))


class HistogramLines:
    """Histograms and timers: the numbers of values up to each bound, and where it cannot fall their sum.

    Args:
        heading: What the family is.
        bounds: Returns the bounds of a series that recorded nothing since they were changed.
    """

    a_series = 18

    def __init__(self, heading: Heading, bounds: Callable[[], tuple[float, ...]]) -> None:
        self._heading = heading
        self._scale = _Scale(heading.recorded_unit)
        self._bounds = bounds
        self._layouts: dict[tuple[float, ...], _Layout] = {}

    def fixed(self, labels: Sequence[str]) -> Sequence[str]:
        """Return the labels: eighteen lines of them are more than is worth keeping."""
        return labels

    def pick(self, fixed: Sequence[str], places: Iterable[int]) -> Sequence[str]:
        """Return what never changes of the lines of some of them."""
        return [fixed[place] for place in places]

    def text(self, fixed: Sequence[str], states: Sequence[Any]) -> str:
        """Return the lines of some series."""
        counted = [self._counted(state) for state in states]
        totals = self._scale([sums.value_of(buckets.total) for _, buckets in counted])
        patterns: list[str] = []
        values: list[Any] = []
        for labels, (trace, (bounds, counts, _)), total in zip(fixed, counted, totals, strict=True):
            layout = self._layouts.get(bounds) or self._layout(bounds)
            cumulated = [*accumulate(counts)]
            values += cumulated if layout.pick is None else layout.pick(cumulated)
            # A sum that may fall would be taken for a counter that was reset, and without it there is no
            # count either (OpenMetrics 1.0, "Histogram").
            if trace.min >= 0 and not layout.is_signed:
                values += (cumulated[-1], total)
                pattern = layout.whole if labels else layout.whole_unlabelled
            else:
                pattern = layout.buckets if labels else layout.buckets_unlabelled
            patterns.append(pattern.replace("\0", labels))
        return "".join(patterns) % tuple(values)

    def _counted(self, state: Any) -> tuple[Distribution, BucketCounts]:
        trace, buckets = parts(state)
        if buckets is None:
            bounds = self._bounds()
            buckets = (
                BucketCounts.between(bounds) if bounds else BucketCounts((), (trace.count,), (trace.sum, 0.0))
            )
        return trace, buckets

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

    def __init__(self, heading: Heading) -> None:
        self._name = f"{heading.name}_total"

    def fixed(self, labels: Sequence[str]) -> Sequence[str]:
        """Return what never changes of the lines of some series."""
        return [f"{self._name}{{{text}," if text else f"{self._name}{{" for text in labels]

    def pick(self, fixed: Sequence[str], places: Iterable[int]) -> Sequence[str]:
        """Return what never changes of the lines of some of them."""
        return [fixed[place] for place in places]

    def text(self, fixed: Sequence[str], states: Sequence[OutcomeTrace]) -> str:
        """Return the lines of some series."""
        values: list[int] = []
        patterns: list[str] = []
        for begin, trace in zip(fixed, states, strict=True):
            patterns.append(f'{begin}outcome="success",error_type=""}} %s\n')
            values.append(trace.successes)
            for error_type, number in failures_of(trace.failures).items():
                text = quotable(error_type).replace("%", "%%")
                patterns.append(f'{begin}outcome="failure",error_type="{text}"}} %s\n')
                values.append(number)
        return "".join(patterns) % tuple(values)


def lines_of(metric_type: MetricType, heading: Heading, bounds: Callable[[], tuple[float, ...]]) -> Lines:
    """Return what writes the lines of a family.

    Args:
        metric_type: What kind of number it is.
        heading: What the family is.
        bounds: Returns the bounds that values are counted by now.
    """
    if metric_type is MetricType.COUNTER:
        return NumberLines(f"{heading.name}_total", heading, _totals)
    if metric_type is MetricType.GAUGE:
        return NumberLines(heading.name, heading, _lasts)
    if metric_type is MetricType.RATE:
        return OutcomeLines(heading)
    return HistogramLines(heading, bounds)


def _totals(states: Sequence[CounterTrace]) -> Sequence[float]:
    _, totals, compensations = zip(*states, strict=True)
    return [trace.value for trace in states] if any(compensations) else totals


def _lasts(states: Sequence[GaugeTrace]) -> Sequence[float]:
    return tuple(map(_last, states))


class _Scale:
    """Returns numbers of a unit in its base unit; those that no float holds as text."""

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
