"""Sums that lose nothing: integers stay exact, floats carry their rounding error along."""

from __future__ import annotations

import math


class Sum:
    """A running sum.

    Integers are added exactly. From the first float on, the sum is compensated (Neumaier 1974), which
    keeps it within one rounding of the true sum however many values there are.
    """

    __slots__ = ("_compensation", "_total")

    def __init__(self) -> None:
        self._total: int | float = 0
        self._compensation = 0.0

    @property
    def value(self) -> int | float:
        """The sum; an ``int`` as long as only integers were added."""
        if isinstance(self._total, int):
            return self._total
        # Past the largest float the sum is infinite, and what was lost on the way there is no number.
        return self._total if math.isinf(self._total) else self._total + self._compensation

    def add(self, value: int | float) -> None:
        """Add one finite number."""
        total = self._total
        try:
            result = total + value
        except OverflowError:  # an integer beyond the largest float meets a float
            self._total = math.inf if max(total, value, key=abs) > 0 else -math.inf
            return
        if isinstance(result, float):
            larger, smaller = (total, value) if abs(total) >= abs(value) else (value, total)
            self._compensation += (larger - result) + smaller
        self._total = result

    def merge(self, other: Sum) -> None:
        """Add everything that another sum has added."""
        self.add(other._total)
        self._compensation += other._compensation
