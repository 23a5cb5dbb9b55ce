"""The runs that ``compare`` reads: from files and folders or from a history, with their sidecars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from metrics_framework.cli.history import OpenHistory, open_history
from metrics_framework.cli.output import escape_control
from metrics_framework.errors import OutputError, SnapshotError, nearest
from metrics_framework.snapshots import PerformanceSnapshot, Run
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.compare import ComparedRun
from metrics_framework.snapshots.distributions import SIDECAR_SUFFIX
from metrics_framework.snapshots.files import MeasuredRun, parse_document, read_content
from metrics_framework.snapshots.provenance import JOB_TAG
from metrics_framework.snapshots.samples import with_samples

_MAX_NAMED = 3


@dataclass
class ComparedSides:
    """Both sides of a comparison.

    Attributes:
        baseline: The runs of the earlier version.
        current: The runs of the later one.
        notes: Why a side has no runs.
        is_first_job: Whether the history has no runs of other jobs yet, of any branch.
    """

    baseline: list[ComparedRun] = field(default_factory=list)
    current: list[ComparedRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    is_first_job: bool = False

    @property
    def are_complete(self) -> bool:
        """Whether both sides have runs."""
        return bool(self.baseline and self.current)


def read_sides(base: Sequence[Path], current: Sequence[Path]) -> ComparedSides:
    """Read both sides from files and folders.

    A current run that is in a folder or a file of lines of the baseline is left out there. A snapshot that is
    named on both sides is compared with itself.

    Raises:
        UsageError: If a path cannot be read.
    """
    after = _read_paths(current)
    before = _read_paths(base, {_identity(run) for run, _ in after})
    sides = _with_samples(before, after)
    for name, paths, runs in (("baseline", base, before), ("current", current, after)):
        if not runs:
            listed = ", ".join(repr(str(path)) for path in paths)
            others = " other than the current runs" if name == "baseline" and after else ""
            hint = _nested_hint(paths) if not others else ""
            sides.notes.append(f"no snapshot{others} in {listed}{hint}, so there are no {name} runs")
    return sides


def read_history(source: Path, branch: str | None, last: int, current: Sequence[Path]) -> ComparedSides:
    """Read the current runs, and as the baseline the newest jobs of a history.

    The baseline has neither the current runs themselves nor other runs of their jobs.

    Args:
        source: A folder, or a file with one snapshot per line.
        branch: The branch of the baseline; ``None`` for all.
        last: The number of jobs.
        current: The files and folders of the current runs.

    Raises:
        UsageError: If a path cannot be read.
    """
    after = _read_paths(current)
    if not after:
        listed = ", ".join(repr(str(path)) for path in current)
        return ComparedSides(notes=[f"no snapshot in {listed}{_nested_hint(current)}"])
    runs = [run for run, _ in after]
    try:
        history = open_history(source)
        before = _select_jobs(history.where(branch=branch), last, runs)
        sides = _with_samples(before, after)
        if not before:
            every = history.runs()
            sides.is_first_job = not _without_jobs_of(runs, every)
            sides.notes.append(_reason_for_none(source, branch, every))
    except OutputError as error:
        raise click.UsageError(f"{error}; pass another --history") from error
    return sides


def _nested_hint(paths: Iterable[Path]) -> str:
    """Return the folders with snapshots below folders without, such as those of `run --against`."""
    below = {one.parent for path in paths if path.is_dir() for one in path.glob("*/*.json")}
    if not below:
        return ""
    return f" itself; pass {' or '.join(repr(str(one)) for one in sorted(below)[:_MAX_NAMED])}"


# -- the history -------------------------------------------------------------------------------------------


def _without_jobs_of(current: Sequence[Run], runs: Sequence[Run]) -> list[tuple[int, Run]]:
    """Return the runs, with their positions, that are neither current runs nor of their jobs."""
    own_ids = {run.run_id for run in current if run.run_id is not None}
    own_jobs = {run.tags[JOB_TAG] for run in current if JOB_TAG in run.tags}
    own_files = {(run.path.resolve(), run.line) for run in current if run.run_id is None}
    return [
        (position, run)
        for position, run in enumerate(runs)
        if run.run_id not in own_ids
        and run.tags.get(JOB_TAG) not in own_jobs
        and not (own_files and (run.path.resolve(), run.line) in own_files)
    ]


def _select_jobs(history: OpenHistory, last: int, current: Sequence[Run]) -> list[MeasuredRun]:
    """Return the runs of the newest jobs."""
    runs = history.runs()
    others = _without_jobs_of(current, runs)
    # Jobs that measured something else do not count.
    names = {run.tags.get(LATENCY_TAG) for run in current}
    others = [(position, run) for position, run in others if run.tags.get(LATENCY_TAG) in names] or others
    jobs: set[object] = set()
    chosen: list[tuple[int, Run]] = []
    for position, run in reversed(others):
        job = run.tags.get(JOB_TAG, position)
        if job in jobs or len(jobs) < last:
            jobs.add(job)
            chosen.append((position, run))
    if not chosen:
        return []
    # Only the newest runs are read in full, down to the oldest one of the selected jobs.
    measured = history.where(last=len(runs) - chosen[-1][0]).measurements()
    wanted = {(run.path, run.line) for _, run in chosen}
    return [(run, values) for run, values in measured if (run.path, run.line) in wanted]


def _reason_for_none(source: Path, branch: str | None, runs: Sequence[Run]) -> str:
    if not runs:
        return f"the history has no runs in {str(source)!r} yet"
    where = f"of branch {branch!r} in {str(source)!r}" if branch is not None else f"in {str(source)!r}"
    number = sum(branch is None or run.branch == branch for run in runs)
    if not number:
        branches = {run.branch for run in runs if run.branch is not None}
        return f"the history has no runs {where}.{nearest(branch or '', branches)}".removesuffix(".")
    return (
        f"all runs {where} ({number:,}) are current runs or of their jobs; outside CI, all runs since a boot"
        " are one job, so name the files: BASE -- CURRENT"
    )


# -- files -------------------------------------------------------------------------------------------------


def _read_paths(paths: Sequence[Path], other_side: Iterable[object] = ()) -> list[MeasuredRun]:
    """Read all snapshots of one side. A run that several files hold is read once.

    Args:
        paths: Files and folders.
        other_side: The identities of runs to leave out of folders and files of lines.
    """
    found: dict[object, MeasuredRun] = {}
    for path in paths:
        if path.is_dir() or path.suffix == ".jsonl":
            left_out = set(other_side)
            for run, values in _read_many(path):
                if _identity(run) not in left_out:
                    found.setdefault(_identity(run), (run, values))
        else:
            one = _read_one(path)
            found.setdefault(_identity(one[0]), one)
    return list(found.values())


def _identity(run: Run) -> object:
    return (run.path, run.line) if run.run_id is None else (run.run_id, run.timestamp)


def _read_many(source: Path) -> list[tuple[Run, dict[str, float]]]:
    history = open_history(source)
    try:
        for file in history.left_out():
            _warn(f"{file.path} is skipped: {file.reason}")
        return history.measurements()
    except OutputError as error:
        raise click.UsageError(str(error)) from error


def _read_one(path: Path) -> MeasuredRun:
    if path.suffix == SIDECAR_SUFFIX:
        raise click.UsageError(
            f"{str(path)!r} is the sidecar of a snapshot: pass {str(path.with_suffix('.json'))!r}"
        )
    try:
        document = parse_document(read_content(path))
        one = ComparedRun.of(PerformanceSnapshot.from_dict(document), path=path)
    except SnapshotError as error:
        faults = "; ".join(error.violations)
        raise click.UsageError(f"{str(path)!r} is not a valid snapshot: {escape_control(faults)}") from error
    except OutputError as error:
        raise click.UsageError(str(error)) from error
    # A snapshot without an id gets a new one at each reading.
    has_id = "run_id" in document.get("metadata", {})
    return (one.run if has_id else replace(one.run, run_id=None)), one.values


def _with_samples(before: Sequence[MeasuredRun], after: Sequence[MeasuredRun]) -> ComparedSides:
    """Read the sidecars of runs. A run whose sidecar cannot be read is compared without its samples."""
    faults: list[str] = []
    baseline, current = with_samples(before, faults), with_samples(after, faults)
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        runs = "1 run is" if len(faults) == 1 else f"{len(faults):,} runs are"
        _warn(f"{runs} compared without samples: {faults[0]}{more}")
    return ComparedSides(baseline, current)


def _warn(text: str) -> None:
    click.echo(escape_control(f"Warning: {text}"), err=True)
