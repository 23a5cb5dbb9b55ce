"""The text of a failed check, and of everything recorded, for people who look for the reason."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from metrics_framework.capabilities import HasAggregator
from metrics_framework.errors import nearest
from metrics_framework.health import RESOURCE_GAUGES
from metrics_framework.protocols import MetricsAggregator
from metrics_framework.testing.changes import (
    Change,
    Series,
    State,
    aggregator_of,
    change,
    changed,
    read,
)
from metrics_framework.testing.expectations import Expectation
from metrics_framework.validation import safe_repr

MAX_CHANGES = 100
"""How many changes a report lists."""

_PLAIN = re.compile(r"[^\s{}=,'\"\\]+")


def report(
    expectations: Sequence[Expectation],
    failed: Collection[Expectation],
    surprises: Collection[Series],
    before: State,
    after: State,
) -> str:
    """Return what was expected beside what happened, and below it everything that changed.

    Args:
        expectations: All of them, in the order in which they were written.
        failed: Those that are not met.
        surprises: The changes that should not be.
        before: What was recorded before the block.
        after: What is recorded after it.
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
    faults += [f"{_counted(len(surprises), 'change')} not expected"] if surprises else []
    lines = [f"metrics: {', '.join(faults)}", ""]
    if expectations:
        lines += [*_aligned(rows, notes), ""]
    # Readings of the machine change all the time and explain nothing.
    listed = [series for series in moved if series.name not in RESOURCE_GAUGES]
    if not listed:
        return "\n".join([*lines, "Nothing changed in the block."])
    changes = [
        (
            "✗" if series in surprises else " ",
            series.kind,
            _label(series.name, dict(series.tags), series.error_type),
            _movement(series, before, after),
        )
        for series in listed[:MAX_CHANGES]
    ]
    lines += ["Everything that changed in the block:", "", *_aligned(changes)]
    if len(listed) > MAX_CHANGES:
        lines.append(f"     … and {len(listed) - MAX_CHANGES} more")
    return "\n".join(lines)


def recorded(system: HasAggregator | MetricsAggregator) -> str:
    """Return everything that was recorded as a table, a line for each series, to be printed.

    Args:
        system: A system, whose aggregator is asked, or an aggregator.

    Raises:
        InvalidInputError: If it is neither.

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
    return "\n".join(_aligned(rows, indent="")) or "nothing was recorded"


def _expected(expectation: Expectation) -> str:
    kind = expectation.kind
    return _listed(kind, {key: _number(value, kind) for key, value in expectation.numbers.items()})


def _actual(expectation: Expectation, before: State, after: State) -> str:
    return _moves(expectation.kind, expectation.actual(before, after))


def _movement(series: Series, before: State, after: State) -> str:
    if series not in after:
        return "removed"
    text = _moves(series.kind, {key: change([series], key, before, after) for key in after[series]})
    if series.kind != "gauge":
        return text
    return f"{text} (was {before[series]['last']})" if series in before else f"{text} (new)"


def _moves(kind: str, numbers: Mapping[str, Change | None]) -> str:
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
        return ", ".join(numbers.values())  # there is one, and no doubt what it is
    unit = {"sum": " ms"} if kind == "timer" else {}
    return ", ".join(f"{key} {number}{unit.get(key, '')}" for key, number in numbers.items())


def _note(expectation: Expectation, before: State, after: State, moved: Collection[Series]) -> str:
    """Return why an expectation may have failed, where there is more to say than its numbers."""
    known = before.keys() | after.keys()
    if any(expectation.covers(series) and (series in moved or series.kind == "gauge") for series in known):
        return ""
    kind, name = expectation.kind, expectation.name
    kinds = sorted({series.kind for series in known if series.name == name})
    if kind not in kinds:
        if kinds:
            return f"{name!r} was recorded as {' and '.join(kinds)}, not as {kind}."
        names = {series.name for series in known if series.kind == kind} or {each.name for each in known}
        return f"No {kind} {name!r} was recorded.{nearest(name, names)}"
    same = [series for series in known if (series.name, series.kind) == (name, kind)]
    error_type, types = expectation.error_type, {series.error_type for series in same}
    if error_type not in types:
        return f"No {error_type!r} was recorded.{nearest(error_type, types)}"
    others = [series for series in same if series.error_type == error_type]
    if any(expectation.covers(series) for series in others) and not any(each in moved for each in others):
        return ""
    # The series that was probably meant: one that changed, with the most tags in common.
    wanted = expectation.tags.items()
    closest = max(sorted(others), key=lambda each: (each in moved, len(wanted & set(each.tags))))
    return f"Recorded with {_differing(expectation.tags, dict(closest.tags))}."


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
            parts[-1] += f" (its tags: {', '.join(found)})"
    return "; ".join(parts)


def _label(name: str, tags: Mapping[str, str], error_type: str) -> str:
    pairs = ", ".join(f"{_text(key)}={_text(value)}" for key, value in sorted(tags.items()))
    label = _text(name) + (f"{{{pairs}}}" if tags else "")
    return f"{label} {_text(error_type)}" if error_type else label


def _text(text: str) -> str:
    """Return a name or a tag as it is, or quoted where it would be mistaken for something else."""
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
