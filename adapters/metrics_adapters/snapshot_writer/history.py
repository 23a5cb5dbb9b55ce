"""The history of snapshots as an aggregator: the measurements of each run, and summaries over all runs."""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from metrics_adapters.ranking import largest
from metrics_adapters.snapshot_writer.index import SourceIndex, decode_key, encode_key, timestamp_of
from metrics_adapters.snapshot_writer.writer import DEFAULT_FOLDER
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError, UnknownMetricError, nearest
from metrics_framework.exposition import formats
from metrics_framework.log import log_event
from metrics_framework.snapshots import Environment, LeftOutFile, Run, RunValue, find_keys, parse_flat_key
from metrics_framework.snapshots.keys import SUCCESS_RATE
from metrics_framework.snapshots.provenance import HEAD_COMMIT_TAG
from metrics_framework.validation import check_choice, check_count, check_duration, plain_tags, safe_repr
from metrics_framework.values import MetricType, MetricUnit, MetricValue

QUANTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}

_RANKED_AS = {
    MetricUnit.MILLISECONDS: MetricType.TIMER,
    MetricUnit.OPERATIONS_PER_SECOND: MetricType.RATE,
}

_SELECT_RUNS = """
SELECT date, moment, ?, length(name), name, line, runs.id, digest, context
FROM runs JOIN files ON files.id = file
"""

_MAX_LISTED_RUNS = 100
"""Up to this many runs, a query lists them; beyond it, the query reads all runs."""

_ABBREVIATED_COMMIT = re.compile(r"[0-9a-f]{7,}")

_Point = tuple[int, float]
"""The time of a run, in microseconds since 1970, and a number that it measured."""


