"""The commands of batch jobs: ``batch run`` and ``batch stats``."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import click

from metrics_framework.batch import BatchMetrics
from metrics_framework.batch.load import load_stats
from metrics_framework.cli.batch_run import PLACEHOLDER, Job, find_files, not_done, run_files
from metrics_framework.cli.exit_codes import INTERRUPTED
from metrics_framework.cli.snapshots import INTERRUPTED_TAG, Saved, parse_tags, save
from metrics_framework.cli.tables import print_batch
from metrics_framework.errors import (
    InvalidInputError,
    MetricsError,
    OutputError,
    SnapshotError,
    UnknownNameError,
    nearest,
)
from metrics_framework.plugins import load_adapter
from metrics_framework.snapshots import Environment
from metrics_framework.system import MetricsSystem

BATCH_TAG = "batch"
"""The metadata tag of a snapshot that says which batch it is of."""

_JOURNAL = ".jsonl"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@click.group()
def batch() -> None:
    """Run a command for each of many files, and show what such batches came to."""


class _FilesAndCommand(click.Command):
    """A command line whose second half, behind ``--``, is a command of its own."""

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
    help="Folder of the journals, of which a batch that was interrupted is gone on with.",
)
_file = click.Path(dir_okay=False, writable=True, path_type=Path)


@batch.command(cls=_FilesAndCommand)
@click.option("-j", "--jobs", default=1, show_default=True, type=click.IntRange(1), help="Files at a time.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), help="Seconds after which a command is ended."
)
@click.option(
    "--retries", default=0, show_default=True, type=click.IntRange(0), help="How often to try a file again."
)
@click.option("--id", "batch_id", metavar="ID", help="What the batch is called.  [default: made up]")
@click.option("--resume", is_flag=True, help="Go on with the batch of that --id: do what is left of it.")
@click.option("--retry-failed", is_flag=True, help="With --resume: and what failed.")
@_state
@click.option("--json", "json_file", type=_file, metavar="FILE", help="Write summary and files as JSON.")
@click.option("--csv", "csv_file", type=_file, metavar="FILE", help="Write the files as CSV.")
@click.option(
    "--output",
    default="snapshots",
    show_default=True,
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Folder that the snapshot is written into.",
)
@click.option("--name", help="What the command is called in the snapshot.  [default: the program's name]")
@click.option(
    "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Context for the snapshot; repeatable."
)
@click.option(
    "--environment",
    type=click.Choice([environment.value for environment in Environment]),
    help="Where this runs.  [default: ci under CI, else local]",
)
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
    globs: tuple[str, ...],
) -> None:
    """Run COMMAND for every file that a GLOB finds; in it, {} stands for the file.

    Each file's time, peak memory and outcome are recorded; a file whose command fails, or does not end in
    time, is an error, and the batch goes on. What is done is kept in a journal: a batch that was interrupted
    goes on with --resume. At the end comes a table, and a snapshot.

    \b
    Exit codes:
      0    every file succeeded
      1    a file failed (everything is written all the same)
      2    wrong usage, no files, or a command that cannot be started
      130  interrupted, by Ctrl-C or SIGTERM

    Example: metrics-framework batch run --jobs 4 "src/**/*.py" -- python -m py_compile {}
    """  # noqa: D301 - click looks for the character, which keeps it from filling the paragraph
    command: list[str] = ctx.meta.get(__name__, [])
    if not command:
        raise click.UsageError(f"there is no command: put it behind --, like: -- wc -l {PLACEHOLDER}")
    if not any(PLACEHOLDER in part for part in command):
        raise click.UsageError(f"no part of the command is {PLACEHOLDER}, which stands for the file")
    context = parse_tags(tags, BATCH_TAG)
    paths = find_files(globs)
    if not paths:
        raise click.UsageError(f"no file is found by {' or '.join(map(repr, globs))}")
    job = Job(command, jobs, timeout, retries)
    name = name or Path(command[0]).name
    monitor = load_adapter("resources.command")()
    system = MetricsSystem(resource_monitor=monitor, latency_metric=name)
    metrics = _open(system, name, state, batch_id, resume=resume or retry_failed, retry_failed=retry_failed)
    try:
        before = metrics.counts.files
        todo = list(not_done(metrics, paths))
        finished = _run(metrics, monitor, job, todo, name, state)
        problems = _export(metrics, json_file, csv_file)
        context[BATCH_TAG] = metrics.batch_id
        if not finished:
            context[INTERRUPTED_TAG] = "true"
        saved = _snapshot(system, output, environment, context) if todo else None
        stats = metrics.summary().to_dict()
        print_batch(stats)
        for problem in problems:
            click.echo(f"Error: {problem}", err=True)
        if saved is not None and not saved.say():
            problems.append("no snapshot")
    except KeyboardInterrupt:  # before the first file, after the last one, or a second time
        sys.exit(INTERRUPTED)
    finally:
        metrics.close()
    if not finished:
        left = len(todo) - (stats["total_files"] - before)
        click.echo(
            f"interrupted with {left} of {len(paths)} files left; the same command goes on with"
            f" --id {metrics.batch_id} --resume",
            err=True,
        )
        sys.exit(INTERRUPTED)
    sys.exit(1 if problems or stats["error_count"] else 0)


def _run(metrics: BatchMetrics, monitor: Any, job: Job, paths: list[str], name: str, state: Path) -> bool:
    """Do what is left to do of a batch; say whether nothing interrupted it."""
    if not paths:
        click.echo("nothing is left to do", err=True)
        return True
    metrics.start()
    try:
        finished = run_files(metrics, monitor, job, paths, name)
    except InvalidInputError as error:
        _forget(metrics, state)
        raise click.UsageError(str(error)) from error
    metrics.finish()
    return finished


def _snapshot(
    system: MetricsSystem, output: Path, environment: str | None, tags: dict[str, str]
) -> Saved | None:
    try:
        return save(system.snapshot(environment=environment, tags=tags), output)
    except SnapshotError:  # not a single command ended
        return None


def _open(
    system: MetricsSystem, name: str, state: Path, batch_id: str | None, *, resume: bool, retry_failed: bool
) -> BatchMetrics:
    """Begin a batch, or go on with one."""
    if resume and batch_id is None:
        raise click.UsageError("--resume needs the --id of the batch that it goes on with")
    if batch_id is not None and not _ID.fullmatch(batch_id):
        raise click.BadParameter("only letters, digits, dots, dashes and underscores", param_hint="'--id'")
    batch_id = batch_id or f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    journal = state / f"{batch_id}{_JOURNAL}"
    if resume and not journal.exists():
        raise click.UsageError(
            f"there is no batch {batch_id!r} to go on with.{nearest(batch_id, _known(state))}"
        )
    if journal.exists() and not resume:
        raise click.UsageError(
            f"the batch {batch_id!r} exists: --resume goes on with it, another --id begins anew"
        )
    try:
        return BatchMetrics(
            batch_id, system=system, operation=name, journal=journal, retry_failed=retry_failed
        )
    except (InvalidInputError, OutputError) as error:
        raise click.UsageError(str(error)) from error


def _forget(metrics: BatchMetrics, state: Path) -> None:
    """Remove the journal of a batch that could not begin."""
    metrics.close()
    if not metrics.counts.files:
        (state / f"{metrics.batch_id}{_JOURNAL}").unlink(missing_ok=True)


def _known(state: Path) -> list[str]:
    return [path.name.removesuffix(_JOURNAL) for path in state.glob(f"*{_JOURNAL}")]


def _export(metrics: BatchMetrics, json_file: Path | None, csv_file: Path | None) -> list[str]:
    problems = []
    for file, export in ((json_file, metrics.export_json), (csv_file, metrics.export_csv)):
        if file is not None:
            try:
                export(file)
            except OSError as error:
                problems.append(f"cannot write {str(file)!r}: {error.strerror or error}")
    if metrics.lost:
        problems.append(f"the disk refused the details of {metrics.lost} files; the totals are right")
    return problems


@batch.command()
@click.argument("batch_file", metavar="FILE|ID")
@_state
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def stats(batch_file: str, state: Path, as_json: bool) -> None:
    """Show what a batch came to, also while it runs: from its journal, a JSON export, or by its ID.

    \b
    Exit codes:
      0  it is shown
      1  there is no such batch, or it cannot be read
    """  # noqa: D301 - as above
    path = Path(batch_file)
    if not path.exists() and _ID.fullmatch(batch_file):
        path = state / f"{batch_file}{_JOURNAL}"
    try:
        if not path.exists():
            raise UnknownNameError(f"there is no batch {batch_file!r}.{nearest(batch_file, _known(state))}")
        summary: dict[str, Any] = load_stats(path)
    except MetricsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
    else:
        print_batch(summary)
