"""The command line, ``metrics-framework``. It needs the extra ``cli``: click and rich."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from io import TextIOWrapper

from metrics_framework.errors import MissingExtraError, reason_of


def main() -> None:
    """Run the command line."""
    # SIGTERM, which cancels a job in CI, interrupts a command as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run()
    except KeyboardInterrupt:  # while modules are imported; click and the commands handle it afterwards
        sys.exit(128 + signal.SIGINT)


def _run() -> None:
    try:
        from metrics_framework.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("click", "rich"):
            raise
        sys.exit(str(MissingExtraError("the command line", "cli")))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without "µ" shows "?" instead of an error
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="metrics-framework", standalone_mode=True)
    except SystemExit as exit_:
        sys.exit(_flushed(exit_.code))
    except OSError as error:  # a full disk, or a name that is too long; click handles a closed pipe
        sys.exit(_failed(error))


def _flushed(code: str | int | None) -> str | int | None:
    """Flush standard output and return the exit code, or that of a failure to write."""
    try:
        if sys.stdout is not None:  # closed by the parent process
            sys.stdout.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        return _failed(error)
    return code


def _failed(error: OSError) -> int:
    # The rest of the output would fail again at the end of the interpreter, with a traceback.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    what = "cannot write the output" if error.filename is None else f"cannot use {error.filename!r}"
    with suppress(OSError, AttributeError):
        sys.stderr.write(f"Error: {what}: {reason_of(error)}\n")
    return 1
