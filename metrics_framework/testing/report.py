"""Formats the message of a failed check, and a table of all recorded metrics."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from metrics_framework.errors import nearest
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.resources import RESOURCE_GAUGES
from metrics_framework.testing.changes import (
    HasAggregator,
    NumberChange,
    SeriesKey,
    State,
    aggregator_of,
    change,
    changed,
    read,
)
from metrics_framework.testing.expectations import Expectation
from metrics_framework.validation import safe_repr

MAX_CHANGES = 100
"""The number of changes that a report lists."""

_PLAIN = re.compile(r"[^\s{}=,'\"\\]+")


def report(
    expectations: Sequence[Expectation],
    failed: Collection[Expectation],
    unexpected: Collection[SeriesKey],
    before: State,
    after: State,
) -> str:
    """Return a table of the expected and the actual numbers, followed by a list of every change.

    Args:
        expectations: All expectations, in the order of the test.
        failed: The expectations that are not met.
        unexpected: The changes that no expectation covers, if the check allows no others.
        before: The numbers before the block.
        after: The numbers after the block.
    """
    moved = changed(before, after)
    rows = [("", "", "", "expected", "actual")]
    notes: dict[int, str] = {}
    for each in expectations:
        if each in failed:
            notes[len(rows)] = _note(each, before, after, moved)
        name = _label(each.name, each.tags, each.error_type)
        mark = "✗" if each in failed else "✓"
        rows.append((mark, each.kind, name, _expected(each), _actual(each, before, after)))
    faults = [f"{len(failed)} of {_counted(len(expectations), 'expectation')} failed"] if failed else []
    faults += [f"{_counted(len(unexpected), 'unexpected change')}"] if unexpected else []
    lines = [f"metrics: {', '.join(faults)}", ""]
    if expectations:
        lines += [*_aligned(rows, notes), ""]
    # The gauges of the resource monitor change all the time and do not explain a failure.
    listed = [series for series in moved if series.name not in RESOURCE_GAUGES]
    if not listed:
        return "\n".join([*lines, "The block changed no metrics."])
    changes = [
        (
            "✗" if series in unexpected else " ",
            series.kind,
            _label(series.name, dict(series.tags), series.error_type),
            _movement(series, before, after),
        )
        for series in listed[:MAX_CHANGES]
    ]
    lines += ["All changes in the block:", "", *_aligned(changes)]
    if len(listed) > MAX_CHANGES:
        lines.append(f"     … and {len(listed) - MAX_CHANGES} more")
    return "\n".join(lines)


def recorded(system: HasAggregator | MetricsAggregator) -> str:
    """Return all recorded metrics as a table for printing, with one line per series.

    Args:
        system: A system or its aggregator.

    Raises:
        InvalidInputError: If the argument is neither.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> metrics = MetricsSystem()
        >>> metrics.collector.increment("orders", {"status": "paid"})
        >>> print(recorded(metrics))
        counter  orders{status=paid}  1
    """
    rows = [
        (
            series.kind,
            _label(series.name, dict(series.tags), series.error_type),
            _listed(series.kind, {key: str(number) for key, number in numbers.items()}),
        )
        for series, numbers in sorted(read(aggregator_of(system)).items())
    ]
    return "\n".join(_aligned(rows, indent="")) or "no metrics were recorded"


def _expected(expectation: Expectation) -> str:
    kind = expectation.kind
    return _listed(kind, {key: _number(value, kind) for key, value in expectation.numbers.items()})


def _actual(expectation: Expectation, before: State, after: State) -> str:
    return _moves(expectation.kind, expectation.actual(before, after))


def _movement(series: SeriesKey, before: State, after: State) -> str:
    if series not in after:
        return "removed"
    text = _moves(series.kind, {key: change([series], key, before, after) for key in after[series]})
    if series.kind != "gauge":
        return text
    return f"{text} (was {before[series]['last']})" if series in before else f"{text} (new)"


def _moves(kind: str, numbers: Mapping[str, NumberChange | None]) -> str:
    unknown = "none" if kind == "gauge" else "unknown"
    return _listed(
        kind,
        {key: unknown if found is None else _number(found.value, kind) for key, found in numbers.items()},
    )


def _number(value: object, kind: str) -> str:
    if kind != "gauge" and isinstance(value, int | float) and value != 0:
        return f"{value:+}"
    return safe_repr(value)


def _listed(kind: str, numbers: Mapping[str, str]) -> str:
    if kind not in ("histogram", "timer"):
        return ", ".join(numbers.values())  # there is only one
    unit = {"sum": " ms"} if kind == "timer" else {}
    return ", ".join(f"{key} {number}{unit.get(key, '')}" for key, number in numbers.items())


def _note(expectation: Expectation, before: State, after: State, moved: Collection[SeriesKey]) -> str:
    """Return the probable reason of a failure, or "" if the numbers say all."""
    known = before.keys() | after.keys()
    if any(expectation.covers(series) and (series in moved or series.kind == "gauge") for series in known):
        return ""
    kind, name = expectation.kind, expectation.name
    kinds = sorted({series.kind for series in known if series.name == name})
    if kind not in kinds:
        if kinds:
            return f"{name!r} was recorded as a {' and a '.join(kinds)}, not as a {kind}."
        names = {series.name for series in known if series.kind == kind} or {each.name for each in known}
        return f"No {kind} {name!r} was recorded.{nearest(name, names)}"
    same = [series for series in known if (series.name, series.kind) == (name, kind)]
    error_type, types = expectation.error_type, {series.error_type for series in same}
    if error_type not in types:
        return f"No failure of type {error_type!r} was recorded.{nearest(error_type, types)}"
    others = [series for series in same if series.error_type == error_type]
    if any(expectation.covers(series) for series in others) and not any(each in moved for each in others):
        return ""
    # The test probably meant a series that changed, with the most tags in common.
    wanted = expectation.tags.items()
    closest = max(sorted(others), key=lambda each: (each in moved, len(wanted & set(each.tags))))
    return f"It was recorded with {_differing(expectation.tags, dict(closest.tags))}."


def _differing(wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    missing = [key for key in wanted if key not in found]
    parts = [
        f"{key}={found[key]!r}, not {value!r}"
        for key, value in sorted(wanted.items())
        if key in found and found[key] != value
    ]
    if missing:
        parts.append(f"no tag {' or '.join(map(repr, sorted(missing)))}")
        if found:
            parts[-1] += f" (it has: {', '.join(found)})"
    return "; ".join(parts)


def _label(name: str, tags: Mapping[str, str], error_type: str) -> str:
    pairs = ", ".join(f"{_text(key)}={_text(value)}" for key, value in sorted(tags.items()))
    label = _text(name) + (f"{{{pairs}}}" if tags else "")
    return f"{label} {_text(error_type)}" if error_type else label


def _text(text: str) -> str:
    """Return a name or tag, quoted if it could be misread."""
    return text if _PLAIN.fullmatch(text) and text.isprintable() else repr(text)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _aligned(
    rows: Iterable[Sequence[str]], notes: Mapping[int, str] | None = None, indent: str = "  "
) -> list[str]:
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for number, row in enumerate(table):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append((indent + "  ".join(cells)).rstrip())
        if notes and notes.get(number):
            lines.append(f"{indent}   ↳ {notes[number]}")
    return lines
