"""The command line, ``metrics-framework``. It needs the extra ``cli``: click and rich."""

from __future__ import annotations

import signal
import sys
from io import TextIOWrapper

from metrics_framework.errors import MissingExtraError


def main() -> None:
    """Run the command line."""
    try:
        from metrics_framework.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit(str(MissingExtraError("the command line", "cli")))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without "µ" shows "?" instead of an error
            stream.reconfigure(errors="replace")
    # SIGTERM, which cancels a job in CI, interrupts a command as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="metrics-framework")
