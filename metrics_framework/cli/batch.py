"""``metrics-framework batch``: runs a command for each of many files, and summarizes such batches."""

from __future__ import annotations

import glob
import os
import re
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from uuid import uuid4

import click
from rich.console import Console

from metrics_framework.batch import BatchMetrics, BatchMetricsSummary
from metrics_framework.batch.pool import Pool, Task, TaskResult
from metrics_framework.batch.progress import make_progress
from metrics_framework.batch.summary import load_summary
from metrics_framework.cli.measure import CommandRunner, describe_exit, make_runner
from metrics_framework.cli.output import EXIT_INTERRUPTED, add_label, label_table, print_failure
from metrics_framework.cli.snapshots import INTERRUPTED_TAG, SaveResult, parse_tags, save, snapshot_options
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.errors import (
    InvalidInputError,
    MetricsError,
    OutputError,
    SnapshotError,
    UnknownNameError,
    nearest,
)
from metrics_framework.runtime.strict_json import to_indented_json
from metrics_framework.snapshots.formatting import format_duration, format_number
from metrics_framework.system import AnySystem, MetricsSystem
from metrics_framework.values import CommandRun

BATCH_TAG = "batch"
"""Metadata tag of a snapshot with the ID of its batch."""

PLACEHOLDER = "{}"
"""Replaced by the file in a command."""

_JOURNAL_SUFFIX = ".jsonl"
_VALID_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_MAX_PRINTED_FAILURES = 10
_MAX_FAILURE_LINES = 3
_MAX_MESSAGE_CHARACTERS = 500
_CANNOT_START = InvalidInputError.__name__


@click.group()
def batch() -> None:
    """Run a command for each of many files."""


