"""The text of one metric, in blocks of series, of which only those are written again that changed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
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
        members: Its series, in the order in which they came.
        blocks: The same in blocks.
    """

    shape: Shape
    pattern: LabelPattern
    members: list[Series]
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
        members = list(shape.known.values())
        known = before.groups.get(shape.names) if before.is_simple else None
        blocks: list[Block] = []
        fresh = members
        if known is not None and members[: len(known.members)] == known.members:
            blocks, fresh = list(known.blocks), members[len(known.members) :]
        elif known is not None:
            kept: set[Series] = set()
            for block in known.blocks:
                alive = [one for one in block.series if shape.known.get(one.key) is one]
                kept.update(alive)
                changed = block if len(alive) == len(block.series) else self._block(alive, pattern)
                if changed is not None:
                    blocks.append(changed)
                yield b""
            fresh = [one for one in members if one not in kept]
            if len(blocks) > 2 * (len(members) // self._size + 1):  # they became too small
                blocks, fresh = [], members
        if blocks and fresh and len(blocks[-1].series) < self._size:
            fresh = [*blocks.pop().series, *fresh]
        for start in range(0, len(fresh), self._size):
            made = self._block(fresh[start : start + self._size], pattern)
            if made is None:
                return None
            blocks.append(made)
            yield b""
        return Group(shape, pattern, members, blocks)

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
            groups[names] = Group(shape, patterns[names], members, blocks)
        return groups
