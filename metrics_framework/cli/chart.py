"""A line chart in a terminal: numbers in their order, with what the axes mean."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

HEIGHT = 10

# The dots of a braille character by column and row; each is a bit above the empty one.
_BRAILLE = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_EMPTY = 0x2800


def chart(
    values: Sequence[float],
    label: Callable[[float], str],
    ends: tuple[str, str],
    *,
    width: int,
    plain: bool = False,
) -> list[str]:
    """Return the lines of a chart.

    Where there are more values than dots in a row, the smallest and the largest of each stretch are drawn, so
    that no outlier is lost.

    Args:
        values: At least one of 0 or more, in their order; every step to the right is as wide as the others.
        label: How to write a value beside the axis.
        ends: What is at the left and the right end.
        width: How many columns the lines may have.
        plain: Whether to draw with ASCII characters alone.

    Example:
        >>> for line in chart([1, 2, 3], str, ("Monday", "Friday"), width=20, plain=True):
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
    labels = {0: label(high), HEIGHT // 2: label(low + (high - low) / 2), HEIGHT - 1: label(low)}
    if low == high:
        labels = {HEIGHT // 2: label(low)}
    margin = max(map(len, labels.values()))
    columns = max(width - margin - 2, 1)
    upright, corner, across = ("|", "+", "-") if plain else ("│", "└", "─")
    drawn = _plain(values, columns) if plain else _braille(values, columns)
    lines = [
        f"{labels.get(number, ''):>{margin}} {upright}{row}".rstrip() for number, row in enumerate(drawn)
    ]
    begin, end = ends
    gap = columns - len(begin) - len(end)
    below = begin + " " * gap + end if gap > 0 else begin[:columns]
    return [*lines, f"{'':{margin}} {corner}{across * columns}", f"{'':{margin}}  {below}"]


def _plain(values: Sequence[float], columns: int) -> Iterator[str]:
    dots = _dots(values, columns, HEIGHT)
    for row in range(HEIGHT):
        yield "".join("*" if (column, row) in dots else " " for column in range(columns))


def _braille(values: Sequence[float], columns: int) -> Iterator[str]:
    dots = _dots(values, 2 * columns, 4 * HEIGHT)
    for row in range(HEIGHT):
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
    """Return the column and row, from the top left, of each dot of the line through the values."""
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
    """Yield the values to draw and the column of each."""
    number = len(values)
    if number <= width:
        for place, value in enumerate(values):
            yield (round(place * (width - 1) / (number - 1)) if number > 1 else width // 2), value
        return
    for column in range(width):
        stretch = values[number * column // width : number * (column + 1) // width]
        yield from ((column, value) for value in sorted({min(stretch), max(stretch)}, key=stretch.index))


def _row(value: float, low: float, high: float, height: int) -> int:
    """Return the row of a value; the top one is 0."""
    return round((height - 1) * ((high - value) / (high - low))) if low < high else height // 2