class SnapshotAggregator:
    """A `MetricsAggregator` over v1 snapshots on disk: the measurements of each run, and of all runs.

    A metric is named by the flat key of a measurement (``latency.p95``, ``custom.payload/size/mean``), by its
    custom key without ``custom.``, or by its recorded name followed by the statistic
    (``payload.size.mean``). v1 stores no types: every measurement is a gauge that each run sets once. Numbers
    of several runs are never merged into a distribution. A summary is over runs. It has

    - ``count``: the number of values, one for each run that has the metric (one for each of its series);
    - ``last``: the value of the newest run, even if the window is empty; absent if it has several series;
    - ``avg``, ``min``, ``max``, ``stddev`` (of the population), ``p50``, ``p90``, ``p95``, ``p99`` (nearest
      ranks): of the values, each run with the same weight;
    - ``seconds``: from the start of the window, or the oldest value, to now, or to the newest run if the
      clock of another machine is ahead. A window has no end, so it includes such a run.

    Runs are sorted by the date of their commit, then by timestamp, then by file, so that an old release that
    is measured later comes first. A run without the tag ``commit_date`` has its timestamp in place of the
    date. Windows select by timestamp. A run appears once, even if several files hold its snapshot.
    Each query checks the files again, and opens those that are new or have changed; an index, a hidden file
    in the folder, stores the others. A file that is not a snapshot is logged once and listed by `left_out`.

    Thread-safe, and usable in a forked child, but not in a signal handler, because it reads files.

    Args:
        *sources: Folders whose ``*.json`` files are snapshots (and ``history.jsonl``, which FlameIQ keeps in
            ``.flameiq/baselines``), or single files, of which a ``.jsonl`` has one snapshot per line. By
            default ``snapshots``. A source that does not exist yet is empty.
        clock: Tells the current time.

    Raises:
        InvalidInputError: If a source is not a path.
    """

    def __init__(self, *sources: str | Path, clock: Clock = SYSTEM_CLOCK) -> None:
        self._indexes = [SourceIndex(_path(source)) for source in sources or (DEFAULT_FOLDER,)]
        self._clock = clock
        self._filter = RunFilter()
        self._logged: set[LeftOutFile] = set()

    def where(
        self,
        *,
        branch: str | None = None,
        commit: str | None = None,
        environment: str | None = None,
        tags: Mapping[str, str] | None = None,
        last: int | None = None,
    ) -> SnapshotAggregator:
        """Return an aggregator over only those runs that match all conditions.

        Args:
            branch: Runs of this branch.
            commit: Runs of this commit, or of a pull request with this head; seven digits or more are enough.
            environment: Runs in this environment: ``ci``, ``local``, ``staging`` or ``custom``.
            tags: Runs whose metadata has these tags.
            last: At most this many of the matching runs, the newest.

        Raises:
            InvalidInputError: If ``environment`` or ``last`` is not valid.

        Example:
            >>> SnapshotAggregator("no-such-folder").where(branch="main", last=10).runs()
            []
        """
        if last is not None:
            check_count("last", last)
        if environment is not None:
            check_choice("environment", environment, map(str, Environment))
        before = self._filter
        narrowed = copy(self)
        narrowed._filter = RunFilter(
            before.branch if branch is None else branch,
            before.commit if commit is None else commit,
            before.environment if environment is None else Environment(environment),
            {**before.tags, **plain_tags(tags)},
            before.last if last is None else last,
        )
        return narrowed

    # -- each run --------------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Return every run, oldest first."""
        with self._opened() as reader:
            return [reader.run(row) for row in reader.rows]

    def values(self, metric: str, time_window: timedelta | None = None) -> list[RunValue]:
        """Return the values of a metric in each run that has it, oldest first.

        Args:
            metric: Any name of the metric. If it has several series, all of them are returned.
            time_window: How far back to look; ``None`` for all runs.

        Raises:
            UnknownMetricError: If no run has the metric.
            InvalidInputError: If the window is not positive.
        """
        start = self._window_start(time_window)
        with self._opened() as reader:
            return [
                RunValue(reader.run(row), key, value)
                for row, measured in self._measured(reader, metric)
                if start is None or row.moment >= start
                for key, value in measured.items()
            ]

    def measurements(self) -> list[tuple[Run, dict[str, float]]]:
        """Return every run with all of its measurements by flat key, oldest first."""
        with self._opened() as reader:
            return [(reader.run(row), measured) for row, measured in reader.measurements()]

    def left_out(self) -> list[LeftOutFile]:
        """Return the files that look like snapshots but are not valid, by path."""
        with self._opened() as reader:
            return reader.left_out()

    def state_of_files(self) -> bytes | None:
        """Return a value that changes whenever a file does, without reading any file.

        Returns:
            The value; ``None`` if a file is so new that another change of it might not show.
        """
        states = [index.state() for index in self._indexes]
        return None if None in states else b"".join(state for state in states if state is not None)

    # -- all runs --------------------------------------------------------------------------------------

    def get_metric_summary(self, metric_name: str, time_window: timedelta | None = None) -> dict[str, float]:
        """Summarize a metric over runs; see the class, and `MetricsAggregator.get_metric_summary`.

        Raises:
            UnknownMetricError: If no run has the metric.
            InvalidInputError: If the window is not positive.
        """
        start = self._window_start(time_window)
        with self._opened() as reader:
            measured = [(row.moment, values) for row, values in self._measured(reader, metric_name)]
        points = [(moment, value) for moment, values in measured for value in values.values()]
        newest = list(measured[-1][1].values())
        return _summary(points, newest[0] if len(newest) == 1 else None, self._now(), start)

    def get_success_rate(self, operation: str, time_window: timedelta | None = None) -> float:
        """Return the success rate of an operation, averaged over runs.

        Each run has the same weight, because v1 does not store the number of events behind a rate.

        Returns:
            0.0 to 1.0; 1.0 if no run in the window has the rate.

        Raises:
            UnknownMetricError: If no run has a success rate of the operation.
            InvalidInputError: If the window is not positive.
        """
        start = self._window_start(time_window)
        with self._opened() as reader:
            known = {
                key: one.name.removesuffix(f".{SUCCESS_RATE}")
                for key, one in ((key, parse_flat_key(key)) for key in reader.known_keys())
                if one.operation and one.statistic == SUCCESS_RATE
            }
            keys = [key for key, name in known.items() if name == operation]
            rates = [
                (row.moment, rate) for row, found in reader.measurements(keys) for rate in found.values()
            ]
            if not rates:
                raise UnknownMetricError(
                    f"no success rate of {safe_repr(operation)} in {self._described(reader)}."
                    f"{nearest(str(operation), {*known.values()} - {operation})}"
                )
        in_window = [rate for moment, rate in rates if start is None or moment >= start]
        return _mean(in_window) if in_window else 1.0

    def get_metrics_by_tag(self, tag_filter: dict[str, str]) -> list[MetricValue]:
        """Return the matching series over runs; see `MetricsAggregator.get_metrics_by_tag`.

        A value has the tags of its series and of its run, so a filter also selects runs. A series is listed
        with the tags that all of its runs share. Its ``value`` and ``timestamp`` are those of its newest run.
        Its metadata has the summary, the flat ``key``, the ``statistic``, and ``operation`` if it belongs to
        one.
        """
        wanted = plain_tags(tag_filter).items()
        now = self._now()
        points: defaultdict[str, list[_Point]] = defaultdict(list)
        # Thousands of runs share a few sets of tags, so each set is merged once for each key.
        merged: dict[tuple[frozenset[tuple[str, str]], str], frozenset[tuple[str, str]]] = {}
        with self._opened() as reader:
            for row, measured in reader.measurements():
                of_run = frozenset(reader.tags(row).items())
                for key, value in measured.items():
                    tags = merged.get((of_run, key))
                    if tags is None:
                        tags = frozenset({**dict(of_run), **parse_flat_key(key).tags}.items())
                        merged[of_run, key] = tags
                    if wanted <= tags:
                        points[key].append((row.moment, value))
        common: dict[str, frozenset[tuple[str, str]]] = {}
        for (_, key), tags in merged.items():
            if wanted <= tags:
                common[key] = common.get(key, tags) & tags
        return [_metric_value(key, points[key], dict(sorted(common[key])), now) for key in sorted(points)]

    def export_metrics(self, format: str = "json") -> str:
        """Return every series over runs in a text format; see `MetricsAggregator.export_metrics`.

        Args:
            format: ``json``, ``jsonl``, ``csv`` or ``prometheus`` (text format 0.0.4).
        """
        return formats.render(self.get_metrics_by_tag({}), format)

    def get_top_metrics(self, metric_type: MetricType, limit: int = 10) -> list[MetricValue]:
        """Return the largest values of the newest run; see `MetricsAggregator.get_top_metrics`.

        `MetricType.TIMER` lists values that v1 knows to be milliseconds, `MetricType.RATE` operations per
        second, and `MetricType.GAUGE` everything.
        """
        values = self.get_metrics_by_tag({})
        if metric_type is not MetricType.GAUGE:
            values = [
                replace(value, metric_type=_RANKED_AS.get(value.unit, MetricType.GAUGE)) for value in values
            ]
        return largest(values, metric_type, limit)

    # -- reading ---------------------------------------------------------------------------------------

    @contextmanager
    def _opened(self) -> Iterator[HistoryReader]:
        with _open_history(self._indexes, self._filter) as reader:
            for file in reader.left_out():
                if file not in self._logged:
                    self._logged.add(file)
                    log_event("warning", "a file is not a snapshot", path=str(file.path), reason=file.reason)
            yield reader

    def _measured(self, reader: HistoryReader, metric: str) -> list[tuple[IndexedRun, dict[str, float]]]:
        """Return the runs that have a metric, and its values by flat key.

        Raises:
            UnknownMetricError: If no run has the metric.
        """
        known = reader.known_keys()
        keys = find_keys(metric, known) if isinstance(metric, str) else []
        found = list(reader.measurements(keys))
        if keys and not found:
            raise UnknownMetricError(
                f"no metric {safe_repr(metric)} in {self._described(reader)}: other runs have it"
            )
        if not found:
            names = {parse_flat_key(key).name for key in known} | known
            raise UnknownMetricError(
                f"no metric {safe_repr(metric)} in {self._described(reader)}.{nearest(str(metric), names)}"
            )
        return found

    def _described(self, reader: HistoryReader) -> str:
        sources = " and ".join(repr(str(index.source)) for index in self._indexes)
        number = len(reader.rows)
        selected = "" if self._filter == RunFilter() else "selected "
        return f"the {number} {selected}{'run' if number == 1 else 'runs'} of {sources}"

    def _now(self) -> int:
        return self._clock.time_ns() // 1_000

    def _window_start(self, time_window: timedelta | None) -> int | None:
        if time_window is None:
            return None
        return self._now() - check_duration("time_window", time_window) // timedelta(microseconds=1)


