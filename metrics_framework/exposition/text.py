"""Prometheus text: the formats 0.0.4 and OpenMetrics 1.0, and the writers of their lines.

A family is written by one `LineWriter` for each kind of number. The unchanging part of its lines is prepared
once, from the labels of the series; each scrape reads the series and fills in their numbers. Labels and
prepared lines are patterns for ``%``: a percent sign in them is doubled.

`to_prometheus` writes the values that any `MetricsAggregator` returns, in text format 0.0.4. A histogram or
timer is exposed by the buckets of its description; without any it is a summary with this library's quantiles.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, chain
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

from metrics_framework.exposition.families import UNREADABLE, FamilyHeader, bound_text, failure_counts
from metrics_framework.exposition.names import BASE_UNITS, in_base_unit, metric_name, tag_labels
from metrics_framework.recording import Distribution
from metrics_framework.recording.engine import read_values
from metrics_framework.values import MetricType, MetricUnit, MetricValue

QUANTILES = {"p50": "0.5", "p90": "0.9", "p95": "0.95", "p99": "0.99"}
"""Key of a summary to the ``quantile`` label of a Prometheus summary."""


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
            help: The help text, which may be empty.
            unit: The base unit at the end of the name, or an empty text.
        """
        if self is Format.TEXT:
            name = f"{name}_total" if type_ == "counter" else name
            lines = [f"# HELP {name} {_escape(help)}" if help else "", f"# TYPE {name} {type_}"]
        else:
            lines = [
                f"# TYPE {name} {type_}",
                f"# UNIT {name} {unit}" if unit else "",
                f"# HELP {name} {escape_quoted(help)}" if help else "",
            ]
        return "".join(f"{line}\n" for line in lines if line)


def label_pairs(labels: Iterable[tuple[str, str]]) -> str:
    r"""Return labels as the text between the braces of a sample.

    Example:
        >>> label_pairs([("route", "/"), ("quoted", 'a "b"')])
        'route="/",quoted="a \\"b\\""'
    """
    return ",".join([f'{name}="{escape_quoted(text)}"' for name, text in labels])


_ESCAPED = re.compile(r'[\\\n"]')


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def escape_quoted(text: str) -> str:
    """Escape a text that is written between quotation marks."""
    return _escape(text).replace('"', r"\"") if _ESCAPED.search(text) else text


# -- labels of many series at once -------------------------------------------------------------------------


_ESCAPED_IN_PATTERN = re.compile(r'[\\"%]')


class LabelPattern:
    """Formats the labels of many series with the same tag names at once.

    Args:
        names: The tag names.
        constants: The constant tags of the store.
        own_labels: The labels of the format itself, such as ``le``.

    Attributes:
        labels: The names of the labels.
        is_simple: Whether each tag has its own label, so that different tags always mean different labels.
    """

    def __init__(
        self, names: Sequence[str], constants: Mapping[str, str], own_labels: Container[str]
    ) -> None:
        slots = {name: f"\0{place}\0" for place, name in enumerate(names)}
        labels = tag_labels({**constants, **slots}, own_labels)
        self.labels = frozenset(labels)
        # A constant tag that is also a tag of the series keeps its place, which may change the order.
        in_order = [text for text in labels.values() if text.startswith("\0")] == list(slots.values())
        texts = all(text and not UNREADABLE.search(text) for text in constants.values())
        self.is_simple = len(labels) == len({*constants, *names}) and in_order and texts
        self._constant = pattern_of(labels)
        line = self._constant.replace("%", "%%")
        for slot in slots.values():
            line = line.replace(slot, "%s")
        self._line = f"{line}\n"
        self._names = len(names)

    def texts(self, tag_values: Sequence[Sequence[str]]) -> list[str] | None:
        """Return the labels of each series; ``None`` if a tag value is empty or cannot be sent.

        Args:
            tag_values: The tag values of each series, in the order of the tag names.
        """
        if not self._names:
            return [self._constant] * len(tag_values)
        values = list(chain.from_iterable(tag_values))
        together = "\n".join(values)
        if UNREADABLE.search(together) or "\n\n" in f"\n{together}\n":
            return None
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

    lines_per_series: int

    def prepare(self, labels: Sequence[str]) -> Any:
        """Return the unchanging part of the lines of some series."""
        ...

    def render(self, prepared: Any, series: Sequence[Any]) -> str:
        """Return the lines of some series with their current numbers, without series that have no records.

        Args:
            prepared: The result of `prepare` for their labels.
            series: The series.
        """
        ...


