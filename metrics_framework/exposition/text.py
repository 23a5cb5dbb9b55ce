"""Prometheus text: the formats 0.0.4 and OpenMetrics 1.0, and the writers of their lines.

A family is written by one `LineWriter` for each kind of number. The unchanging part of its lines is prepared
once, from the labels of the series; each scrape reads the series and fills in their numbers. Labels and
prepared lines are patterns for ``%``: a percent sign in them is doubled.

`family_text` writes a `Family` from anywhere. Both write the same text for the same numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache, lru_cache
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple, Protocol

from metrics_framework.exposition.families import (
    NOTHING_TAKEN,
    ExpositionLog,
    Family,
    FamilyHeader,
    TagLabels,
    bucket_places,
    can_be_sent,
    failure_counts,
    has_records,
    has_sum,
    value_families,
)
from metrics_framework.exposition.names import BASE_UNITS, Escaping, in_base_unit
from metrics_framework.recording.engine import read_values
from metrics_framework.recording.metric import read_counts
from metrics_framework.values import MetricType, MetricUnit, MetricValue


class Format(Enum):
    """The Prometheus text formats, by content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @property
    def content_type(self) -> str:
        """The value of the ``Content-Type`` header."""
        return self.value

    @property
    def end(self) -> bytes:
        """The last line of the text, if the format has one."""
        return b"# EOF\n" if self is Format.OPENMETRICS else b""

    def header_lines(self, name: str, type_: str, help: str, unit: str) -> str:
        """Return the lines before the samples of a family.

        Args:
            name: The name as in OpenMetrics: that of a counter does not end in ``_total``.
            type_: ``counter``, ``gauge`` or ``histogram``.
            help: The help text.
            unit: The base unit, or an empty text.
        """
        if self is Format.TEXT:
            name = quote_name(f"{name}_total" if type_ == "counter" else name)
            return f"# HELP {name} {_escape(help)}\n# TYPE {name} {type_}\n"
        has_unit = unit and name.endswith(f"_{unit}")  # an escaped counter has an underscore more
        name = quote_name(name)
        unit_line = f"# UNIT {name} {unit}\n" if has_unit else ""
        return f"# TYPE {name} {type_}\n{unit_line}# HELP {name} {escape_quoted(help)}\n"


def quote_name(name: str) -> str:
    """Return the name of a metric or label as it is written: in quotation marks unless it is classic."""
    return name if name.isascii() else f'"{name}"'


def line_starts(name: str) -> tuple[str, str]:
    """Return the beginning of a line with labels, up to their names, and of a line without labels.

    Example:
        >>> line_starts("requests_total"), line_starts("请求_total")
        (('requests_total{', 'requests_total'), ('{"请求_total",', '{"请求_total"}'))
    """
    return (f"{name}{{", name) if name.isascii() else (f'{{"{name}",', f'{{"{name}"}}')


def label_pairs(labels: Iterable[tuple[str, str]]) -> str:
    r"""Return labels as the text between the braces of a sample.

    Example:
        >>> label_pairs([("route", "/"), ("quoted", 'a "b"')])
        'route="/",quoted="a \\"b\\""'
    """
    return ",".join([f'{quote_name(name)}="{escape_quoted(text)}"' for name, text in labels])


_ESCAPED = re.compile(r'[\\\n"]')


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def escape_quoted(text: str) -> str:
    """Escape a text that is written between quotation marks."""
    return _escape(text).replace('"', r"\"") if _ESCAPED.search(text) else text


# -- labels of many series at once -------------------------------------------------------------------------


_ESCAPED_IN_PATTERN = re.compile(r'[\\"%]')


class LabelPattern(TagLabels):
    """Formats the labels of many series with the same tag names at once; see `TagLabels`."""

    def __init__(
        self,
        names: Sequence[str],
        constants: Mapping[str, str],
        own_labels: Container[str],
        escaping: Escaping = Escaping.VALUES,
    ) -> None:
        super().__init__(names, constants, own_labels, escaping)
        self._constant = pattern_of(self._pattern)
        line = self._constant.replace("%", "%%")
        for slot in self._slots:
            line = line.replace(slot, "%s")
        self._line = f"{line}\n"

    def texts(self, tag_values: Sequence[Sequence[str]]) -> list[str] | None:
        """Return the labels of each series; ``None`` if a tag value is empty or cannot be sent.

        Args:
            tag_values: The tag values of each series, in the order of the tag names.
        """
        if not self._slots:
            return [self._constant] * len(tag_values)
        values = list(chain.from_iterable(tag_values))
        if not can_be_sent(values):
            return None
        together = "\n".join(values)
        if _ESCAPED_IN_PATTERN.search(together) or together.count("\n") >= len(values):
            values = [escape_quoted(value).replace("%", "%%") for value in values]
        return (self._line * len(tag_values) % tuple(values)).split("\n")[:-1]


def pattern_of(labels: Mapping[str, str]) -> str:
    """Return labels as a pattern for ``%`` that takes no values."""
    return label_pairs(labels.items()).replace("%", "%%")


# -- lines of a family -------------------------------------------------------------------------------------