def _path(source: object) -> Path:
    if not isinstance(source, str | os.PathLike) or not os.fspath(source):
        raise InvalidInputError(f"source {safe_repr(source)} is not a path: pass a folder or a file")
    return Path(source)


def _metric_value(key: str, points: Sequence[_Point], tags: dict[str, str], now: int) -> MetricValue:
    one = parse_flat_key(key)
    moment, value = points[-1]
    metadata: dict[str, Any] = {**_summary(points, value, now), "key": key}
    if one.statistic is not None:
        metadata["statistic"] = one.statistic
    if one.operation:
        metadata["operation"] = True
    return MetricValue(one.name, value, MetricType.GAUGE, one.unit, timestamp_of(moment), tags, metadata)


def _summary(
    points: Sequence[_Point], last: float | None, now: int, start: int | None = None
) -> dict[str, float]:
    """Summarize values in the order of their runs.

    Args:
        points: All values, at least one.
        last: The value of the newest run, if it has one value only.
        now: The current time, in microseconds since 1970.
        start: The start of the window, likewise; ``None`` for the oldest value.
    """
    moments = [moment for moment, _ in points]
    begin = min(moments) if start is None else start
    # The latest run may be later than now, if the clocks of two machines differ.
    summary: dict[str, float] = {"count": 0, "seconds": max(now - begin, max(moments) - begin) / 1e6}
    if last is not None:
        summary["last"] = last
    values = sorted(value for moment, value in points if moment >= begin)
    if not values:
        return summary
    number = len(values)
    # Rounding may put the mean of equal values beyond them.
    average = min(max(_mean(values), values[0]), values[-1])
    summary |= {
        "count": number,
        "avg": average,
        "min": values[0],
        "max": values[-1],
        # hypot, because squares overflow long before the values do
        "stddev": math.hypot(*[(value - average) / math.sqrt(number) for value in values]),
    }
    return summary | {name: values[-(-number * share // 100) - 1] for name, share in QUANTILES.items()}


def _mean(values: Sequence[float]) -> float:
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # the sum exceeds the largest float, but the mean never does
        return math.fsum(value / len(values) for value in values)


# -- reading the indexes -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFilter:
    """The conditions that selected runs match; ``None`` matches every run.

    Attributes:
        branch: The branch.
        commit: The commit, or the head of its pull request; seven digits or more are enough.
        environment: The environment.
        tags: Tags that the metadata has.
        last: At most this many of the matching runs, the newest.
    """

    branch: str | None = None
    commit: str | None = None
    environment: Environment | None = None
    tags: dict[str, str] = field(default_factory=dict)
    last: int | None = None

    @property
    def is_restrictive(self) -> bool:
        """Whether it may reject a run by its context."""
        return bool(self.tags) or (self.branch, self.commit, self.environment) != (None, None, None)

    def matches(self, context: str) -> bool:
        """Return whether a run matches, by its context in the index."""
        _, commit, branch, environment, tags = json.loads(context)
        return (
            self.branch in (None, branch)
            and self.environment in (None, environment)
            and (
                self.commit is None
                or _is_commit(self.commit, commit)
                or _is_commit(self.commit, tags.get(HEAD_COMMIT_TAG))
            )
            and self.tags.items() <= tags.items()
        )


class IndexedRun(NamedTuple):
    """A run in an index. Runs sort by date and time, then by the order of their sources and files.

    Attributes:
        date: The date of its commit, or else the time of the run, in microseconds since 1970.
        moment: The time of the run, likewise.
        source: The position of its source among the sources.
        length: The length of the file's name: the writer numbers equal names, so 10 sorts after 9.
        name: The file's name, as the index stores it.
        line: The line in the file, from 1; 0 for the only snapshot of a file.
        id: Its id in the index of its source.
        digest: Equal for the same run in several files. Empty for a run without an id.
        context: The context that `RunFilter.matches` reads.
    """

    date: int
    moment: int
    source: int
    length: int
    name: bytes
    line: int
    id: int
    digest: bytes
    context: str


class HistoryReader:
    """Reads the selected runs from open indexes."""

    def __init__(
        self,
        indexes: Sequence[SourceIndex],
        connections: Sequence[sqlite3.Connection],
        run_filter: RunFilter,
    ) -> None:
        self._indexes = indexes
        self._connections = connections
        # A snapshot in several files, such as a copied baseline, is one run.
        first: dict[object, IndexedRun] = {}
        for row in sorted(self._matching(run_filter)):
            first.setdefault(row.digest or (row.source, row.id), row)
        self.rows = list(first.values())
        if run_filter.last is not None:
            self.rows = self.rows[-run_filter.last :]

    def known_keys(self) -> set[str]:
        """Return the flat keys of all measurements, including those of runs that are not selected."""
        return {
            decode_key(key)
            for connection in self._connections
            for (key,) in connection.execute("SELECT key FROM keys")
        }

    def measurements(
        self, keys: Iterable[str] | None = None
    ) -> Iterator[tuple[IndexedRun, dict[str, float]]]:
        """Yield the runs that have at least one of the measurements, oldest first, with those they have.

        Args:
            keys: Flat keys; all by default.
        """
        found: list[defaultdict[int, dict[str, float]]] = []
        for source, connection in enumerate(self._connections):
            of_source: defaultdict[int, dict[str, float]] = defaultdict(dict)
            for key, run, value in _measurements(connection, keys, self._condition(source)):
                of_source[run][key] = value
            found.append(of_source)
        for row in self.rows:
            if row.id in found[row.source]:
                yield row, found[row.source][row.id]

    def tags(self, row: IndexedRun) -> dict[str, str]:
        """Return the tags of a run."""
        tags: dict[str, str] = json.loads(row.context)[-1]
        return tags

    def run(self, row: IndexedRun) -> Run:
        """Return the context of a run."""
        run_id, commit, branch, environment, tags = json.loads(row.context)
        path = self._indexes[row.source].folder / os.fsdecode(row.name)
        moment = timestamp_of(row.moment)
        return Run(run_id, moment, commit, branch, Environment(environment), tags, path, row.line or None)

    def left_out(self) -> list[LeftOutFile]:
        """Return the files that are not snapshots, each with the reason."""
        found: dict[Path, str] = {}
        for index, connection in zip(self._indexes, self._connections, strict=True):
            problems = connection.execute("SELECT name, problem FROM files WHERE problem IS NOT NULL")
            found |= {index.folder / os.fsdecode(name): problem for name, problem in problems}
            found |= {index.folder / name: problem for name, problem in index.unread.items()}
        return [LeftOutFile(path, reason) for path, reason in sorted(found.items())]

    def _condition(self, source: int) -> str:
        """Return a condition that selects the runs of a source, if they are few."""
        if len(self.rows) > _MAX_LISTED_RUNS:
            return ""
        return f"AND run IN ({','.join(str(row.id) for row in self.rows if row.source == source)})"

    def _matching(self, run_filter: RunFilter) -> Iterator[IndexedRun]:
        for source, connection in enumerate(self._connections):
            rows = map(IndexedRun._make, connection.execute(_SELECT_RUNS, [source]))
            if run_filter.is_restrictive:
                yield from (row for row in rows if run_filter.matches(row.context))
            else:
                yield from rows


@contextmanager
def _open_history(indexes: Sequence[SourceIndex], run_filter: RunFilter) -> Iterator[HistoryReader]:
    """Bring the indexes up to date, and read the selected runs.

    Raises:
        OutputError: If a source cannot be listed.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(index.connected()) for index in indexes]
        yield HistoryReader(indexes, connections, run_filter)


def _measurements(
    connection: sqlite3.Connection, keys: Iterable[str] | None, condition: str
) -> Iterator[tuple[str, int, float]]:
    wanted = None if keys is None else {encode_key(key) for key in keys}
    statement = f"SELECT run, value FROM measurements WHERE key = ? {condition}"  # noqa: S608 - only integers
    for number, key in connection.execute("SELECT id, key FROM keys").fetchall():
        if wanted is None or key in wanted:
            name = decode_key(key)
            for run, value in connection.execute(statement, [number]):
                yield name, run, value


def _is_commit(wanted: str, commit: str | None) -> bool:
    if commit is None or not _ABBREVIATED_COMMIT.fullmatch(wanted):
        return commit == wanted
    return commit.startswith(wanted)