class NumberWriter:
    """Writes counters and gauges: one line for each series."""

    lines_per_series = 1

    def __init__(self, name: str, header: FamilyHeader) -> None:
        self._name = name
        self._scale = _UnitScale(header.recorded_unit)

    def prepare(self, labels: Sequence[str]) -> str:
        """Return the unchanging part of the lines of some series."""
        return "".join([f"{self._name}{{{text}}} %s\n" if text else f"{self._name} %s\n" for text in labels])

    def render(self, prepared: str, series: Sequence[Any]) -> str:
        """Return the lines of some series with their current numbers; see `LineWriter.render`."""
        values = read_values(series)
        if not all(values):  # a series without records also reads as 0
            present = [place for place, value in enumerate(values) if value or _has_records(series[place])]
            if len(present) < len(values):
                lines = prepared.split("\n")
                prepared = "".join([f"{lines[place]}\n" for place in present])
                values = tuple([values[place] for place in present])
        return prepared % tuple(self._scale(values))


def _has_records(series: Any) -> bool:
    # On the manual clock of a test, the time of the first record may be 0.
    return series.created_ns != 0 or series.state() is not None


class HistogramWriter:
    """Writes histograms and timers: the count of each bucket and, unless it can fall, the sum."""

    lines_per_series = 18

    def __init__(self, header: FamilyHeader) -> None:
        self._header = header
        self._scale = _UnitScale(header.recorded_unit)
        self._layouts: dict[tuple[float, ...], _Layout] = {}

    def prepare(self, labels: Sequence[str]) -> Sequence[str]:
        """Return the labels. All 18 lines of each series would take too much memory."""
        return labels

    def render(self, prepared: Sequence[str], series: Sequence[Any]) -> str:
        """Return the lines of some series with their current numbers; see `LineWriter.render`."""
        counted = [
            (labels, found)
            for labels, one in zip(prepared, series, strict=True)
            if (found := _HistogramState.read(one)) is not None
        ]
        totals = self._scale([found.total for _, found in counted])
        patterns: list[str] = []
        values: list[Any] = []
        for (labels, (distribution, bounds, counts, _)), total in zip(counted, totals, strict=True):
            layout = self._layouts.get(bounds) or self._layout(bounds)
            cumulated = [*accumulate(counts)]
            values += cumulated if layout.pick is None else layout.pick(cumulated)
            # A sum that can fall would look like a counter reset, and without it there is no count either
            # (OpenMetrics 1.0, "Histogram").
            if distribution.min >= 0 and not layout.is_signed:
                values += (cumulated[-1], total)
                pattern = layout.with_sum if labels else layout.with_sum_unlabelled
            else:
                pattern = layout.buckets if labels else layout.buckets_unlabelled
            patterns.append(pattern.replace("\0", labels))
        return "".join(patterns) % tuple(values)

    def _layout(self, bounds: tuple[float, ...]) -> _Layout:
        # Two bounds that are equal in the base unit become one bucket, up to the higher bound.
        places = {
            bound_text(bound, self._header.recorded_unit): place
            for place, bound in enumerate((*bounds, math.inf))
        }
        name = self._header.name
        buckets = "".join(f'{name}_bucket{{\0,le="{bound}"}} %s\n' for bound in places)
        rest = f"{name}_count{{\0}} %s\n{name}_sum{{\0}} %s\n"
        pick = itemgetter(*places.values()) if len(places) <= len(bounds) else None
        layout = _Layout(
            with_sum=buckets + rest,
            with_sum_unlabelled=(buckets + rest).replace("{\0}", "").replace("\0,", ""),
            buckets=buckets,
            buckets_unlabelled=buckets.replace("\0,", ""),
            pick=(lambda counts: (pick(counts),)) if pick and len(places) == 1 else pick,
            is_signed=bool(bounds) and bounds[0] < 0,
        )
        if len(self._layouts) > 10:  # the bounds change often
            self._layouts.clear()
        self._layouts[bounds] = layout
        return layout


