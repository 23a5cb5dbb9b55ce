"""A pseudo-terminal for tests."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import threading
from contextlib import suppress
from typing import Self

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
"""The escape sequences of a terminal."""


class Terminal:
    """A pseudo-terminal with 24 lines and 120 columns. A thread keeps its output.

    Attributes:
        keyboard: The descriptor to which a test writes key presses.
        screen: The descriptor to which a program writes.
    """

    def __init__(self) -> None:
        self.keyboard, self.screen = os.openpty()
        self.resize(24, 120)
        self._is_open = True
        self._output = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.drawn()

    def resize(self, lines: int, columns: int) -> None:
        """Change the size. A program that the terminal controls receives SIGWINCH."""
        fcntl.ioctl(self.screen, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def frame(self) -> str:
        """Return what a program that redraws the whole screen has drawn last, without escape codes."""
        frames = self._output.decode(errors="ignore").split("\x1b[H")
        return ESCAPES.sub("", frames[-2] if len(frames) > 2 else "")

    def drawn(self) -> str:
        """Close the terminal, which no program must have open, and return its output with escape codes."""
        if self._is_open:
            self._is_open = False
            os.close(self.screen)
            self._reader.join()
            os.close(self.keyboard)
        return self._output.decode()

    def _read(self) -> None:
        with suppress(OSError):  # Linux reports a closed other end this way
            while chunk := os.read(self.keyboard, 4096):
                self._output += chunk
