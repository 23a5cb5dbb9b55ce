"""Bucket counts packed into one integer, a lane of bits for each bucket.

Adding two sets of buckets is then one addition of two integers, in C, however many buckets there are; and
since integers never change, neither does what was published. A lane is 8, 16, 32 or 64 bits wide: the
narrowest that holds the fullest bucket.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_CODES = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Lanes(NamedTuple):
    """Counts of consecutive buckets; equal content may be packed in different widths.

    Attributes:
        low: The index of the lowest bucket.
        bits: The width of a lane.
        peak: No bucket holds more than this; it may overstate.
        packed: The counts, the lowest bucket in the lowest bits.
    """

    low: int
    bits: int
    peak: int
    packed: int

    @classmethod
    def pack(cls, low: int, counts: Sequence[int]) -> Lanes:
        """Pack the counts of consecutive buckets from ``low`` on; the first and the last are not zero."""
        peak = max(counts)
        bits = _width(peak)
        return cls(low, bits, peak, _pack(counts, bits))

    @classmethod
    def of_bytes(cls, low: int, counts: bytearray, peak: int) -> Lanes:
        """Pack the counts of consecutive buckets from ``low`` on, each a byte; none exceeds ``peak``."""
        return cls(low, 8, peak, int.from_bytes(counts, "little"))

    @property
    def high(self) -> int:
        """The index of the highest bucket that is not empty."""
        return self.low + (self.packed.bit_length() - 1) // self.bits

    @property
    def span(self) -> int:
        """How many indexes there are from the lowest bucket to the highest; 0 where all are empty."""
        return -(-self.packed.bit_length() // self.bits)

    def merge(self, other: Lanes) -> Lanes:
        """Return the sums, bucket by bucket."""
        if not other.packed:
            return self
        if not self.packed:
            return other
        mine, theirs, peak = self, other, self.peak + other.peak
        bits = max(mine.bits, theirs.bits)
        if peak >= 1 << bits:  # peaks only overstate, so look before the lanes are widened
            peak = mine.fullest() + theirs.fullest()
            bits = max(bits, _width(peak))
        mine, theirs = mine._in_bits(bits), theirs._in_bits(bits)
        if mine.low > theirs.low:
            mine, theirs = theirs, mine
        return Lanes(mine.low, bits, peak, mine.packed + (theirs.packed << (theirs.low - mine.low) * bits))

    def halved(self) -> Lanes:
        """Return the counts at half the resolution: bucket ``i`` becomes bucket ``i // 2``."""
        if not self.packed:
            return self
        low = self.low >> 1
        cells = [0] * ((self.high >> 1) - low + 1)
        for index, count in self.items():
            cells[(index >> 1) - low] += count
        return Lanes.pack(low, cells)

    def counts(self) -> tuple[int, ...]:
        """Return the counts of all buckets from the lowest to the highest."""
        span = self.span
        return struct.unpack(
            f"<{span}{_CODES[self.bits]}", self.packed.to_bytes(span * self.bits // 8, "little")
        )

    def items(self) -> Iterator[tuple[int, int]]:
        """Yield the index and count of each bucket that is not empty, ascending."""
        return ((index, count) for index, count in enumerate(self.counts(), self.low) if count)

    def fullest(self) -> int:
        """Return the largest count."""
        return max(self.counts(), default=0)

    def _in_bits(self, bits: int) -> Lanes:
        if bits == self.bits:
            return self
        is_one = self.packed >> self.bits == 0  # which is the same in any width
        return Lanes(self.low, bits, self.peak, self.packed if is_one else _pack(self.counts(), bits))


EMPTY = Lanes(0, 8, 0, 0)


def _pack(counts: Sequence[int], bits: int) -> int:
    if bits == 8:  # by far the most frequent, and the fastest
        return int.from_bytes(bytes(counts), "little")
    return int.from_bytes(struct.pack(f"<{len(counts)}{_CODES[bits]}", *counts), "little")


def _width(peak: int) -> int:
    return next(bits for bits in _CODES if peak >> bits == 0)