class _HistogramState(NamedTuple):
    """The state of a histogram or timer, from one reading.

    Attributes:
        distribution: All values.
        bounds: The upper bounds of the buckets.
        counts: The number of values in each bucket, with one bucket more than bounds.
        total: The sum of the counted values.
    """

    distribution: Distribution
    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: int | float

    @classmethod
    def read(cls, series: Any) -> _HistogramState | None:
        """Read a series; ``None`` if it has no records."""
        slot = series.slot
        while True:
            bounds = slot.bounds
            read = series.counted()
            if slot.bounds == bounds:  # otherwise another thread changed them in between
                break
        if read is None:
            return None
        distribution, counts, total = read
        return cls(distribution, bounds, (distribution.count,) if counts is None else counts, total)


class _Layout(NamedTuple):
    """The pattern of the lines of a histogram. NUL is the placeholder of the labels."""

    with_sum: str
    with_sum_unlabelled: str
    buckets: str
    buckets_unlabelled: str
    pick: Callable[[list[int]], Sequence[int]] | None
    is_signed: bool


class OutcomeWriter:
    """Writes the outcomes of operations: a line for successes, and one for each error type."""

    lines_per_series = 3

    def __init__(self, header: FamilyHeader) -> None:
        self._name = f"{header.name}_total"

    def prepare(self, labels: Sequence[str]) -> Sequence[str]:
        """Return the unchanging part of the lines of some series."""
        return [f"{self._name}{{{text}," if text else f"{self._name}{{" for text in labels]

    def render(self, prepared: Sequence[str], series: Sequence[Any]) -> str:
        """Return the lines of some series with their current numbers; see `LineWriter.render`."""
        values: list[int] = []
        patterns: list[str] = []
        for begin, one in zip(prepared, series, strict=True):
            outcomes = one.state()
            if outcomes is None:
                continue
            patterns.append(f'{begin}outcome="success",error_type=""}} %s\n')
            values.append(outcomes.successes)
            for error_type, number in failure_counts(outcomes.failures).items():
                text = escape_quoted(error_type).replace("%", "%%")
                patterns.append(f'{begin}outcome="failure",error_type="{text}"}} %s\n')
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

    def __call__(self, values: Sequence[float]) -> Iterable[float | str]:
        try:
            scaled = values if self._per_unit == 1 else [value / self._per_unit for value in values]
            if math.isfinite(sum(scaled)):  # the usual case; then each number is finite
                return scaled
        except OverflowError:
            pass
        return [_float_text(in_base_unit(value, self._unit)) for value in values]


def _float_text(value: float) -> float | str:
    return value if math.isfinite(value) else "+Inf" if value > 0 else "-Inf"


# -- values of any aggregator ------------------------------------------------------------------------------


_VALUE_SUFFIXES = {
    "counter": (),
    "gauge": (),
    "summary": ("_sum", "_count"),
    "histogram": ("_bucket", "_sum", "_count"),
}
"""The suffixes of the samples of a family, by type, besides its plain name."""


@dataclass
class _ValueFamily:
    name: str
    type: str
    recorded: str
    help: str
    per_unit: float
    own_labels: frozenset[str] = frozenset()
    values: list[MetricValue] = field(default_factory=list)

    def scaled(self, number: int | float) -> int | float:
        return number if self.per_unit == 1 else number / self.per_unit


def to_prometheus(values: Iterable[MetricValue]) -> str:
    """Return values as Prometheus text format 0.0.4.

    If two names become the same, the first keeps it; the other is left out, with a comment that names both.
    Of two series whose tags become the same labels, the first is kept too. A label without a text counts as
    missing. Characters that UTF-8 cannot encode are written as Python escapes. Operations are exposed with
    the suffixes ``_duration_seconds`` and ``_operations_total``. A sum or count that the adapter does not
    know is left out.
    """
    families: dict[str, _ValueFamily] = {}
    taken: dict[str, _ValueFamily] = {}
    comments: dict[str, None] = {}
    for value in values:
        made = _value_family(value)
        if made is None:
            continue
        names = [f"{made.name}{suffix}" for suffix in ("", *_VALUE_SUFFIXES[made.type])]
        other = next((taken[name] for name in names if name in taken), None)
        if other is None:
            families[made.name] = other = made
            taken.update(dict.fromkeys(names, made))
        if (other.recorded, other.type) == (made.recorded, made.type):
            other.values.append(value)
        else:
            comments[f"{made.recorded} is left out: {other.recorded} already uses its exposed name"] = None
    lines = [line for family in families.values() for line in _value_lines(family, comments)]
    return "".join(f"{line}\n" for line in (*lines, *(f"# {_escape_value(comment)}" for comment in comments)))