class LineWriter(Protocol):
    """Writes the lines of one family.

    Attributes:
        lines_per_series: The approximate number of lines of a series.
    """

    lines_per_series: ClassVar[int]

    @property
    def formats_differ(self) -> bool:
        """Whether some of its text may depend on the format."""
        ...

    def prepare(self, labels: Sequence[str]) -> Any:
        """Return the unchanging part of the lines of some series."""
        ...

    def render(self, prepared: Any, series: Sequence[Any], format: Format) -> str:
        """Return the lines of some series with their current numbers, without series that have no records.

        Args:
            prepared: The result of `prepare` for their labels.
            series: The series.
            format: The format of the text.
        """
        ...


class NumberWriter:
    """Writes counters and gauges: one line for each series."""

    __slots__ = ("_labelled", "_scale", "_unlabelled")

    lines_per_series: ClassVar[int] = 1
    formats_differ = False

    def __init__(self, name: str, header: FamilyHeader) -> None:
        self._labelled, self._unlabelled = line_starts(name)
        self._scale = _unit_scale(header.recorded_unit)

    def prepare(self, labels: Sequence[str]) -> str:
        """Return the unchanging part of the lines of some series."""
        labelled, unlabelled = self._labelled, f"{self._unlabelled} %s\n"
        return "".join([f"{labelled}{text}}} %s\n" if text else unlabelled for text in labels])

    def render(self, prepared: str, series: Sequence[Any], format: Format) -> str:
        """Return the lines of some series with their current numbers; see `LineWriter.render`."""
        values = read_values(series)
        if not all(values):  # a series without records also reads as 0
            present = [place for place, value in enumerate(values) if value or has_records(series[place])]
            if len(present) < len(values):
                lines = prepared.split("\n")
                prepared = "".join([f"{lines[place]}\n" for place in present])
                values = tuple([values[place] for place in present])
        return prepared % tuple(self._scale(values))


class HistogramWriter:
    """Writes histograms and timers: the count of each bucket and of all, and the sum unless it can fall.

    OpenMetrics 1.0 allows no count without a sum. There, the bucket ``+Inf`` has the count.
    """

    __slots__ = ("_layout", "_name", "_named", "_scale", "_unit", "formats_differ")

    lines_per_series: ClassVar[int] = 20

    def __init__(self, header: FamilyHeader) -> None:
        self.formats_differ = False  # until there is a sum that can fall
        self._name = header.name
        self._unit = header.recorded_unit
        self._scale = _unit_scale(header.recorded_unit)
        # Those of the last series, which most others share.
        self._layout: tuple[tuple[float, ...], _Layout] = (), _layout((), self._unit, False)
        self._named = "", ""

    def prepare(self, labels: Sequence[str]) -> Sequence[str]:
        """Return the labels. All lines of each series would take too much memory."""
        return labels

    def render(self, prepared: Sequence[str], series: Sequence[Any], format: Format) -> str:
        """Return the lines of some series with their current numbers; see `LineWriter.render`."""
        texts: list[str] = []
        known, layout = self._layout
        pattern, named = self._named
        for labels, one in zip(prepared, series, strict=True):
            state: Any = read_counts(one)
            if state is None:
                continue
            distribution, (bounds, counts, total) = state
            if known is not bounds or layout.has_labels != bool(labels):
                known, layout = self._layout = bounds, _layout(bounds, self._unit, bool(labels))
            cumulated = [*accumulate(counts)]
            values = cumulated if layout.pick is None else layout.pick(cumulated)
            if has_sum(bounds, distribution.min):
                lines, numbers = layout.with_sum, (*values, cumulated[-1], self._scale.one(total))
            else:
                self.formats_differ = True
                if format is Format.TEXT:
                    lines, numbers = layout.with_count, (*values, cumulated[-1])
                else:
                    lines, numbers = layout.buckets, tuple(values)
            if pattern is not lines:
                pattern, named = self._named = lines, self._with_name(lines)
            texts.append((named.replace("\0", labels) if labels else named) % numbers)
        return "".join(texts)

    def _with_name(self, pattern: str) -> str:
        name = self._name
        if name.isascii():
            return pattern.replace("\1", name)
        return _NAME_IN_PATTERN.sub(lambda found: line_starts(f"{name}{found[1]}")[not found[2]], pattern)


_NAME_IN_PATTERN = re.compile("\1([a-z_]+)(\\{?)")


class _Layout(NamedTuple):
    """The patterns of the lines of a histogram. NUL is the placeholder of the labels, and SOH of the name.

    Attributes:
        buckets: The lines of the buckets.
        with_count: The same and the line of the count.
        with_sum: The same and the line of the sum.
        has_labels: Whether there is a place for labels.
        pick: Selects the counts of the buckets, if some bounds are equal in the base unit.
    """

    buckets: str
    with_count: str
    with_sum: str
    has_labels: bool
    pick: Callable[[list[int]], Sequence[int]] | None


