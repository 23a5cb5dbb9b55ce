"""The command line, ``metrics-framework``. It needs the extra ``cli``: click and rich."""

from __future__ import annotations

import sys

from metrics_framework.errors import MissingExtraError


def main() -> None:
    """Run the command line."""
    try:
        from metrics_framework.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(str(MissingExtraError("the command line", "cli")))
    app(prog_name="metrics-framework")
