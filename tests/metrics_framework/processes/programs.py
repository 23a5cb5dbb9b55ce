"""Worker processes that a test controls line by line."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]

_LOOP = """
import ast, sys

for line in sys.stdin:
    code = ast.literal_eval(line)
    try:
        answer = eval(code) if code.startswith("(") else exec(code)
        print(repr((True, answer)), flush=True)
    except Exception as error:
        print(repr((False, repr(error))), flush=True)
"""


class Program:
    """A running Python program that executes what it is told.

    Args:
        code: What it executes first.
        environ: More variables of its environment.
    """

    def __init__(self, code: str, environ: dict[str, str]) -> None:
        paths = [str(ROOT), str(ROOT / "adapters"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environ},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.do(code)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def do(self, code: str) -> Any:
        """Execute statements, or evaluate an expression in parentheses and return its plain result.

        Raises:
            AssertionError: If the program raises an error.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{code!r}\n")
        self.process.stdin.flush()
        is_done, answer = ast.literal_eval(self.process.stdout.readline())
        assert is_done, answer
        return answer

    def end(self) -> str:
        """Let the program reach its end, and return what it prints until then."""
        output, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return output

    def kill(self) -> None:
        """Kill the program and wait for its end."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def programs() -> Iterator[Callable[..., Program]]:
    """Return a function that starts a program; all of them are killed at the end of the block."""
    with ExitStack() as ends:

        def start(code: str, **environ: str) -> Program:
            program = Program(code, environ)
            ends.callback(program.kill)
            return program

        yield start