def _value_family(value: MetricValue) -> _ValueFamily | None:
    operation = bool(value.metadata.get("operation", False))
    name, unit, kind = value.name, value.unit, value.metric_type
    if kind is MetricType.RATE:
        if not operation:
            return None  # Prometheus computes rates itself
        exposed, type_ = metric_name(f"{name}_operations", counter=True), "counter"
        labels = frozenset({"outcome", "error_type"})
        return _ValueFamily(exposed, type_, f"operation {name!r}", "How the operation ended.", 1.0, labels)
    help_text = str(value.metadata.get("help", ""))
    per_unit = BASE_UNITS.get(unit, ("", 1.0))[1]
    if kind is MetricType.COUNTER:
        return _ValueFamily(metric_name(name, unit, counter=True), "counter", repr(name), help_text, per_unit)
    if kind is MetricType.GAUGE:
        return _ValueFamily(metric_name(name, unit), "gauge", repr(name), help_text, per_unit)
    type_ = "histogram" if "buckets" in value.metadata else "summary"
    labels = frozenset({"le" if type_ == "histogram" else "quantile"})
    if operation:
        exposed = metric_name(f"{name}_duration", unit)
        help_text = "How long the operation took."
        return _ValueFamily(exposed, type_, f"operation {name!r}", help_text, per_unit, labels)
    return _ValueFamily(metric_name(name, unit), type_, repr(name), help_text, per_unit, labels)


def _value_lines(family: _ValueFamily, comments: dict[str, None]) -> Iterator[str]:
    if family.help:
        yield f"# HELP {family.name} {_escape_value(family.help)}"
    yield f"# TYPE {family.name} {family.type}"
    shown: set[str] = set()
    for value in family.values:
        tags = tag_labels(value.tags, family.own_labels)
        # A label without a text does not exist for a server.
        series = _label_block((name, text) for name, text in tags.items() if text)
        if series in shown:
            comments[f"{value.tags} of {family.recorded} is left out: another series has its labels"] = None
            continue
        shown.add(series)
        for suffix, labels, number in _value_samples(family, value):
            yield f"{family.name}{suffix}{_label_block((*tags.items(), *labels))} {_number_text(number)}"


def _value_samples(
    family: _ValueFamily, value: MetricValue
) -> Iterator[tuple[str, Sequence[tuple[str, str]], int | float]]:
    metadata, scaled = value.metadata, family.scaled
    if value.metric_type is MetricType.RATE:
        successes, failures = metadata.get("successes"), metadata.get("failures")
        if successes is None or failures is None:  # the contract requires only `count` and `success_rate`
            successes = round(metadata["count"] * metadata["success_rate"])
            failures = {"": metadata["count"] - successes}
        yield "", [("outcome", "success"), ("error_type", "")], successes
        for error_type, number in failures.items():
            yield "", [("outcome", "failure"), ("error_type", error_type)], number
    elif family.type in ("counter", "gauge"):
        yield "", [], scaled(value.value)
    elif family.type == "summary":
        for key, share in QUANTILES.items():
            if key in metadata:
                yield "", [("quantile", share)], scaled(metadata[key])
        if "sum" in metadata:
            yield "_sum", [], scaled(metadata["sum"])
        if "count" in metadata:
            yield "_count", [], metadata["count"]
    else:
        counts: Mapping[str, int] = metadata["buckets"]["counts"]
        for bound, number in counts.items():
            yield "_bucket", [("le", _number_text(scaled(float(bound))))], number
        if "sum" in metadata["buckets"]:
            yield "_sum", [], scaled(metadata["buckets"]["sum"])
        yield "_count", [], max(counts.values())


def _label_block(labels: Iterable[tuple[str, str]]) -> str:
    pairs = ",".join(f'{name}="{_escape_value(text, quotes=True)}"' for name, text in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escape_value(text: str, *, quotes: bool = False) -> str:
    escaped = _utf8(text).replace("\\", r"\\").replace("\n", r"\n")
    return escaped.replace('"', r"\"") if quotes else escaped


def _utf8(text: str) -> str:
    # A lone surrogate, as in a file name that is not UTF-8, would make the whole text unsendable.
    return text.encode(errors="backslashreplace").decode()


def _number_text(number: Any) -> str:
    if isinstance(number, float) and not math.isfinite(number):
        return "NaN" if math.isnan(number) else "+Inf" if number > 0 else "-Inf"
    return float.__repr__(number) if isinstance(number, float) else repr(number)
