"""``metrics-framework run --against``: measures two versions by turns in one job, and prints the verdicts."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import click

from metrics_framework.batch.progress import Progress
from metrics_framework.cli import compare_formats
from metrics_framework.cli.compared_runs import ComparedSides
from metrics_framework.cli.measure import (
    Benchmark,
    CommandMeasurement,
    CommandRunner,
    make_run_progress,
    make_runner,
    measure,
)
from metrics_framework.cli.output import EXIT_INTERRUPTED
from metrics_framework.cli.snapshots import save
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import PerformanceSnapshot
from metrics_framework.snapshots.compare import (
    MIN_INTERIM_PAIRS,
    ComparedRun,
    Comparison,
    Verdict,
    compare,
)
from metrics_framework.snapshots.distributions import SIDECAR_SUFFIX
from metrics_framework.snapshots.formatting import format_count, format_number
from metrics_framework.snapshots.provenance import PAIR_TAG, SIDE_TAG, Provenance, find_job, find_provenance

OWN_TAGS = (PAIR_TAG, SIDE_TAG)
BASELINE, CURRENT = "baseline", "current"


@dataclass(frozen=True)
class Side:
    """One of the two versions.

    Attributes:
        name: ``baseline`` or ``current``.
        benchmark: Its command.
        folder: The folder for its snapshots.
        provenance: Its commit and branch.
    """

    name: str
    benchmark: Benchmark
    folder: Path
    provenance: Provenance


@dataclass(frozen=True)
class AgainstPlan:
    """A measurement of two versions by turns.

    Attributes:
        baseline: The earlier version.
        current: The later one.
        pairs: The number of pairs. A pair has one block of runs of each version.
        runs: The measured runs of a block.
        warmup: The runs before them.
        environment: The environment of the snapshots; detected by default.
        tags: Their tags.
    """

    baseline: Side
    current: Side
    pairs: int
    runs: int
    warmup: int
    environment: str | None
    tags: Mapping[str, str]

    @property
    def interim_pairs(self) -> int | None:
        """After how many pairs the verdicts are looked at before the end."""
        return self.pairs // 2 if self.pairs >= MIN_INTERIM_PAIRS else None


def find_provenances(
    commit: str | None, branch: str | None, against_commit: str | None
) -> tuple[Provenance, Provenance]:
    """Return the provenance of the baseline and of the current version.

    Without ``against_commit``, the commit of the baseline is unknown: HEAD is that of the current version.
    """
    current = find_provenance(commit=commit, branch=branch)
    if against_commit is None:
        return replace(current, commit=None, branch=None, commit_date=None, head_commit=None), current
    return find_provenance(commit=against_commit), current


def new_job() -> str:
    """Return the job of the runs of this process. They share a machine, even if its boot is unknown."""
    return find_job() or uuid.uuid4().hex[:16]


def run_against(plan: AgainstPlan) -> int:
    """Measure, write the snapshots, print the comparison, and return the exit code.

    A Ctrl-C ends the measurement. The finished pairs are compared.

    Raises:
        InvalidInputError: If a command cannot be started, its preparation fails, or its output cannot be
            written.
    """
    turns = _Turns(plan)
    try:
        turns.run()
    except KeyboardInterrupt:
        turns.ending = "interrupted"
    finally:
        turns.progress.stop()
    if turns.ending:
        click.echo(f"{turns.ending} after {turns.done} of {format_count(plan.pairs, 'pair')}", err=True)
    try:
        comparison = turns.compare() if turns.done else None
        if comparison is not None:
            compare_formats.write(comparison, turns.sides, "table", None)
            click.echo(
                f"{format_count(turns.done, 'pair')} of snapshots in {plan.baseline.folder} and"
                f" {plan.current.folder}"
            )
        turns.report_failures()
    except KeyboardInterrupt:  # a second time
        return EXIT_INTERRUPTED
    if turns.ending == "interrupted":
        return EXIT_INTERRUPTED
    is_regression = comparison is not None and comparison.verdict is Verdict.REGRESSION
    return 1 if is_regression or turns.has_failed else 0


class _Block(NamedTuple):
    """The snapshot of a block, and the distributions of its sidecar."""

    side: Side
    snapshot: PerformanceSnapshot
    distributions: Mapping[str, Distribution]


class _Turns:
    """The pairs of a plan, measured one after the other.

    Attributes:
        progress: The progress of all pairs.
        ending: Why the measurement ended before its last pair, or an empty text.
        has_failed: Whether a run failed, or a snapshot could not be written.
    """

    def __init__(self, plan: AgainstPlan) -> None:
        self.plan = plan
        self.ending = ""
        self.has_failed = False
        self._runs: dict[str, list[ComparedRun]] = {BASELINE: [], CURRENT: []}
        self._finished_runs = {BASELINE: 0, CURRENT: 0}
        self._failures = {BASELINE: 0, CURRENT: 0}
        self._runner: CommandRunner = make_runner()
        # Without warm-up runs, each command runs once before the first block. A command that cannot be
        # started is found before the other is measured, and the first block is as warm as the others.
        self._first_runs = 1 if plan.warmup == 0 else 0
        self._block_runs = plan.warmup + plan.runs
        total = 2 * (self._first_runs + plan.pairs * self._block_runs)
        benchmark = plan.current.benchmark
        self.progress = make_run_progress(benchmark.name, total, benchmark.output_to)
        self._done_runs = self._shown_errors = 0

    @property
    def done(self) -> int:
        """The number of finished pairs."""
        return len(self._runs[CURRENT])

    def run(self) -> None:
        """Measure the pairs, until the verdicts are clear or the command always fails."""
        plan = self.plan
        if self._first_runs:
            for side in (plan.baseline, plan.current):
                self._measure(side, f"{side.name}, before the first pair", runs=0, warmup=self._first_runs)
        for number in range(1, plan.pairs + 1):
            # By turns, so that what changes evenly over time affects both versions alike.
            order = (plan.baseline, plan.current) if number % 2 else (plan.current, plan.baseline)
            blocks = []
            for side in order:
                block = self._measure_block(side, number)
                if block is None:
                    return
                blocks.append(block)
            if not self._save(blocks):
                self.has_failed, self.ending = True, "stopped"
                return
            if number == plan.interim_pairs and _is_settled(self.compare()):
                self.ending = "the verdict is clear"
                return

    @property
    def sides(self) -> ComparedSides:
        """The runs of the finished pairs."""
        return ComparedSides(self._runs[BASELINE], self._runs[CURRENT])

    def compare(self) -> Comparison:
        """Compare the finished pairs."""
        return compare(self._runs[BASELINE], self._runs[CURRENT])

    def report_failures(self) -> None:
        """Print how many runs failed."""
        for name, failures in self._failures.items():
            if failures:
                runs = format_count(self._finished_runs[name], "run")
                text = f"{format_number(failures)} of {runs} of the {name} command failed"
                then = "and their times are compared too" if self.done else "so nothing is compared"
                click.echo(f"Error: {text}, {then}", err=True)

    def _measure_block(self, side: Side, number: int) -> _Block | None:
        """Measure a block. Returns ``None`` if every run failed, which ends the measurement."""
        plan = self.plan
        label = f"{side.name}, pair {number}"
        measurement = self._measure(side, label, runs=plan.runs, warmup=plan.warmup)
        snapshot, report = measurement.system.build_snapshot(
            environment=plan.environment,
            tags={**plan.tags, PAIR_TAG: f"{number}/{plan.pairs}", SIDE_TAG: side.name},
            provenance=side.provenance,
        )
        if measurement.failures == measurement.runs:
            self.ending = f"stopped, because every run of {label} failed,"
            return None
        return _Block(side, snapshot, report.distributions)

    def _measure(self, side: Side, label: str, *, runs: int, warmup: int) -> CommandMeasurement:
        measurement = measure(
            side.benchmark,
            runs=runs,
            warmup=warmup,
            runner=self._runner,
            progress=_PartProgress(self.progress, label, self._done_runs, self._shown_errors),
            label=label,
        )
        self._runner = measurement.runner
        self._done_runs += runs + warmup
        self._finished_runs[side.name] += measurement.runs
        self._failures[side.name] += measurement.failures
        self._shown_errors += measurement.failures
        self.has_failed = self.has_failed or measurement.failures > 0
        if measurement.interrupted:
            raise KeyboardInterrupt
        return measurement

    def _save(self, blocks: list[_Block]) -> bool:
        """Write the snapshots of a pair, both or none, and keep them. Returns whether they were written."""
        with _held_signals():  # one version without the other is not a pair
            saved = [save(block.snapshot, block.side.folder, block.distributions) for block in blocks]
            failed = [one for one in saved if one.error is not None]
            if failed:
                for one in saved:
                    if one.path is not None:
                        one.path.unlink(missing_ok=True)
                        one.path.with_suffix(SIDECAR_SUFFIX).unlink(missing_ok=True)
                click.echo(f"Error: {failed[0].error}", err=True)
                return False
            for block in blocks:
                self._runs[block.side.name].append(ComparedRun.of(block.snapshot, block.distributions))
        return True


def _is_settled(comparison: Comparison) -> bool:
    """Return whether the measurement may end: with a regression, or if no primary metric is inconclusive."""
    found = {metric.verdict for metric in comparison.primary}
    return Verdict.REGRESSION in found or Verdict.INCONCLUSIVE not in found


class _PartProgress:
    """Shows the progress of a part in that of the whole."""

    def __init__(self, whole: Progress, label: str, done: int, errors: int) -> None:
        self._whole, self._label, self._done, self._errors = whole, label, done, errors

    def update(self, done: int, errors: int, note: str = "") -> None:
        """Show the runs of this part and of those before it."""
        self._whole.update(self._done + done, self._errors + errors, f"{self._label}, {note}")

    def print(self, line: str, style: str = "") -> None:
        """Print a line."""
        self._whole.print(line, style)

    def stop(self) -> None:
        """Do nothing: the whole is not done."""


@contextmanager
def _held_signals() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM at the end of the block.

    Blocking them would not suffice, because another thread may receive them.
    """
    received: list[int] = []
    handlers: dict[int, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.getsignal(number)
            signal.signal(number, lambda number, _: received.append(number))
        yield
    finally:
        for held, handler in handlers.items():
            signal.signal(held, handler)
    for one in received:
        signal.raise_signal(one)
