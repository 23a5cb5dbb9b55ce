"""A line chart for the terminal, in braille or ASCII characters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

HEIGHT_LINES = 10
"""Height of a chart, without its axis."""

# The bit of each dot of a braille character, by column and row; _EMPTY is the character without dots.
_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_EMPTY = 0x2800


def chart(
    values: Sequence[float],
    label: Callable[[float], str],
    ends: tuple[str, str],
    *,
    width: int,
    ascii_only: bool = False,
) -> list[str]:
    """Return the lines of a chart.

    If there are more values than columns, each column shows the smallest and the largest of several values,
    so that outliers show.

    Args:
        values: At least one value, in order, each 0 or more. They are drawn at equal distances.
        label: Formats a value for the axis.
        ends: Labels of the left and the right end of the axis.
        width: Most columns of a line.
        ascii_only: Whether to draw with ASCII characters only.

    Example:
        >>> for line in chart([1, 2, 3], str, ("Monday", "Friday"), width=20, ascii_only=True):
        ...     print(line)
        3.0 |              *
            |            **
            |          **
            |        **
            |       *
        2.0 |     **
            |    *
            |   *
            | **
        1.0 |*
            +---------------
             Monday   Friday
    """
    low, high = float(min(values)), float(max(values))
    labels = {0: label(high), HEIGHT_LINES // 2: label(low + (high - low) / 2), HEIGHT_LINES - 1: label(low)}
    if low == high:
        labels = {HEIGHT_LINES // 2: label(low)}
    margin = max(map(len, labels.values()))
    columns = max(width - margin - 2, 1)
    upright, corner, across = ("|", "+", "-") if ascii_only else ("│", "└", "─")
    drawn = _ascii(values, columns) if ascii_only else _braille(values, columns)
    lines = [
        f"{labels.get(number, ''):>{margin}} {upright}{row}".rstrip() for number, row in enumerate(drawn)
    ]
    begin, end = ends
    gap = columns - len(begin) - len(end)
    below = begin + " " * gap + end if gap > 0 else begin[:columns]
    return [*lines, f"{'':{margin}} {corner}{across * columns}", f"{'':{margin}}  {below}"]


def _ascii(values: Sequence[float], columns: int) -> Iterator[str]:
    dots = _dots(values, columns, HEIGHT_LINES)
    for row in range(HEIGHT_LINES):
        yield "".join("*" if (column, row) in dots else " " for column in range(columns))


def _braille(values: Sequence[float], columns: int) -> Iterator[str]:
    dots = _dots(values, 2 * columns, 4 * HEIGHT_LINES)
    for row in range(HEIGHT_LINES):
        yield "".join(
            chr(
                _EMPTY
                + sum(
                    bit
                    for right, bits in enumerate(_BRAILLE)
                    for down, bit in enumerate(bits)
                    if (2 * column + right, 4 * row + down) in dots
                )
            )
            for column in range(columns)
        )


def _dots(values: Sequence[float], width: int, height: int) -> set[tuple[int, int]]:
    """Return column and row, from the top left, of each dot of the line through the values."""
    low, high = min(values), max(values)
    points = [(column, _row(value, low, high, height)) for column, value in _spread(values, width)]
    dots = set(points)
    for (column, row), (next_column, next_row) in pairwise(points):
        steps = max(abs(next_column - column), abs(next_row - row))
        dots |= {
            (
                column + round((next_column - column) * step / steps),
                row + round((next_row - row) * step / steps),
            )
            for step in range(1, steps)
        }
    return dots


def _spread(values: Sequence[float], width: int) -> Iterator[tuple[int, float]]:
    """Yield the column and the value of each point."""
    number = len(values)
    if number <= width:
        for place, value in enumerate(values):
            yield (round(place * (width - 1) / (number - 1)) if number > 1 else width // 2), value
        return
    for column in range(width):
        part = values[number * column // width : number * (column + 1) // width]
        yield from ((column, value) for value in sorted({min(part), max(part)}, key=part.index))


def _row(value: float, low: float, high: float, height: int) -> int:
    """Return the row of a value; the top one is 0."""
    return round((height - 1) * ((high - value) / (high - low))) if low < high else height // 2