class _FilesAndCommand(click.Command):
    """A command line with another command after ``--``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            args, ctx.meta[__name__] = args[:at], args[at + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "--", "COMMAND..."]


_state = click.option(
    "--state",
    default="batches",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the journals, from which an interrupted batch is resumed.",
)
_file = click.Path(dir_okay=False, writable=True, path_type=Path)


@batch.command(cls=_FilesAndCommand)
@click.option("-j", "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Files in parallel.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Seconds after which a command is killed."
)
@click.option("--retries", default=0, show_default=True, type=click.IntRange(0), help="Retries per file.")
@click.option("--id", "batch_id", metavar="ID", help="ID of the batch.  [default: generated]")
@click.option("--resume", is_flag=True, help="Resume the batch of this --id: process the remaining files.")
@click.option("--retry-failed", is_flag=True, help="Resume, and process failed files again.")
@_state
@click.option("--json", "json_file", type=_file, metavar="FILE", help="Write summary and files as JSON.")
@click.option("--csv", "csv_file", type=_file, metavar="FILE", help="Write files as CSV.")
@click.option("--name", help="Name of the command in the snapshot.  [default: the program's name]")
@snapshot_options
@click.argument("globs", metavar="GLOB...", nargs=-1, required=True)
@click.pass_context
def run(
    ctx: click.Context,
    jobs: int,
    timeout: float | None,
    retries: int,
    batch_id: str | None,
    resume: bool,
    retry_failed: bool,
    state: Path,
    json_file: Path | None,
    csv_file: Path | None,
    output: Path,
    name: str | None,
    tags: tuple[str, ...],
    environment: str | None,
    commit: str | None,
    branch: str | None,
    globs: tuple[str, ...],
) -> None:
    """Run COMMAND for every file that matches a GLOB. {} in COMMAND is replaced by the file.

    Records time, peak memory and outcome of each file. If a command fails or times out, the file counts as an
    error and the batch continues. Finished files are kept in a journal, so that an interrupted batch can be
    resumed with --resume. At the end, the command prints a table and writes a snapshot.

    \b
    Exit codes:
      0    every file succeeded
      1    a file failed (all output is still written)
      2    wrong usage, no files, or the command cannot be started
      130  interrupted by Ctrl-C or SIGTERM

    \b
    Example:
      metrics-framework batch run --jobs 4 "src/**/*.py" -- python -m py_compile {}
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    command: list[str] = ctx.meta.get(__name__, [])
    if not command:
        raise click.UsageError(f"missing command: put it after --, for example: -- wc -l {PLACEHOLDER}")
    if not any(PLACEHOLDER in part for part in command):
        raise click.UsageError(f"the command does not contain {PLACEHOLDER}: put it in place of the file")
    context = parse_tags(tags, BATCH_TAG)
    paths = find_files(globs)
    if not paths:
        raise click.UsageError(f"no file matches {' or '.join(map(repr, globs))}")
    name = name or Path(command[0]).name
    file_command = FileCommand(make_runner(), command, timeout, retries)
    system = MetricsSystem(resource_monitor=file_command.runner, latency_metric=name)
    metrics = _open_batch(
        system,
        name,
        state,
        batch_id,
        command,
        resume=resume or retry_failed,
        retry_failed=retry_failed,
    )
    try:
        before = metrics.counts.files
        done = {os.path.realpath(file.filename) for file in metrics.files()}  # perhaps by other paths
        todo = [
            path
            for path in metrics.remaining(paths, name=recorded_name)
            if os.path.realpath(path) not in done
        ]
        finished = _run(metrics, file_command, todo, jobs, name, state)
        errors = _export(metrics, json_file, csv_file)
        context[BATCH_TAG] = metrics.batch_id
        if not finished:
            context[INTERRUPTED_TAG] = "true"
        stats, saved = metrics.summary(), None
        if todo:
            saved = _snapshot(
                system,
                metrics,
                stats,
                output,
                environment=environment,
                tags=context,
                commit=commit,
                branch=branch,
            )
        print_batch(stats)
        for error in errors:
            click.echo(f"Error: {error}", err=True)
        if saved is not None and not saved.report():
            errors.append("no snapshot")
    except KeyboardInterrupt:  # before the first file, after the last one, or a second time
        sys.exit(EXIT_INTERRUPTED)
    finally:
        metrics.close()
    if not finished:
        left = len(todo) - (stats.total_files - before)
        click.echo(
            f"interrupted with {left} of {len(paths)} files left; to resume, run the same command with"
            f" --id {metrics.batch_id} --resume",
            err=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    sys.exit(1 if errors or stats.error_count else 0)


def _run(
    metrics: BatchMetrics, command: FileCommand, paths: list[str], jobs: int, name: str, state: Path
) -> bool:
    """Process the remaining files of a batch. Returns whether it finished without an interruption."""
    if not paths:
        click.echo("no files are left to process", err=True)
        return True
    metrics.start()
    try:
        finished = run_files(metrics, command, paths, jobs, name)
    except InvalidInputError as error:
        _discard_journal(metrics, state)
        raise click.UsageError(str(error)) from error
    metrics.finish()
    return finished


def _snapshot(
    system: AnySystem,
    batch: BatchMetrics,
    stats: BatchMetricsSummary,
    output: Path,
    *,
    environment: str | None,
    tags: dict[str, str],
    commit: str | None,
    branch: str | None,
) -> SaveResult | None:
    """Save a snapshot of all sessions of a batch. CPU usage is that of this session."""
    try:
        snapshot = system.snapshot(environment=environment, tags=tags, commit=commit, branch=branch)
    except SnapshotError:  # no command finished
        return None
    peak = max(
        (file.memory_peak / 1e6 for file in batch.files() if file.memory_peak is not None), default=0.0
    )
    seconds = stats.timing.total_duration
    metrics = replace(
        snapshot.metrics,
        memory_mb=max(peak, snapshot.metrics.memory_mb or 0.0),
        throughput=(stats.total_files - stats.skip_count) / seconds if seconds > 0 else None,
    )
    return save(replace(snapshot, metrics=metrics), output)


def _open_batch(
    system: AnySystem,
    name: str,
    state: Path,
    batch_id: str | None,
    command: Sequence[str],
    *,
    resume: bool,
    retry_failed: bool,
) -> BatchMetrics:
    """Start a batch, or resume one."""
    if resume and batch_id is None:
        raise click.UsageError("--resume needs the --id of the batch to resume")
    if batch_id is not None and not _VALID_ID.fullmatch(batch_id):
        raise click.BadParameter(
            f"{batch_id!r} is not valid: use letters, digits, dots, dashes and underscores",
            param_hint="'--id'",
        )
    batch_id = batch_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    journal = state / f"{batch_id}{_JOURNAL_SUFFIX}"
    if resume and not journal.exists():
        raise click.UsageError(
            f"there is no batch {batch_id!r} to resume.{nearest(batch_id, _known_ids(state))}"
        )
    if journal.exists() and not resume:
        raise click.UsageError(
            f"the batch {batch_id!r} exists: pass --resume to resume it, or another --id to start a new one"
        )
    try:
        return BatchMetrics(
            batch_id,
            system=system,
            operation=name,
            journal=journal,
            retry_failed=retry_failed,
            command=command,
        )
    except (InvalidInputError, OutputError) as error:
        raise click.UsageError(str(error)) from error


def _discard_journal(metrics: BatchMetrics, state: Path) -> None:
    """Remove the journal of a batch that could not start."""
    metrics.close()
    if not metrics.counts.files:
        (state / f"{metrics.batch_id}{_JOURNAL_SUFFIX}").unlink(missing_ok=True)


def _known_ids(state: Path) -> list[str]:
    return [path.name.removesuffix(_JOURNAL_SUFFIX) for path in state.glob(f"*{_JOURNAL_SUFFIX}")]


def _export(metrics: BatchMetrics, json_file: Path | None, csv_file: Path | None) -> list[str]:
    errors = []
    for file, export in ((json_file, metrics.export_json), (csv_file, metrics.export_csv)):
        if file is not None:
            try:
                export(file)
            except OSError as error:
                errors.append(f"cannot write {str(file)!r}: {error.strerror or error}")
    if metrics.lost:
        errors.append(f"details of {metrics.lost} files could not be written; the totals are exact")
    return errors


@batch.command()
@click.argument("batch_file", metavar="FILE|ID")
@_state
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def stats(batch_file: str, state: Path, as_json: bool) -> None:
    """Show the summary of a batch, finished or running.

    Pass its ID, or the path of its journal or JSON export.

    \b
    Exit codes:
      0  the summary was shown
      1  there is no such batch, or it cannot be read
    """  # noqa: D301 - as above
    path = Path(batch_file)
    if not path.exists() and _VALID_ID.fullmatch(batch_file):
        path = state / f"{batch_file}{_JOURNAL_SUFFIX}"
    try:
        if not path.exists():
            raise UnknownNameError(
                f"there is no batch {batch_file!r}.{nearest(batch_file, _known_ids(state))}"
            )
        summary = load_summary(path)
    except MetricsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(to_indented_json(summary.to_dict()))
    else:
        print_batch(summary)


def print_batch(stats: BatchMetricsSummary) -> None:
    """Print the table of a batch summary."""
    timing, throughput = stats.timing, stats.throughput
    table = label_table(f"batch {stats.batch_id}")
    add_label(table, "files", format_number(stats.total_files))
    share = 100 * stats.processed_count / stats.total_files if stats.total_files else 0.0
    add_label(table, "succeeded", f"{format_number(stats.processed_count)}, {share:.2f} %")
    if stats.skip_count:
        add_label(table, "skipped", format_number(stats.skip_count))
    add_label(table, "failed", format_number(stats.error_count), "bold red" if stats.error_count else "")
    for error_type, number in sorted(stats.errors.by_type.items()):
        add_label(table, f"  {error_type}", format_number(number), "red")
    add_label(table, "time", format_duration(timing.total_duration * 1e3))
    if timing.max_per_file:
        values = {
            "average": timing.average_per_file,
            "p50": timing.p50_per_file or timing.median_per_file,
            "p95": timing.p95_per_file,
            "p99": timing.p99_per_file,
            "stddev": timing.stddev_per_file,
            "min": timing.min_per_file,
            "max": timing.max_per_file,
        }
        for label, seconds in values.items():
            if seconds or label == "stddev":  # an export of the summary alone has fewer
                add_label(table, f"  per file, {label}", format_duration(seconds * 1e3))
    add_label(table, "throughput", f"{format_number(throughput.files_per_second)} files/s")
    if throughput.samples_per_second:
        add_label(table, "", f"{format_number(throughput.samples_per_second)} samples/s")
    add_label(table, "started", stats.start_time or "not yet")
    add_label(table, "finished", stats.end_time or "not yet")
    Console().print(table)


@dataclass(frozen=True)
class FileCommand:
    """Runs the command for one file, in a thread of a pool.

    Attributes:
        runner: Runs and measures the command.
        command: The program and its arguments, with `PLACEHOLDER` for the file.
        timeout: Seconds after which a command is killed; ``None`` for no limit.
        retries: Retries per file.
        cancelled: An event that ends all running commands.
    """

    runner: CommandRunner
    command: Sequence[str]
    timeout: float | None
    retries: int
    cancelled: Event = field(default_factory=Event)

    def __call__(self, path: str) -> CommandRun:
        """Run the command, again after a failure. A name that starts with a dash gets ``./``."""
        path = f"./{path}" if path.startswith("-") else path  # not an option
        command = [part.replace(PLACEHOLDER, path) for part in self.command]
        for _ in range(self.retries):
            with suppress(TimeoutError):
                result = self._once(command)
                if result.exit_code in (0, -signal.SIGINT):
                    return result
        return self._once(command)

    def _once(self, command: Sequence[str]) -> CommandRun:
        return self.runner.run(command, timeout=self.timeout, cancelled=self.cancelled)


def find_files(patterns: Iterable[str]) -> list[str]:
    """Return the files that match paths and patterns, each once, in order, without folders.

    ``**`` matches any number of folders. A file with several paths, such as a relative and an absolute one or
    one through a symbolic link, has the first of them.
    """
    found: dict[str, str] = {}
    for pattern in patterns:
        # An existing path, expanded by the shell, may contain characters that have a meaning in patterns.
        paths = [pattern] if Path(pattern).exists() else sorted(glob.iglob(pattern, recursive=True))  # noqa: PTH207
        for path in paths:
            if not Path(path).is_dir():
                found.setdefault(os.path.realpath(path), path)
    return list(found.values())


def recorded_name(path: str) -> str:
    """Return the name under which a file is recorded. Bytes of the path that are not UTF-8 are escaped."""
    return path.encode(errors="backslashreplace").decode()


def run_files(batch: BatchMetrics, command: FileCommand, paths: Sequence[str], jobs: int, title: str) -> bool:
    """Run the command for each file and record the outcome.

    Args:
        batch: Records the files.
        command: The command.
        paths: The files.
        jobs: How many files are processed at the same time.
        title: Title of the progress display.

    Returns:
        Whether all files were processed. Ctrl-C, SIGTERM, or a command that Ctrl-C ended interrupts it.

    Raises:
        InvalidInputError: If the command of the first file cannot be started. A later file counts as failed.
    """
    progress = make_progress(title, len(paths), SYSTEM_CLOCK)
    task = Task(command, 0, (), track_memory=False)
    failures = 0
    try:
        with Pool(task, jobs, in_processes=False) as pool:
            try:
                for done, (path, result) in enumerate(pool.run(paths), 1):
                    if done == 1 and result.error_type == _CANNOT_START:
                        raise InvalidInputError(result.error_message)
                    failure = _record(batch, recorded_name(path), result)
                    if failure:
                        failures += 1
                        if failures <= _MAX_PRINTED_FAILURES:
                            print_failure(progress, *failure, _MAX_FAILURE_LINES)
                    progress.update(done, failures)
            finally:
                command.cancelled.set()
    except KeyboardInterrupt:
        return False
    finally:
        progress.stop()
    return True


def _record(batch: BatchMetrics, name: str, result: TaskResult) -> tuple[str, str] | None:
    """Record the outcome of a command. Returns headline and text of a failure."""
    if result.status == "error":
        if result.error_type == InterruptedError.__name__:
            raise KeyboardInterrupt
        error_type, message = str(result.error_type), str(result.error_message)
        batch.record_error(name, error_type, message, result.duration)
        return f"{name}: {error_type}", message
    run: CommandRun = result.value
    if run.exit_code == -signal.SIGINT:  # Ctrl-C on a terminal goes to the command and to this process
        raise KeyboardInterrupt
    if run.exit_code == 0:
        batch.record_file(name, duration=run.seconds, memory_peak=run.peak_rss)
        return None
    error_type, message = describe_exit(run.exit_code), run.error_output.strip()[-_MAX_MESSAGE_CHARACTERS:]
    batch.record_file(
        name,
        duration=run.seconds,
        status="error",
        error_type=error_type,
        error_message=message,
        memory_peak=run.peak_rss,
    )
    return f"{name}: {error_type}", message
