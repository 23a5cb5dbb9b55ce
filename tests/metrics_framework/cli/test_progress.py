"""Progress on a real pseudo-terminal and on a pipe."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self, TextIO

import pytest
from rich.console import Console

from metrics_framework.cli import progress as progress_module
from metrics_framework.cli.progress import Progress

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A pseudo-terminal; everything that is drawn on it is kept."""

    def __init__(self) -> None:
        self._keyboard, screen = os.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
        self.screen: TextIO = os.fdopen(screen, "w")
        self._drawn = b""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.drawn()

    def drawn(self) -> str:
        """Close the terminal; return what was drawn, with its escape codes."""
        if not self.screen.closed:
            self.screen.close()
            self._reader.join()
            os.close(self._keyboard)
        return self._drawn.decode()

    def _read(self) -> None:
        while True:
            try:
                chunk = os.read(self._keyboard, 4096)
            except OSError:  # how Linux says that the other end is closed
                return
            if not chunk:
                return
            self._drawn += chunk


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take nothing from the terminal that the tests run in."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[Console, Path]]:
    """Return a console that is no terminal, and the file that it writes."""
    path = tmp_path / "errors"
    with path.open("w") as file:
        yield Console(file=file), path


def text_of(pipe: tuple[Console, Path]) -> str:
    """Return what was written so far."""
    console, path = pipe
    console.file.flush()
    return path.read_text()


def test_a_terminal_gets_a_bar() -> None:
    """On a terminal a bar shows the title, how many steps are done, and how long the last one took."""
    with Terminal() as terminal:
        with Progress(Console(file=terminal.screen), "build", 3) as progress:
            progress.advance("run 1", 0.0123)
            progress.advance("run 2", 1.5)
        drawn = terminal.drawn()
    shown = ESCAPES.sub("", drawn)
    assert "\x1b[" in drawn
    assert "build" in shown
    assert "━" in shown
    assert "2/3" in shown
    assert "last 1.50 s" in shown


def test_the_bar_leaves_the_terminal_as_it_was() -> None:
    """After the last step, or an error, the bar is erased and the cursor is visible again."""
    with Terminal() as terminal:
        with (
            suppress(KeyboardInterrupt),
            Progress(Console(file=terminal.screen), "build", 3) as progress,
        ):
            progress.advance("run 1", 1.0)
            raise KeyboardInterrupt
        drawn = terminal.drawn()
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    last_frame = drawn[drawn.rindex("last 1 s") :]
    assert "\x1b[2K" in last_frame


def test_what_is_said_appears_above_the_bar() -> None:
    """A message on a terminal is a line of its own while the bar goes on."""
    with Terminal() as terminal:
        with Progress(Console(file=terminal.screen), "build", 3) as progress:
            progress.advance("run 1", 1.0)
            progress.say("run 1 failed: exit code 3", "first\nsecond")
            progress.advance("run 2", 1.0)
        lines = [line.strip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", terminal.drawn()))]
    assert lines.index("run 1 failed: exit code 3") < lines.index("first") < lines.index("second")


@pytest.mark.parametrize("title", ["a[b]", "[red]x", "[/]", "größe ✓", "{task.id}", "a\\"])
def test_a_title_is_no_markup(
    title: str, pipe: tuple[Console, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Brackets, braces and other letters in a title are shown as they are, on a terminal as on a pipe."""
    with Terminal() as terminal:
        with Progress(Console(file=terminal.screen), title, 3) as progress:
            progress.advance("run 1", 1.0)
        assert f"{title} " in ESCAPES.sub("", terminal.drawn())
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.0)
    with Progress(pipe[0], title, 3) as progress:
        progress.advance("run 1", 1.0)
    assert text_of(pipe) == f"{title}: run 1, 1 of 3 done, last 1 s\n"


def test_a_pipe_gets_nothing_of_a_quick_measurement(pipe: tuple[Console, Path]) -> None:
    """Where there is no terminal, steps that end within the first seconds print nothing at all."""
    with Progress(pipe[0], "build", 100) as progress:
        for step in range(100):
            progress.advance(f"run {step + 1}", 0.01)
    assert text_of(pipe) == ""


def test_a_pipe_gets_a_line_now_and_then(pipe: tuple[Console, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no terminal, a plain line follows when enough time has passed since the one before."""
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.2)
    with Progress(pipe[0], "build", 5) as progress:
        progress.advance("warm-up", 1.0)
        time.sleep(0.25)
        progress.advance("run 1", 0.0123)
        progress.advance("run 2", 1.0)
        time.sleep(0.25)
        progress.advance("run 3", 90.0)
    assert text_of(pipe).splitlines() == [
        "build: run 1, 2 of 5 done, last 12.3 ms",
        "build: run 3, 4 of 5 done, last 90 s",
    ]


def test_only_the_end_of_a_text_is_shown(pipe: tuple[Console, Path]) -> None:
    """Of a long text, the last ten lines follow the headline, indented."""
    with Progress(pipe[0], "build", 1) as progress:
        progress.say("run 1 failed", "".join(f"line {number}\n" for number in range(1, 31)))
    assert text_of(pipe).splitlines() == [
        "run 1 failed",
        *(f"  line {number}" for number in range(21, 31)),
    ]


def test_a_text_is_shown_as_it_is(pipe: tuple[Console, Path]) -> None:
    """Markup, numbers and paths in a message stay plain, and a long line stays one line."""
    text = "[bold]x[/] /usr/bin 3.14 :smile: " + "x" * 300
    with Progress(pipe[0], "build", 1) as progress:
        progress.say("run 1 failed", text)
        progress.say("run 2 failed", "")
    assert text_of(pipe) == f"run 1 failed\n  {text}\nrun 2 failed\n"
