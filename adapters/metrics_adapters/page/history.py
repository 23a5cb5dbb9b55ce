"""The history of the live page: the newest runs of a folder of snapshots, and the comparison of two of them.

Names, tags and notes come from files. In the documents they are plain text, cut and without control and
bidirectional characters, and numbers are finite.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metrics_adapters.snapshot_writer import SnapshotAggregator
from metrics_framework.errors import InvalidInputError
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork
from metrics_framework.runtime.plain_text import plain
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG
from metrics_framework.snapshots.files import MeasuredRun, Run
from metrics_framework.snapshots.formatting import format_count
from metrics_framework.snapshots.keys import CUSTOM_PREFIX, SUCCESS_RATE, custom_key, parse_flat_key
from metrics_framework.snapshots.provenance import COMMIT_DATE_TAG, HEAD_COMMIT_TAG, JOB_TAG, PAIR_TAG

if TYPE_CHECKING:
    from metrics_framework.snapshots.compare import ComparedRun, MetricComparison

MAX_RUNS = 500
"""The number of runs in a document, the newest."""

MAX_METRICS = 60
"""The number of metrics in a document, those that most runs have."""

MAX_SIDE_RUNS = 100
"""The number of runs on a side of a comparison, the newest."""

MAX_ROWS = 200
"""The number of metrics in a comparison: those that decide, then those that changed, then the others."""

_MAX_TAGS = 20
_MAX_TAG_CHARACTERS = 80
_MAX_KEY_CHARACTERS = 200
_MAX_NOTE_CHARACTERS = 300
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_OF_ONE_RUN = frozenset({JOB_TAG, PAIR_TAG, DISTRIBUTIONS_TAG, COMMIT_DATE_TAG, HEAD_COMMIT_TAG})
_VERDICT_ORDER = ("regression", "improvement", "changed", "inconclusive", "no change")


class SnapshotHistory:
    """The newest runs of a folder of snapshots, as documents for a page.

    It reads only files that are new or have changed, because the index of
    `metrics_adapters.snapshot_writer.SnapshotAggregator` has the others. Thread-safe.

    Args:
        folder: The folder, which need not exist yet; see `SnapshotAggregator`.

    Raises:
        InvalidInputError: If it is not a path.
    """

    def __init__(self, folder: str | Path) -> None:
        self._history = SnapshotAggregator(folder)
        self._folder = plain(Path(folder).resolve().name)
        self._latest: tuple[bytes, dict[str, Any]] | None = None
        self._reset_lock()
        reset_after_fork(self, SnapshotHistory._reset_lock, ForkOrder.LOCKS)

    def _reset_lock(self) -> None:
        self._lock = threading.Lock()

    def runs(self) -> dict[str, Any]:
        """Return the newest 500 runs, newest first. Do not change the result.

        Returns:
            A document with these keys. ``runs``: each with ``run_id``, ``timestamp`` (ISO 8601), ``date`` (of
            its commit, or else the timestamp), ``commit``, ``branch``, ``environment``, ``tags`` and
            ``metrics``, numbers by flat key without ``custom.``. The success rate of the operation whose
            durations are the latency is named ``success_rate``. ``folder``: the name of the folder.
            ``has_more``: whether there are older runs. ``metrics_left_out``: how many rare metrics are not
            in it. ``unreadable``: how many files are not valid snapshots. A run whose id is missing or not
            plain has a hash in its place. Of different runs with one id, the newest is listed.

        Raises:
            OutputError: If the folder cannot be listed.
        """
        with self._lock:  # a second client waits instead of reading the same files
            state = self._history.state_of_files()
            if self._latest is None or self._latest[0] != state:
                document = self._document()
                if state is None:
                    return document
                self._latest = state, document
            return self._latest[1]

    def compare(self, baseline: str, current: str) -> dict[str, Any]:
        """Compare the versions that two runs measured, with the rules of ``metrics-framework compare``.

        A run represents its version, because one run does not tell how much runs differ: a side is all listed
        runs that have the commit, the environment and the tags of the chosen one, in any job. If both runs
        are of one version, their jobs are compared, and if they are of one job, the two runs alone. Without a
        commit, nothing tells which runs measured the same, so a side is the run alone, or all of its pairs if
        two versions were measured by turns.

        Args:
            baseline: The ``run_id`` of the earlier run, as in `runs`.
            current: That of the later run.

        Returns:
            A document with these keys. ``baseline`` and ``current``: the chosen runs. ``baseline_runs``,
            ``baseline_jobs``, ``current_runs`` and ``current_jobs``: the number of compared ones.
            ``conclusion``: a sentence. ``verdict``: of the metrics that decide. ``notes``: the compared runs,
            and limits of the verdict. ``rows``: each metric with ``metric``, ``unit``, ``is_primary``,
            ``baseline``, ``current``, ``change_percent``, ``interval_percent``, ``verdict`` and ``note``; a
            number that is not known is ``None``. ``rows_left_out``: the number of metrics beyond 200.

        Raises:
            InvalidInputError: If there is no such run.
            MissingExtraError: If numpy and scipy are not installed.
            OutputError: If the folder cannot be listed.
        """
        # Slow to import, and they need the extra `compare`.
        from metrics_framework.report.page import headline
        from metrics_framework.snapshots.compare import compare, number_of_jobs
        from metrics_framework.snapshots.samples import with_samples

        by_id = self._newest()[0]
        for run_id in (baseline, current):
            if run_id not in by_id:
                raise InvalidInputError(
                    f"no run {plain(run_id)!r} among the newest {MAX_RUNS} runs of {self._folder!r}: pass the"
                    " run_id of a listed run"
                )
        chosen = by_id[baseline], by_id[current]
        before, after = _sides(list(by_id.values()), chosen[0][0], chosen[1][0])
        faults: list[str] = []
        sides = with_samples(before, faults), with_samples(after, faults)
        found = compare(*sides)
        notes = [_description(sides[0], "baseline"), _description(sides[1], "current version")]
        if faults:
            notes.append(f"{format_count(len(faults), 'run')} without samples: a sidecar cannot be read")
        metrics = sorted(
            found.metrics, key=lambda one: (not one.is_primary, _VERDICT_ORDER.index(one.verdict))
        )
        return {
            "baseline": _run(chosen[0], set(list(chosen[0][1])[:MAX_METRICS])),
            "current": _run(chosen[1], set(list(chosen[1][1])[:MAX_METRICS])),
            "baseline_runs": len(before),
            "current_runs": len(after),
            "baseline_jobs": number_of_jobs(sides[0]),
            "current_jobs": number_of_jobs(sides[1]),
            "verdict": found.verdict.value,
            "conclusion": plain(headline(found), _MAX_NOTE_CHARACTERS),
            "notes": [plain(note, _MAX_NOTE_CHARACTERS) for note in (*notes, *found.notes)],
            "rows": [_row(metric) for metric in metrics[:MAX_ROWS]],
            "rows_left_out": max(len(metrics) - MAX_ROWS, 0),
        }

    # -- reading ---------------------------------------------------------------------------------------

    def _newest(self) -> tuple[dict[str, MeasuredRun], bool]:
        """Return the newest runs by their id, oldest first, and whether there are more."""
        measured = self._history.where(last=MAX_RUNS + 1).measurements()
        by_id: dict[str, MeasuredRun] = {}
        for one in measured[-MAX_RUNS:]:
            name = _id(one[0])
            by_id.pop(name, None)  # the newest of different runs with one id, at its own place
            by_id[name] = one
        return by_id, len(measured) > MAX_RUNS

    def _document(self) -> dict[str, Any]:
        by_id, has_more = self._newest()
        counts = Counter(key for _, values in by_id.values() for key in values)
        ranked = sorted(counts, key=lambda key: (key.startswith(CUSTOM_PREFIX), -counts[key], key))
        keys = set(ranked[:MAX_METRICS])
        return {
            "runs": [_run(one, keys) for one in reversed(by_id.values())],
            "folder": self._folder,
            "has_more": has_more,
            "metrics_left_out": len(ranked) - len(keys),
            "unreadable": len(self._history.left_out()),
        }


def _id(run: Run) -> str:
    """Return the id of a run in documents and URLs."""
    if run.run_id is not None and _PLAIN_ID.fullmatch(run.run_id):
        return run.run_id
    text = f"{run.path.name}:{run.line}" if run.run_id is None else run.run_id
    return f"run-{sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()[:16]}"


def _run(measured: MeasuredRun, keys: set[str]) -> dict[str, Any]:
    run, values = measured
    operation = run.tags.get(LATENCY_TAG)
    rate = None
    if operation is not None:
        rate = CUSTOM_PREFIX + custom_key(operation, statistic=SUCCESS_RATE, operation=True)
    shown = [key for key in values if key in keys or key == rate]
    tags = sorted(run.tags.items())[:_MAX_TAGS]
    return {
        "run_id": _id(run),
        "timestamp": run.timestamp.isoformat(),
        "date": run.date.isoformat(),
        "commit": None if run.commit is None else plain(run.commit),
        "branch": None if run.branch is None else plain(run.branch),
        "environment": run.environment.value,
        "tags": {plain(key, _MAX_TAG_CHARACTERS): plain(value, _MAX_TAG_CHARACTERS) for key, value in tags},
        "metrics": {SUCCESS_RATE if key == rate else _label(key): values[key] for key in shown},
    }


def _label(key: str) -> str:
    return plain(key.removeprefix(CUSTOM_PREFIX), _MAX_KEY_CHARACTERS)


# -- the sides of a comparison -----------------------------------------------------------------------------


def _sides(
    runs: Sequence[MeasuredRun], baseline: Run, current: Run
) -> tuple[list[MeasuredRun], list[MeasuredRun]]:
    """Return the runs of the versions of two runs, or of their jobs, or the two runs: what differs first."""
    kinds: tuple[Callable[[Run], Hashable], ...] = (_version, _job, _itself)
    same = next((kind for kind in kinds if kind(baseline) != kind(current)), _itself)
    before, after = (
        [one for one in runs if same(one[0]) == same(chosen)][-MAX_SIDE_RUNS:]
        for chosen in (baseline, current)
    )
    return before, after


def _version(run: Run) -> Hashable:
    if run.commit is None and (PAIR_TAG not in run.tags or JOB_TAG not in run.tags):
        return _itself(run)
    tags = frozenset((key, value) for key, value in run.tags.items() if key not in _OF_ONE_RUN)
    # Without a commit, only the job tells that the pairs are of one measurement.
    return run.commit or ("job", run.tags[JOB_TAG]), run.environment, tags


def _job(run: Run) -> Hashable:
    return (_version(run), run.tags[JOB_TAG]) if JOB_TAG in run.tags else _itself(run)


def _itself(run: Run) -> Hashable:
    return run.path, run.line


def _description(runs: Sequence[ComparedRun], side: str) -> str:
    from metrics_framework.snapshots.compare import number_of_jobs

    jobs = format_count(number_of_jobs(runs), "job")
    commits = _unique(one.run.commit for one in runs)
    of_what = f" of commit {plain(commits[0][:12])}" if len(commits) == 1 else ""
    return f"the {side} is {format_count(len(runs), 'run')}{of_what} in {jobs}"


def _unique(values: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(value for value in values if value is not None))


def _row(metric: MetricComparison) -> dict[str, Any]:
    low, high = _percent(metric.low), _percent(metric.high)
    return {
        "metric": _label(metric.key),
        "unit": parse_flat_key(metric.key).unit.value,
        "is_primary": metric.is_primary,
        "baseline": _finite(metric.baseline),
        "current": _finite(metric.current),
        "change_percent": _percent(metric.change),
        "interval_percent": None if low is None or high is None else [low, high],
        "verdict": metric.verdict.value,
        "note": plain("; ".join(metric.notes), _MAX_NOTE_CHARACTERS),
    }


def _percent(share: float | None) -> float | None:
    return None if share is None else _finite(share * 100)


def _finite(number: float | None) -> float | None:
    return number if number is not None and math.isfinite(number) else None
