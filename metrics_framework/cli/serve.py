"""``metrics-framework serve``: the live page of this machine, of a telemetry file and of snapshots."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from metrics_framework.cli.output import EXIT_INTERRUPTED, escape_control
from metrics_framework.cli.top import TOKEN_VARIABLE
from metrics_framework.errors import InvalidInputError, MetricsError, MissingExtraError, OutputError
from metrics_framework.plugins import load_adapter
from metrics_framework.snapshots.files import read_content
from metrics_framework.snapshots.formatting import format_count
from metrics_framework.system import AnySystem, MetricsSystem
from metrics_framework.telemetry import Flaw, TelemetryFollower, TelemetryRecorder
from metrics_framework.validation import is_loopback

_MAX_TOKEN_BYTES = 4096


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=9400,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0 for a free one.",
)
@click.option("--prefix", default="", metavar="PATH", help="Prefix of all paths, such as /internal.")
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"File with the token that requests must send.  [default: the variable {TOKEN_VARIABLE}]",
)
@click.option("--no-token", is_flag=True, help="Let everyone who can connect read everything.")
@click.option(
    "--snapshots",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Show the history of the snapshots in this folder.",
)
@click.option(
    "--telemetry",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Follow this telemetry file, or folder of segments, as it grows.",
)
@click.option(
    "--interval",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.1, 3600),
    help="Seconds between readings of resources and of the telemetry file.",
)
def serve(
    host: str,
    port: int,
    prefix: str,
    token_file: Path | None,
    no_token: bool,
    snapshots: Path | None,
    telemetry: Path | None,
    interval: float,
) -> None:
    """Serve a live page until interrupted.

    The page shows the resources of this machine, the events of a telemetry file and a history of snapshots.
    Below it are metrics, snapshot, health and stream. It prints the URL of the page.

    By default only this machine can connect. To listen on another address, set a token: the page asks for it,
    and other clients send it as a bearer token.

    \b
    Exit codes:
      1    the port is in use, or the server fails
      2    wrong usage
      130  interrupted by Ctrl-C or SIGTERM

    \b
    Examples:
      metrics-framework serve --snapshots snapshots
      METRICS_TOKEN=s3cret metrics-framework serve --host 0.0.0.0 --telemetry run.jsonl
    """  # noqa: D301 - the backspace tells click not to rewrap the paragraph
    token = None if no_token and token_file is None else _read_token(token_file)
    if no_token and token_file is not None:
        raise click.UsageError("both --no-token and --token-file are given: pass one of them")
    if token is None and not no_token and not is_loopback(host):
        raise click.UsageError(
            f"--host {escape_control(host)} lets other machines connect, and no token is set: set"
            f" {TOKEN_VARIABLE}, pass --token-file FILE, or pass --no-token to let everyone read everything"
        )
    options: dict[str, Any] = {"prefix": prefix, "bearer_token": token}
    if token is None and is_loopback(host):
        options["allow_hosts"] = [host]  # another site could give its name the address of this machine
    if snapshots is not None:
        options["snapshots"] = snapshots
    try:
        with MetricsSystem() as metrics:
            metrics.initialize_metrics({"collection_interval": interval})
            with load_adapter("asgi.server")(metrics, port, host, **options) as server:
                _describe(snapshots, telemetry, token is not None)
                click.echo(f"{server.url}{prefix.rstrip('/')}/")
                events = _TelemetryEvents(metrics, telemetry)
                try:
                    while not server.closed:
                        events.read()
                        time.sleep(interval)
                finally:
                    events.close()
        raise click.ClickException("the server has failed: see the log")
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    except (InvalidInputError, MissingExtraError) as error:
        raise click.UsageError(escape_control(str(error))) from error
    except OutputError as error:
        raise click.ClickException(escape_control(str(error))) from error


def _describe(snapshots: Path | None, telemetry: Path | None, has_token: bool) -> None:
    """Print what is served, on standard error."""
    parts = ["the resources of this machine"]
    if telemetry is not None:
        parts.append(f"the events of {telemetry}")
    if snapshots is not None:
        parts.append(f"the history of {snapshots}")
    access = "asks for the token" if has_token else "needs no token"
    click.echo(escape_control(f"shows {', '.join(parts)}; {access}; Ctrl-C ends it"), err=True)
    for path, what in ((telemetry, "file or folder"), (snapshots, "folder")):
        if path is not None and not path.exists():
            text = f"Warning: the {what} {str(path)!r} does not exist yet: it is waited for"
            click.echo(escape_control(text), err=True)


def _read_token(file: Path | None) -> str | None:
    """Return the token of a file, or of the variable; ``None`` if neither is given.

    Raises:
        UsageError: If the file cannot be read, or the token is empty.
    """
    if file is None:
        token, place = os.environ.get(TOKEN_VARIABLE), TOKEN_VARIABLE
    else:
        place = repr(str(file))
        try:
            token = read_content(file, max_bytes=_MAX_TOKEN_BYTES).decode()
        except OutputError as error:
            raise click.UsageError(escape_control(f"--token-file: {error}")) from error
        except UnicodeDecodeError:  # its message has a part of the token
            raise click.UsageError(escape_control(f"--token-file: {place} is not text")) from None
    if token is None:
        return None
    token = token.strip()
    if not token:
        raise click.UsageError(
            escape_control(f"the token in {place} is empty: put one there, or pass --no-token")
        )
    return token


class _TelemetryEvents:
    """Records the events of a telemetry file into a system.

    Faults are printed, and do not end the service: the first line that is not an event, and each new reason
    why the file cannot be read.

    Args:
        metrics: The system.
        file: The file or folder; ``None`` for none.
    """

    def __init__(self, metrics: AnySystem, file: Path | None) -> None:
        self._recorder = TelemetryRecorder(metrics.collector) if file is not None else None
        self._follower = TelemetryFollower(file, self._count_flaw) if file is not None else None
        self._events = self._flaws = 0
        self._problem = ""

    def read(self) -> None:
        """Record the events since the last call."""
        if self._follower is None or self._recorder is None:
            return
        problem = ""
        try:
            for record in self._follower.poll():
                self._recorder.record(record)
                self._events += 1
        except MetricsError as error:
            problem = str(error)
        if problem and problem != self._problem:
            click.echo(escape_control(f"Warning: {problem}"), err=True)
        self._problem = problem

    def close(self) -> None:
        """Close the file, and print how many events it had."""
        if self._follower is not None:
            self._follower.close()
            lines = format_count(self._flaws, "invalid line")
            click.echo(f"{format_count(self._events, 'event')}, {lines}", err=True)

    def _count_flaw(self, flaw: Flaw) -> None:
        self._flaws += 1
        if self._flaws == 1:
            click.echo(escape_control(f"Warning: {flaw}. Further invalid lines are only counted."), err=True)
