"""The text of one metric, in blocks of series, of which only those are written again that changed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, islice
from typing import Any, NamedTuple

from metrics_adapters.prometheus.families import Apart, Heading, Warn, heading, labels_of
from metrics_adapters.prometheus.labels import LabelPattern, pattern_of
from metrics_adapters.prometheus.lines import Lines, lines_of
from metrics_adapters.prometheus.text import Format
from metrics_framework.recording import Description
from metrics_framework.recording.claims import Named
from metrics_framework.recording.instruments import Series
from metrics_framework.recording.metric import Metric, Shape

LINES = 256
"""About how many lines a block has: fewer cost more in all, more hold an event loop up for longer."""


YOUNG = 48
"""How many blocks are made before the garbage collector sees to them. It looks at every series in a new one,
and at 100 000 at once it would for eight milliseconds, in which an event loop stands still."""


class Block:
    """Some series of one metric, and the text that was made of them last.

    Args:
        series: The series, at least one.
        labels: The labels of each.
        lines: Writes their lines.
    """

    __slots__ = ("_fixed", "_kept", "_ledgers", "_lines", "series")

    def __init__(self, series: Sequence[Series], labels: Sequence[str], lines: Lines) -> None:
        self.series = series
        self._lines = lines
        self._fixed = lines.fixed(labels)
        # More than one only where windows are kept by tag.
        ledgers = {one.ledger for one in series}
        self._ledgers = [
            (ledger, series if len(ledgers) == 1 else [one for one in series if one.ledger is ledger])
            for ledger in ledgers
        ]
        self._kept: tuple[list[Any], bytes] | None = None

    def text(self) -> bytes:
        """Return the lines of the series as they are now."""
        for ledger, members in self._ledgers:
            ledger.catch_up(members)
        states = [one.state for one in self.series]
        kept = self._kept
        if kept is not None and kept[0] == states:
            return kept[1]
        text = self._write(states)
        self._kept = states, text  # in one step: another thread may be here as well
        return text

    def _write(self, states: list[Any]) -> bytes:
        if all(states):
            return self._lines.text(self._fixed, states).encode()
        # Some are bound, and recorded nothing yet.
        there = [place for place, state in enumerate(states) if state]
        if not there:
            return b""
        fixed, known = self._lines.pick(self._fixed, there), [states[place] for place in there]
        return self._lines.text(fixed, known).encode()


class Group(NamedTuple):
    """The series of one shape, in blocks.

    Attributes:
        shape: The shape.
        pattern: How its series are labelled.
        blocks: Its series, in the order in which they came.
    """

    shape: Shape
    pattern: LabelPattern
    blocks: list[Block]


class Arrangement(NamedTuple):
    """All series of a metric in blocks.

    Attributes:
        version: The metric's version that it is right for.
        groups: By tag names.
        is_simple: Whether no two series can have the same labels.
    """

    version: object
    groups: Mapping[tuple[str, ...], Group]
    is_simple: bool


class MetricText:
    """The text of one metric, or of one half of an operation.

    Several threads may ask at once: what they share is replaced in one step, and right each time.

    Args:
        named: What it is.
        metric: Where its series are.
        description: What was said of it.
        constants: Tags that every series bears.
        warn: Is told what is odd.
    """

    def __init__(
        self, named: Named, metric: Metric, description: Description, constants: Mapping[str, str], warn: Warn
    ) -> None:
        self.metric = metric
        self.description = description
        self.heading: Heading = heading(named, description)
        self._named = named
        self._constants = constants
        self._warn = warn
        self._lines = lines_of(named.metric_type, self.heading, lambda: metric.ledgers[0].bounds)
        self._size = max(LINES // self._lines.a_series, 1)
        self._arrangement = Arrangement(None, {}, True)

    def header(self, format: Format) -> bytes:
        """Return the lines before the samples."""
        return format.header(*self.heading[:4]).encode()

    def pieces(self, expire: Callable[[Metric, Sequence[Series]], None]) -> Iterator[bytes]:
        """Yield the lines, in pieces that each take about half a millisecond; some may be empty.

        Args:
            expire: Forgets idle series among some.
        """
        arrangement = self._arrangement
        if arrangement.version is not self.metric.version:
            arrangement = yield from self._arrange(arrangement)
        for group in arrangement.groups.values():
            for block in group.blocks:
                expire(self.metric, block.series)
                yield block.text()

    def _arrange(self, before: Arrangement) -> Generator[bytes, None, Arrangement]:
        # Before the series are looked at: one that comes meanwhile makes it another version again.
        version = self.metric.version
        shapes = list(self.metric.shapes.items())
        patterns = {names: self._pattern(names, before) for names, _ in shapes}
        groups: dict[tuple[str, ...], Group] = {}
        # Different tags may be the same labels, and then it takes a look at each series.
        is_simple = all(pattern.is_simple for pattern in patterns.values()) and len(
            {pattern.labels for pattern in patterns.values()}
        ) == len(shapes)
        if is_simple:
            for names, shape in shapes:
                group = yield from self._group(shape, patterns[names], before)
                if group is None:
                    is_simple = False
                    break
                groups[names] = group
        if not is_simple:
            groups = yield from self._kept_apart(shapes, patterns)
        arrangement = self._arrangement = Arrangement(version, groups, is_simple)
        return arrangement

    def _pattern(self, names: tuple[str, ...], before: Arrangement) -> LabelPattern:
        known = before.groups.get(names)
        return known.pattern if known else LabelPattern(names, self._constants, self.heading.own_labels)

    def _group(
        self, shape: Shape, pattern: LabelPattern, before: Arrangement
    ) -> Generator[bytes, None, Group | None]:
        """Return a shape's series in blocks, those of before as far as they are right."""
        known = before.groups.get(shape.names) if before.is_simple else None
        earlier = [] if known is None else known.blocks
        if len(earlier) > 2 * (len(shape.known) // self._size + 1):  # they became too small
            earlier = []
        version, blocks = self.metric.version, None
        with suppress(RuntimeError):  # a dict that changes meanwhile
            blocks = yield from self._blocks(iter(shape.known.values()), pattern, earlier)
        if blocks is None or self.metric.version is not version:
            # Series came and went. A list is not the first choice: while it is new, the garbage collector
            # looks at all that is in it, which holds an event loop up where that is much.
            blocks = yield from self._blocks(iter(list(shape.known.values())), pattern, earlier)
        return None if blocks is None else Group(shape, pattern, blocks)

    def _blocks(
        self, members: Iterator[Series], pattern: LabelPattern, earlier: Iterable[Block]
    ) -> Generator[bytes, None, list[Block] | None]:
        """Return some series in blocks.

        Args:
            members: The series, in the order in which they came.
            pattern: How they are labelled.
            earlier: Blocks of the same series, without those that came since, and with those that went.
        """
        blocks: list[Block] = []
        held: list[Series] = []
        for block in earlier:
            size = len(block.series)
            some = [*held, *islice(members, max(size - len(held), 0))]
            there, held = some[:size], some[size:]
            if there == block.series:
                blocks.append(block)
            else:
                left = set(there).intersection(block.series)
                there, held = there[: len(left)], [*there[len(left) :], *held]
                if there and (changed := self._block(there, pattern)) is not None:
                    blocks.append(changed)
            yield b""
        if blocks and len(blocks[-1].series) < self._size:
            held = [*blocks.pop().series, *held]
        fresh = chain(held, members)
        while some := [*islice(fresh, self._size)]:
            made = self._block(some, pattern)
            if made is None:
                return None
            blocks.append(made)
            if len(blocks) % YOUNG == 0 and gc.isenabled():
                gc.collect(1)
            yield b""
        return blocks

    def _block(self, series: Sequence[Series], pattern: LabelPattern) -> Block | None:
        labels = pattern.texts([one.key for one in series])
        return Block(series, labels, self._lines) if labels else None

    def _kept_apart(
        self,
        shapes: Iterable[tuple[tuple[str, ...], Shape]],
        patterns: Mapping[tuple[str, ...], LabelPattern],
    ) -> Generator[bytes, None, dict[tuple[str, ...], Group]]:
        """Return all series in blocks, without those that have the labels of another one."""
        apart = Apart(self._named, self._warn)
        groups: dict[tuple[str, ...], Group] = {}
        for names, shape in shapes:
            members = list(shape.known.values())
            blocks: list[Block] = []
            for start in range(0, len(members), self._size):
                found = [
                    (one, labels_of({**self._constants, **one.tags}, self.heading.own_labels))
                    for one in members[start : start + self._size]
                ]
                admitted = [(one, pattern_of(labels)) for one, labels in found if apart.admit(labels)]
                if admitted:
                    series, labels = zip(*admitted, strict=True)
                    blocks.append(Block(series, labels, self._lines))
                yield b""
            groups[names] = Group(shape, patterns[names], blocks)
        return groups
