"""Draws `docs/images/run.svg` from the real output of the command line.

``python docs/make_pictures.py``
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = "metrics-framework run -n 20 --warmup 2 -- python3 -c 'import json'"


def main() -> None:
    """Run the command as in a terminal, and save its output as an SVG."""
    script = Path(sys.executable).with_name("metrics-framework")
    arguments = [str(script), "run", "-n", "20", "--warmup", "2", "--", "python3", "-c", "import json"]
    environment = {**os.environ, "FORCE_COLOR": "1", "COLUMNS": "76"}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            arguments, cwd=folder, env=environment, check=True, capture_output=True, text=True
        )
    console = Console(record=True, width=76, file=io.StringIO())
    console.print(Text(f"$ {COMMAND}"))
    console.print(Text.from_ansi(done.stdout.rstrip()))
    console.save_svg(str(Path(__file__).with_name("images") / "run.svg"), title="metrics-framework run")


if __name__ == "__main__":
    main()
