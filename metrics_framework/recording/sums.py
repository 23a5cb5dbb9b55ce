"""Sums that lose nothing: integers stay exact, floats carry their rounding error along.

A running sum is a pair: the total, and the compensation that is still to be added to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Sum = tuple[int | float, float]
"""A running sum: its total and the rounding error that the total lacks."""

ZERO: Sum = (0, 0.0)


def sum_of(values: Sequence[int | float]) -> int | float:
    """Add numbers up: exactly where all are integers, else to the nearest float.

    A sum beyond the largest float is infinite.

    Raises:
        TypeError: If something in ``values`` is no number.
    """
    if not values or values[0].__class__ is not float:  # else the sum is a float for sure
        try:
            total = sum(values)
        except OverflowError:  # integers beyond the largest float meet a float
            total = 0.0
        if total.__class__ is int:
            return total
    try:
        return math.fsum(values)
    except OverflowError:  # fsum gives up where a partial sum leaves the floats
        total = sum(map(float, values))
        return total if total == total else 0.0


def add(running: Sum, value: int | float) -> Sum:
    """Add one number to a running sum (Neumaier 1974): the error stays within one rounding."""
    total, compensation = running
    try:
        result = total + value
    except OverflowError:  # an integer beyond the largest float meets a float
        return (math.inf if max(total, value, key=abs) > 0 else -math.inf), 0.0
    if result.__class__ is int:
        return result, compensation
    if result != result:  # infinite both ways: there is no sum any more
        return running
    larger, smaller = (total, value) if abs(total) >= abs(value) else (value, total)
    return result, compensation + ((larger - result) + smaller)


def merge(running: Sum, other: Sum) -> Sum:
    """Add everything that another sum has added."""
    total, compensation = add(running, other[0])
    return total, compensation + other[1]


def value_of(running: Sum) -> int | float:
    """Return the sum; an ``int`` as long as only integers were added."""
    total, compensation = running
    if total.__class__ is int or math.isinf(total):
        # Past the largest float the sum is infinite, and what was lost on the way there is no number.
        return total
    return total + compensation
