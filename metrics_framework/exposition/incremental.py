"""The incremental writer: renders the text of a store again only where it changed.

The series of a metric are divided into blocks. A block keeps its text until one of its series changes.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from time import perf_counter
from typing import NamedTuple

from metrics_framework.exposition.families import (
    MAX_SHARED_LABELS,
    ExposedFamilies,
    ExposedFamily,
    ExpositionLog,
    UniqueLabels,
    family_header,
    series_labels,
)
from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format, LabelPattern, LineWriter, line_writer, pattern_of
from metrics_framework.recording.engine import Series, TagSet, read_versions
from metrics_framework.recording.metric import Metric

BLOCK_LINES = 256
"""The approximate size of a block. Fewer lines cost more in total; more block an event loop for longer."""

GC_EVERY_BLOCKS = 48
"""After how many new blocks young garbage is collected. The garbage collector visits every series of a new
block: 100 000 series at once take 8 milliseconds, which would block an event loop."""

CHUNK_BYTES = 65_536
CHUNK_SECONDS = 0.0005
"""A chunk ends when either limit is reached."""


class Block:
    """Some series of one metric, and the text that was rendered last. Thread-safe.

    Args:
        series: The series, at least one.
        labels: The labels of each series.
        lines: Writes their lines.
    """

    __slots__ = ("_cached", "_cached_openmetrics", "_lines", "_prepared", "series")

    def __init__(self, series: Sequence[Series], labels: Sequence[str], lines: LineWriter) -> None:
        self.series = series
        self._lines = lines
        self._prepared = lines.prepare(labels)
        self._cached: tuple[bytes, bytes] | None = None
        self._cached_openmetrics: tuple[bytes, bytes] | None = None  # only if the formats differ

    def text(self, format: Format) -> bytes:
        """Return the lines of the series with their current numbers."""
        # Read before the numbers: after a record in between, the next scrape finds other versions.
        versions = read_versions(self.series)
        is_openmetrics = format is Format.OPENMETRICS
        apart = is_openmetrics and self._lines.formats_differ
        cached = self._cached_openmetrics if apart else self._cached
        if cached is not None and cached[0] == versions:
            return cached[1]
        text = self._lines.render(self._prepared, self.series, format).encode()
        # Replaced in one step: other threads may read it. Writing may have found that the formats differ.
        if is_openmetrics and self._lines.formats_differ:
            self._cached_openmetrics = versions, text
        else:
            self._cached = versions, text
        return text


class MetricBlocks(NamedTuple):
    """All series of a metric, in blocks.

    Attributes:
        version: The version of the metric whose series these are.
        groups: The blocks, by tag names; the series of each are in the order of their first records.
        is_simple: Whether no two series can have the same labels.
    """

    version: object
    groups: Mapping[tuple[str, ...], list[Block]]
    is_simple: bool


_NO_BLOCKS = MetricBlocks(None, {}, True)


class MetricText:
    """Renders the text of one metric, or of the durations or outcomes of one operation. Thread-safe.

    State that threads share is replaced in one step and is correct each time.

    Args:
        exposed: The family.
        constants: The constant tags of the store.
        log: Logs different tags, and series with the same labels.
        escaping: How names outside the classic character set are written.
        patterns: The patterns of labels that all metrics of a writer share, by tag names, labels of the
            format itself, and escaping.
    """

    __slots__ = (
        "_blocks",
        "_constants",
        "_escaping",
        "_lines",
        "_log",
        "_openmetrics_header",
        "_patterns",
        "_size",
        "_text_header",
        "exposed",
        "header",
        "metric",
    )

    def __init__(
        self,
        exposed: ExposedFamily,
        constants: Mapping[str, str],
        log: ExpositionLog,
        escaping: Escaping,
        patterns: dict[tuple[object, ...], LabelPattern],
    ) -> None:
        self.exposed = exposed
        self.metric = exposed.metric
        self.header = exposed.header
        if escaping is Escaping.ALLOW_UTF_8:
            self.header = family_header(exposed.named, exposed.description, escaping)
        self._escaping = escaping
        self._constants = constants
        self._patterns = patterns
        self._log = log
        self._lines = line_writer(exposed.named.metric_type, self.header)
        self._size = max(BLOCK_LINES // self._lines.lines_per_series, 1)
        self._blocks = _NO_BLOCKS
        self._text_header = self._openmetrics_header = b""

    def pieces(self, format: Format, expire: Callable[[Metric, Sequence[Series]], None]) -> Iterator[bytes]:
        """Yield the lines in pieces, each of which takes about half a millisecond; some may be empty.

        Args:
            format: The format.
            expire: Removes idle series, of those that it is given.
        """
        metric, blocks = self.metric, self._blocks
        if blocks.version is not metric.version:
            metric.expose()
            blocks = yield from self._update(blocks)
        header = self._header_lines(format)
        for group in blocks.groups.values():
            for block in group:
                expire(metric, block.series)
                text = block.text(format)
                if header and text:
                    text, header = header + text, b""
                yield text

    def _header_lines(self, format: Format) -> bytes:
        """Return the lines before the samples."""
        lines = self._text_header if format is Format.TEXT else self._openmetrics_header
        if not lines:
            lines = format.header_lines(*self.header[:4]).encode()
            if format is Format.TEXT:
                self._text_header = lines
            else:
                self._openmetrics_header = lines
        return lines

    def _update(self, before: MetricBlocks) -> Generator[bytes, None, MetricBlocks]:
        # Read before the series: if one is added meanwhile, the version changes again.
        version = self.metric.version
        tag_sets = dict(self.metric.tag_sets)
        patterns = [self._pattern(names) for names in tag_sets]
        groups: dict[tuple[str, ...], list[Block]] = {}
        # Different tags may become the same labels. Then each series must be compared with the others.
        is_simple = len({pattern.labels for pattern in patterns if pattern.is_simple}) == len(tag_sets)
        if is_simple:
            for (names, tag_set), pattern in zip(tag_sets.items(), patterns, strict=True):
                group = yield from self._group(tag_set, pattern, before)
                if group is None:
                    is_simple = False
                    break
                groups[names] = group
        if not is_simple:
            groups = yield from self._unique_blocks(tag_sets)
        blocks = self._blocks = MetricBlocks(version, groups, is_simple)
        return blocks

    def _pattern(self, names: tuple[str, ...]) -> LabelPattern:
        key = (names, self.header.own_labels, self._escaping is Escaping.ALLOW_UTF_8)
        pattern = self._patterns.get(key)
        if pattern is None:
            pattern = LabelPattern(names, self._constants, self.header.own_labels, self._escaping)
            if len(self._patterns) < MAX_SHARED_LABELS:
                self._patterns[key] = pattern
        return pattern

    def _group(
        self, tag_set: TagSet, pattern: LabelPattern, before: MetricBlocks
    ) -> Generator[bytes, None, list[Block] | None]:
        """Return the series of a tag set in blocks, and reuse earlier blocks that still match."""
        earlier = before.groups.get(tag_set.names, []) if before.is_simple else []
        if not earlier and len(tag_set) <= self._size:
            members = tag_set.series()
            block = self._block(members, pattern) if members else None
            return [block] if block else None if members else []
        if len(earlier) > 2 * (len(tag_set) // self._size + 1):  # the blocks became too small
            earlier = []
        version = self.metric.version
        blocks = yield from self._in_blocks(iter(tag_set), pattern, earlier)
        if blocks is not None and self.metric.version is not version:
            # Series were added or removed meanwhile. A list is the second choice: the garbage collector
            # visits all of a new one, which blocks an event loop if it is long.
            blocks = yield from self._in_blocks(iter(tag_set.series()), pattern, earlier)
        return blocks

    def _in_blocks(
        self, members: Iterator[Series], pattern: LabelPattern, earlier: Iterable[Block]
    ) -> Generator[bytes, None, list[Block] | None]:
        """Return some series in blocks.

        Args:
            members: The series, in the order of their first records.
            pattern: Formats their labels.
            earlier: Earlier blocks, before series were added and removed.
        """
        blocks: list[Block] = []
        pending: list[Series] = []
        for block in earlier:
            size = len(block.series)
            some = [*pending, *islice(members, max(size - len(pending), 0))]
            there, pending = some[:size], some[size:]
            if there == block.series:
                blocks.append(block)
            else:
                left = set(there).intersection(block.series)
                there, pending = there[: len(left)], [*there[len(left) :], *pending]
                if there and (changed := self._block(there, pattern)) is not None:
                    blocks.append(changed)
            yield b""
        if blocks and len(blocks[-1].series) < self._size:
            pending = [*blocks.pop().series, *pending]
        fresh = chain(pending, members)
        while some := [*islice(fresh, self._size)]:
            made = self._block(some, pattern)
            if made is None:
                return None
            blocks.append(made)
            if len(blocks) % GC_EVERY_BLOCKS == 0 and gc.isenabled():
                gc.collect(1)
            yield b""
        return blocks

    def _block(self, series: Sequence[Series], pattern: LabelPattern) -> Block | None:
        labels = pattern.texts([one.values for one in series])
        return Block(series, labels, self._lines) if labels else None

    def _unique_blocks(
        self,
        tag_sets: Mapping[tuple[str, ...], TagSet],
    ) -> Generator[bytes, None, dict[tuple[str, ...], list[Block]]]:
        """Return all series in blocks, without series whose labels another series already has."""
        unique = UniqueLabels(self.exposed.named, self._log)
        groups: dict[tuple[str, ...], list[Block]] = {}
        for names, tag_set in tag_sets.items():
            members = tag_set.series()
            blocks: list[Block] = []
            for start in range(0, len(members), self._size):
                found = [(one, self._series_labels(one)) for one in members[start : start + self._size]]
                admitted = [(one, pattern_of(labels)) for one, labels in found if unique.admit(labels)]
                if admitted:
                    series, labels = zip(*admitted, strict=True)
                    blocks.append(Block(series, labels, self._lines))
                yield b""
            groups[names] = blocks
        return groups

    def _series_labels(self, series: Series) -> dict[str, str]:
        return series_labels({**self._constants, **series.tags}, self.header.own_labels, self._escaping)


class _Texts(NamedTuple):
    """Some families and the text of each."""

    exposed: list[ExposedFamily]
    texts: list[MetricText]


class IncrementalWriter:
    """Writes the text of a store, and renders again only what changed since the last time. Thread-safe.

    It never blocks a record. Each series has the numbers of the moment when its line is written.

    Args:
        exposed: The families of the store.
    """

    def __init__(self, exposed: ExposedFamilies) -> None:
        self.store = exposed.store
        self._exposed = exposed
        self._log = exposed.log
        self._texts = self._utf_8_texts = _Texts([], [])
        self._patterns: dict[tuple[object, ...], LabelPattern] = {}

    def chunks(
        self,
        format: Format = Format.TEXT,
        escaping: Escaping = Escaping.UNDERSCORES,
        names: frozenset[str] | None = None,
    ) -> Iterator[bytes]:
        """Yield the text in chunks, without `Format.end`. Each takes about half a millisecond to render.

        A chunk may be empty: it is an opportunity to do something else.

        Args:
            format: The format.
            escaping: How names outside the classic character set are written.
            names: The exposed names of families or samples; only these families are rendered. By default all.
        """
        pieces: list[bytes] = []
        size, end = 0, perf_counter() + CHUNK_SECONDS
        for piece in self.pieces(format, escaping, names):
            pieces.append(piece)
            size += len(piece)
            if size >= CHUNK_BYTES or perf_counter() >= end:
                yield b"".join(pieces)
                pieces.clear()
                size, end = 0, perf_counter() + CHUNK_SECONDS
        yield b"".join(pieces)

    def pieces(
        self,
        format: Format = Format.TEXT,
        escaping: Escaping = Escaping.UNDERSCORES,
        names: frozenset[str] | None = None,
    ) -> Iterator[bytes]:
        """Yield the text in pieces of any size, for callers that need all of it at once; see `chunks`."""
        expire = self.store.expire
        for text in self._current_texts(escaping):
            if names is not None and names.isdisjoint(text.exposed.names):
                continue
            try:
                yield from text.pieces(format, expire)
            except Exception as error:  # noqa: BLE001 - the other metrics must be exposed
                self._log.fail(text.exposed.named, error)

    def _current_texts(self, escaping: Escaping) -> Sequence[MetricText]:
        exposed, before = self._exposed.current(), self._texts
        texts = self._texts = self._texts_of(exposed, before, Escaping.VALUES)
        if escaping is not Escaping.ALLOW_UTF_8:
            if texts is not before:  # those of removed metrics would stay until the next text with such names
                self._utf_8_texts = _Texts([], [])
            return texts.texts
        # Classic names have the same text for every scraper, which is kept once.
        constants = self.store.tags
        others = [each for each in exposed if not _has_classic_names(each.metric, constants)]
        utf_8 = self._utf_8_texts = self._texts_of(others, self._utf_8_texts, escaping)
        by_metric = {text.metric: text for text in utf_8.texts}
        return [by_metric.get(text.metric, text) for text in texts.texts] if others else texts.texts

    def _texts_of(self, exposed: list[ExposedFamily], before: _Texts, escaping: Escaping) -> _Texts:
        """Return the texts of some families: those from before, if they are of the same families."""
        if before.exposed == exposed:
            return before
        known = {text.metric: text for text in before.texts}
        texts: list[MetricText] = []
        for each in exposed:
            text = known.get(each.metric)
            if text is None or text.exposed is not each:
                text = MetricText(each, self.store.tags, self._log, escaping, self._patterns)
            texts.append(text)
        return _Texts(exposed, texts)


def _has_classic_names(metric: Metric, constants: Mapping[str, str]) -> bool:
    """Return whether escaping does not change the name of a metric and of its labels."""
    return metric.name.isascii() and all(map(str.isascii, chain(constants, *list(metric.tag_sets))))
