"""``metrics-framework import``: snapshots from the files of other tools."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import click

from metrics_framework.cli.output import escape_control
from metrics_framework.cli.snapshots import parse_tags, save
from metrics_framework.errors import InvalidInputError, MetricsError, SnapshotError
from metrics_framework.snapshots import Environment, PerformanceSnapshot
from metrics_framework.snapshots.converters import (
    DIRTY_TAG,
    RECORDER_TAG,
    ConvertedBenchmark,
    convert_benchmarks,
)
from metrics_framework.snapshots.files import parse_document, read_content
from metrics_framework.snapshots.formatting import format_count
from metrics_framework.snapshots.provenance import (
    COMMIT_DATE_TAG,
    HEAD_COMMIT_TAG,
    Provenance,
    find_provenance,
    machine_tags,
)

_MAX_FILE_BYTES = 1 << 30


@click.command("import")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--output",
    default="snapshots",
    show_default=True,
    type=click.Path(file_okay=False, writable=True, path_type=Path),
    help="Folder for the snapshots.",
)
@click.option(
    "--name",
    help="Name of all benchmarks of FILES in the snapshots, so that differently named ones can be compared."
    "  [default: those of the file]",
)
@click.option(
    "--this-job",
    is_flag=True,
    help="The files were measured in this job: add it, the machine, and the commit of the working tree.",
)
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="KEY=VALUE",
    help="Tag for the snapshots' metadata; repeatable.",
)
@click.option(
    "--environment",
    type=click.Choice([environment.value for environment in Environment]),
    help="Environment of the snapshots.  [default: custom, or with --this-job ci under CI, else local]",
)
@click.option(
    "--commit",
    help="Measured commit, by any name that git knows.  [default: that of the file, if it has one]",
)
@click.option("--branch", help="Measured branch.  [default: that of the file, if it has one]")
def import_benchmarks(
    files: tuple[Path, ...],
    output: Path,
    name: str | None,
    this_job: bool,
    tags: tuple[str, ...],
    environment: str | None,
    commit: str | None,
    branch: str | None,
) -> None:
    """Write a snapshot for each benchmark in FILES.

    FILES are JSON files of pytest-benchmark (--benchmark-json, or a saved run) and hyperfine (--export-json).
    The name of a benchmark becomes the tag latency_metric, and its raw times the sidecar. pytest-benchmark
    saves raw times only with --benchmark-save-data; without them, a snapshot has the mean and the median.
    Prints the paths of the snapshots.

    \b
    Exit codes:
      0  every file is converted
      1  a file is not valid, or a snapshot cannot be written
      2  wrong usage, or a file does not exist

    \b
    Examples:
      metrics-framework import --this-job benchmark.json
      metrics-framework import --this-job --name sort --output old old.json
      metrics-framework compare --history snapshots --branch main new/
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    context = parse_tags(tags, RECORDER_TAG, DIRTY_TAG)
    additions = _Additions(context, environment, commit, branch, this_job)
    provenance = additions.provenance()
    succeeded = True
    for file in files:
        try:
            converted = _read(file, name)
        except MetricsError as error:
            fault = "; ".join(error.violations) if isinstance(error, SnapshotError) else str(error)
            click.echo(escape_control(f"{file}: {fault}"), err=True)
            succeeded = False
            continue
        if not converted:
            click.echo(escape_control(f"Warning: {file} has no benchmarks"), err=True)
        without = sum(not one.distributions for one in converted)
        if without:
            click.echo(
                escape_control(
                    f"Warning: {file} has no raw times of {format_count(without, 'benchmark')}, so"
                    " latency.p95 and the sidecar are missing: pass --benchmark-save-data to pytest"
                ),
                err=True,
            )
        for snapshot, distributions in converted:
            completed = additions.add(snapshot, provenance)
            succeeded = save(completed, output, distributions).report() and succeeded
    sys.exit(0 if succeeded else 1)


def _read(file: Path, name: str | None) -> list[ConvertedBenchmark]:
    content = read_content(file, max_bytes=_MAX_FILE_BYTES)
    written = datetime.fromtimestamp(file.stat().st_mtime, UTC)
    try:
        document = parse_document(content)
    except SnapshotError as error:
        raise InvalidInputError(
            f"{'; '.join(error.violations)}; pass a JSON file of pytest-benchmark (--benchmark-json) or"
            " of hyperfine (--export-json)"
        ) from error
    return convert_benchmarks(document, written, name)


@dataclass(frozen=True)
class _Additions:
    """What the options add to the metadata of a file.

    Attributes:
        tags: Tags.
        environment: The environment, if it is given.
        commit: The commit, if it is given.
        branch: The branch, if it is given.
        this_job: Whether the file was measured in this job.
    """

    tags: dict[str, str]
    environment: str | None
    commit: str | None
    branch: str | None
    this_job: bool

    def provenance(self) -> Provenance | None:
        """Return the provenance of this job, or of the given commit; ``None`` if neither is asked for."""
        if not self.this_job and self.commit is None:
            return None
        return find_provenance(commit=self.commit, branch=self.branch)

    def add(self, snapshot: PerformanceSnapshot, provenance: Provenance | None) -> PerformanceSnapshot:
        """Return a snapshot with what the options say, else what its file has, else the provenance."""
        metadata = snapshot.metadata
        tags, commit, branch = dict(metadata.tags), metadata.commit, self.branch or metadata.branch
        environment = self.environment or metadata.environment
        if provenance is not None:
            found = provenance.tags()
            if self.commit is None and commit is not None:
                dropped = {COMMIT_DATE_TAG, HEAD_COMMIT_TAG}
            else:
                commit, dropped = provenance.commit, set()
                tags.pop(COMMIT_DATE_TAG, None)
            if self.this_job:
                found |= machine_tags()
                branch = branch or provenance.branch
                environment = self.environment or provenance.environment
            tags = {**{key: value for key, value in found.items() if key not in dropped}, **tags}
        changed = replace(
            metadata,
            commit=commit,
            branch=branch,
            environment=Environment(environment),
            tags={**tags, **self.tags},
        )
        return replace(snapshot, metadata=changed)