@lru_cache(maxsize=1_000)
def _layout(bounds: tuple[float, ...], unit: MetricUnit, has_labels: bool) -> _Layout:
    places = bucket_places(bounds, unit)
    labels, others = ("{\0}", "\0,") if has_labels else ("", "")
    buckets = "".join([f'\1_bucket{{{others}le="{bound}"}} %s\n' for bound in places])
    with_count = f"{buckets}\1_count{labels} %s\n"
    pick: Callable[[list[int]], Sequence[int]] | None = None
    if len(places) <= len(bounds):
        chosen = [*places.values()]
        pick = itemgetter(*chosen) if len(chosen) > 1 else lambda counts: (counts[chosen[0]],)
    return _Layout(buckets, with_count, f"{with_count}\1_sum{labels} %s\n", has_labels, pick)


class OutcomeWriter:
    """Writes the outcomes of operations: a line for successes, and one for each error type."""

    __slots__ = ("_start",)

    lines_per_series: ClassVar[int] = 3
    formats_differ = False

    def __init__(self, header: FamilyHeader) -> None:
        self._start, _ = line_starts(f"{header.name}_total")

    def prepare(self, labels: Sequence[str]) -> Sequence[str]:
        """Return the beginning of all lines of each series."""
        return [f"{self._start}{text}," if text else self._start for text in labels]

    def render(self, prepared: Sequence[str], series: Sequence[Any], format: Format) -> str:
        """Return the lines of some series with their current numbers; see `LineWriter.render`."""
        values: list[int] = []
        patterns: list[str] = []
        for start, one in zip(prepared, series, strict=True):
            outcomes = one.state()
            if outcomes is None:
                continue
            patterns.append(
                f'{start}outcome="success",error_type=""}} %s\n{start}outcome="failure",error_type=""}} %s\n'
            )
            failures = outcomes.failures
            if not failures:
                values += (outcomes.successes, 0)
                continue
            counts = failure_counts(failures)
            values += (outcomes.successes, counts.pop(""))
            for error_type, number in counts.items():
                text = escape_quoted(error_type).replace("%", "%%")
                patterns.append(f'{start}outcome="failure",error_type="{text}"}} %s\n')
                values.append(number)
        return "".join(patterns) % tuple(values)


def line_writer(metric_type: MetricType, header: FamilyHeader) -> LineWriter:
    """Return the writer of the lines of a family.

    Args:
        metric_type: The type of the metric.
        header: The header of the family.
    """
    if metric_type is MetricType.COUNTER:
        return NumberWriter(f"{header.name}_total", header)
    if metric_type is MetricType.GAUGE:
        return NumberWriter(header.name, header)
    if metric_type is MetricType.RATE:
        return OutcomeWriter(header)
    return HistogramWriter(header)


class _UnitScale:
    """Converts numbers of a unit to its base unit. Numbers beyond the largest float become text."""

    def __init__(self, unit: MetricUnit) -> None:
        self._unit = unit
        self._per_unit = BASE_UNITS.get(unit, ("", 1.0))[1]

    def one(self, value: float) -> float | str:
        """Convert one number."""
        try:
            scaled = value if self._per_unit == 1 else value / self._per_unit
            if math.isfinite(scaled):
                return scaled
        except OverflowError:
            pass
        return _float_text(in_base_unit(value, self._unit))

    def __call__(self, values: Sequence[float]) -> Iterable[float | str]:
        try:
            scaled = values if self._per_unit == 1 else [value / self._per_unit for value in values]
            if math.isfinite(sum(scaled)):  # the usual case; then each number is finite
                return scaled
        except OverflowError:
            pass
        return [_float_text(in_base_unit(value, self._unit)) for value in values]


@cache
def _unit_scale(unit: MetricUnit) -> _UnitScale:
    return _UnitScale(unit)


def _float_text(value: float) -> float | str:
    return value if math.isfinite(value) else "+Inf" if value > 0 else "-Inf"


# -- text of families --------------------------------------------------------------------------------------


def family_text(family: Family, format: Format) -> str:
    """Return the lines of a family."""
    header, samples = family
    lines = [format.header_lines(*header[:4])]
    names = [sample.name for sample in samples]
    for sample, following in zip(samples, [*names[1:], ""], strict=True):
        is_count = header.type == "histogram" and sample.name == f"{header.name}_count"
        if is_count and format is Format.OPENMETRICS and following != f"{header.name}_sum":
            continue  # OpenMetrics 1.0 allows no count without a sum
        pairs = label_pairs(sample.labels.items())
        labels = f"{{{pairs}}}" if pairs else ""
        lines.append(f"{sample.name}{labels} {_number_text(sample.value)}\n")
    return "".join(lines)


_VALUES_LOG = ExpositionLog()


def to_prometheus(
    values: Iterable[MetricValue],
    log: ExpositionLog | None = None,
    taken: Mapping[str, str] = NOTHING_TAKEN,
) -> str:
    """Return the values of any aggregator in text format 0.0.4; see `value_families`."""
    families = value_families(values, log or _VALUES_LOG, taken)
    return "".join(family_text(family, Format.TEXT) for family in families)


def _number_text(number: float) -> str:
    if isinstance(number, int):
        return int.__repr__(number)
    return "NaN" if math.isnan(number) else str(_float_text(float(number)))
