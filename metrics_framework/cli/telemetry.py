"""The commands on telemetry files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from metrics_framework.cli.exit_codes import INTERRUPTED
from metrics_framework.cli.tables import print_telemetry, visible
from metrics_framework.errors import MetricsError
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import MetricCollector
from metrics_framework.telemetry import (
    Flaw,
    ProjectedTelemetryRecord,
    TelemetryFollower,
    TelemetryRecorder,
    projected_record_to_dict,
    read_projected_telemetry,
    read_telemetry_manifest,
)
from metrics_framework.telemetry.summary import TelemetrySummary

FILE = click.argument("file", type=click.Path(allow_dash=True))


@click.group()
def telemetry() -> None:
    """Project, sum up and follow telemetry files."""


@telemetry.command()
@FILE
def project(file: str) -> None:
    """Print the events of FILE in the envelope, as JSON lines.

    FILE holds JSON lines, plain or packed with gzip; or it is a folder of segments, or - for the standard
    input. Lines that are no events are reported on standard error, by their number.

    \b
    Exit codes:
      0  every line is an event
      1  at least one is not, or FILE cannot be read
    """  # noqa: D301 - click looks for the character, which keeps it from filling the paragraph
    flaws = _Flaws()
    for record in _read(file, flaws):
        _print(record)
    sys.exit(1 if flaws.count else 0)


@telemetry.command()
@FILE
def summary(file: str) -> None:
    """Show what the events of FILE say, by session, rank and stage.

    Exit codes and FILE are those of `project`. Memory is what the allocator gave out, or else what is used on
    the device; the bars go from the lowest to the highest.
    """
    flaws = _Flaws()
    found = TelemetrySummary()
    for record in _read(file, flaws):
        found.add(record)
    manifest = None if file == "-" else read_telemetry_manifest(file)
    statuses = {session.session_id: session.status for session in manifest.sessions} if manifest else {}
    print_telemetry("standard input" if file == "-" else file, found, statuses)
    sys.exit(1 if flaws.count else 0)


@telemetry.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--serve",
    "port",
    type=click.IntRange(0, 65_535),
    help="Serve gauges on this port of 127.0.0.1; 0 finds one.",
)
@click.option(
    "--interval",
    default=0.5,
    show_default=True,
    type=click.FloatRange(0.001, 3600),
    help="Seconds between two looks.",
)
def follow(file: Path, port: int | None, interval: float) -> None:
    """Read FILE, and go on as it grows, until interrupted.

    FILE may not be there yet, may be truncated or rotated, and may be a folder of segments. Without --serve
    each event is printed in the envelope, as a JSON line; with it their measurements can be scraped by
    Prometheus from the address that is printed.

    \b
    Exit codes:
      1    FILE cannot be read, or the port is taken
      130  interrupted, by Ctrl-C or SIGTERM
    """  # noqa: D301 - as above
    flaws = _Flaws()
    events = 0
    try:
        if not file.exists():
            click.echo(f"waiting for {visible(str(file))}", err=True)
        take = _print if port is None else TelemetryRecorder(_serve(port)).record
        with TelemetryFollower(file, flaws.add) as follower:
            while True:
                for record in follower.poll():
                    take(record)
                    events += 1
                sys.stdout.flush()
                time.sleep(interval)
    except KeyboardInterrupt:
        click.echo(f"{events} events, {flaws.count} other lines", err=True)
        sys.exit(INTERRUPTED)
    except MetricsError as error:
        raise click.ClickException(visible(str(error))) from error


def _serve(port: int) -> MetricCollector:
    """Return a collector whose numbers are served on a port of this machine, and print the address."""
    collector: MetricCollector = load_adapter("in_memory.collector")()
    click.echo(load_adapter("prometheus.server")(port, metrics=collector).url)
    return collector


class _Flaws:
    """Prints and counts what is no event."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, flaw: Flaw) -> None:
        self.count += 1
        click.echo(visible(str(flaw)), err=True)


def _read(file: str, flaws: _Flaws) -> Iterator[ProjectedTelemetryRecord]:
    source: str | IO[bytes] = sys.stdin.buffer if file == "-" else file
    try:
        yield from read_projected_telemetry(source, flaws.add)
    except MetricsError as error:
        raise click.ClickException(visible(str(error))) from error


def _print(record: ProjectedTelemetryRecord) -> None:
    sys.stdout.write(json.dumps(projected_record_to_dict(record)) + "\n")
