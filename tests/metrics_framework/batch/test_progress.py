"""Progress of loops, on a pseudo-terminal and on a pipe."""

from __future__ import annotations

import asyncio
import io
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from rich.cells import cell_len

from metrics_framework.batch import BatchMetrics
from metrics_framework.batch import progress as progress_module
from metrics_framework.batch.progress import Progress, ProgressLines, make_progress
from metrics_framework.clock import SYSTEM_CLOCK, ManualClock
from tests.terminal import ESCAPES, Terminal


@pytest.fixture(autouse=True)
def ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take nothing from the terminal that the tests run in."""
    monkeypatch.setenv("TERM", "xterm-256color")
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_lines_show_progress(capsys: pytest.CaptureFixture[str], clock: ManualClock) -> None:
    """Every five seconds, and at the end, a line shows errors, rate and time left."""
    batch = BatchMetrics(clock=clock)
    for number in batch.track(range(100), title="parsing"):
        with batch.file(f"{number}"):
            clock.advance(0.2)
            if number % 25 == 0:
                raise ValueError
    assert capsys.readouterr().err.splitlines() == [
        "parsing: 25 of 100 done, 1 error, 5/s, 15 s left",
        "parsing: 50 of 100 done, 2 errors, 5/s, 10 s left",
        "parsing: 75 of 100 done, 3 errors, 5/s, 5 s left",
        "parsing: 100 of 100 done, 4 errors, 5/s",
    ]


def test_without_a_total_no_time_left_is_shown(
    capsys: pytest.CaptureFixture[str], clock: ManualClock
) -> None:
    """The number of items of an iterator is unknown unless ``total`` is passed."""
    batch = BatchMetrics(clock=clock)
    assert list(batch.track(iter("abc"))) == ["a", "b", "c"]
    assert list(batch.track(iter("abc"), total=4)) == ["a", "b", "c"]
    assert capsys.readouterr().err == "files: 3 done, 0 errors\nfiles: 3 of 4 done, 0 errors\n"


def test_earlier_errors_are_not_counted(capsys: pytest.CaptureFixture[str]) -> None:
    """Only errors since the start of the loop are counted."""
    batch = BatchMetrics()
    batch.record_error("before", "ValueError", "")
    for _ in batch.track(["a"]):
        batch.record_error("a", "ValueError", "")
    assert "1 error" in capsys.readouterr().err


def test_a_loop_that_ends_early_shows_its_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """The last line counts the items that are done."""
    batch = BatchMetrics()
    for number in batch.track(range(10)):
        if number == 4:
            break
    assert capsys.readouterr().err.startswith("files: 4 of 10 done")


def test_an_empty_loop_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Without items there are no lines."""
    assert list(BatchMetrics().track([])) == []
    assert capsys.readouterr().err == ""


def test_async_loops_take_both_kinds_of_iterables(capsys: pytest.CaptureFixture[str]) -> None:
    """`async for` takes async and ordinary iterables; `for` rejects async ones."""

    async def items() -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    async def main() -> list[int]:
        batch = BatchMetrics()
        return [item async for item in batch.track(items())] + [item async for item in batch.track([3, 4])]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]
    with pytest.raises(TypeError, match="use `async for`"):
        list(BatchMetrics().track(items()))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3599, "59:59 min"), (7_620, "2:07 h")],
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    """Seconds, minutes or hours, with at most two units."""
    assert progress_module._format_seconds(seconds) == text


def test_a_closed_stream_is_not_an_error(clock: ManualClock) -> None:
    """Progress on a closed or missing stream is dropped."""
    closed = io.StringIO()
    closed.close()
    for stream in (closed, None):
        lines = ProgressLines("files", 2, clock, stream)
        lines.update(1, 0)
        lines.stop()


SCRIPT = """
import sys, time
{without}
from metrics_framework.batch import BatchMetrics
batch = BatchMetrics()
for number in batch.track(range(20), title="parsing"):
    with batch.file(str(number)):
        time.sleep(0.02)
        if number == 3:
            raise ValueError
"""


@pytest.mark.heavy
@pytest.mark.parametrize("rich", [True, False])
def test_a_terminal_shows_a_bar_if_rich_is_installed(tmp_path: Path, rich: bool) -> None:
    """With rich a bar is drawn; without it lines are printed."""
    script = SCRIPT.format(without="" if rich else "sys.modules['rich'] = None")
    environment = {
        key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    }
    with Terminal() as terminal:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stderr=terminal.screen,
            env={**environment, "TERM": "xterm-256color", "COLUMNS": "100"},
            check=False,
        )
        text = ESCAPES.sub("", terminal.drawn())
    assert done.returncode == 0
    assert "parsing" in text
    assert ("━" in text) is rich
    assert "1 error" in text
    if not rich:
        assert text.splitlines()[-1].startswith("parsing: 20 of 20 done, 1 error")


OUTPUT_SCRIPT = """
import sys
from metrics_framework.batch import BatchMetrics
for number in BatchMetrics().track(range(3), title="parsing"):
    print("row", number)
    sys.stdout.write(f"cell {number}\\n")
    print("note", number, file=sys.stderr)
"""
ROWS = "".join(f"row {number}\ncell {number}\n" for number in range(3))


def run_on_terminal(script: str, **streams: int | None) -> tuple[str, bytes | None]:
    """Run a script with standard error on a terminal. Return its screen, and its piped output."""
    names = ("NO_COLOR", "FORCE_COLOR", "COLUMNS")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    with Terminal() as terminal:
        screens = {name: terminal.screen if to is None else to for name, to in streams.items()}
        done = subprocess.run(
            [sys.executable, "-c", script],
            **{"stderr": terminal.screen, **screens},  # type: ignore[call-overload]
            env={**environment, "TERM": "xterm-256color"},
            check=True,
        )
        return ESCAPES.sub("", terminal.drawn()), done.stdout


@pytest.mark.heavy
def test_printed_output_reaches_a_pipe() -> None:
    """A loop with a bar on the terminal loses no line that its program prints to a pipe or a file."""
    screen, output = run_on_terminal(OUTPUT_SCRIPT, stdout=subprocess.PIPE)
    assert output == ROWS.encode()
    assert "━" in screen
    assert "row" not in screen
    assert [line.strip() for line in screen.splitlines() if line.startswith("note")] == [
        "note 0",
        "note 1",
        "note 2",
    ]


@pytest.mark.heavy
def test_output_on_another_terminal_stays_there() -> None:
    """A bar on one terminal takes no output from another one."""
    with Terminal() as other:
        screen, _ = run_on_terminal(OUTPUT_SCRIPT, stdout=other.screen)
        shown = other.drawn()
    assert shown.replace("\r", "") == ROWS
    assert "row" not in screen


@pytest.mark.heavy
def test_output_on_the_same_terminal_is_above_the_bar() -> None:
    """Each printed line is complete, on its own, and in order."""
    screen, _ = run_on_terminal(OUTPUT_SCRIPT, stdout=None)
    lines = [line.strip() for line in re.split(r"[\r\n]+", screen)]
    printed = [line for line in lines if line.startswith(("row", "cell"))]
    assert printed == ROWS.splitlines()


def test_a_stream_without_a_terminal_gets_lines(clock: ManualClock) -> None:
    """Whether rich is installed or not."""
    assert isinstance(make_progress("files", 1, clock, io.StringIO()), ProgressLines)


def drawn_by(use: Callable[[Progress], None], title: str = "build", *, last_line: bool = False) -> str:
    """Return the output on a terminal of a use of the progress of three items."""
    with Terminal() as terminal:
        with os.fdopen(os.dup(terminal.screen), "w") as screen:
            progress = make_progress(title, 3, SYSTEM_CLOCK, screen, last_line=last_line)
            use(progress)
            progress.stop()
        return terminal.drawn()


def test_a_terminal_shows_a_bar() -> None:
    """The bar shows the title, how many items are done and failed, and the note on the last one."""

    def use(progress: Progress) -> None:
        progress.update(1, 0, "last 12.3 ms")
        progress.update(2, 1, "last 1.50 s")

    drawn = drawn_by(use)
    shown = ESCAPES.sub("", drawn)
    assert "\x1b[" in drawn
    for part in ("build", "━", "2/3", "1 error", "last 1.50 s"):
        assert part in shown


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
@pytest.mark.parametrize("title", ["build", "sh -c 'a very long command line' " * 5, "größe ✓ 長い名前 " * 9])
def test_a_bar_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, title: str) -> None:
    """Title and rate are shortened, so that the count is whole and the bar has one line at any width."""
    monkeypatch.setenv("COLUMNS", str(columns))
    drawn = ESCAPES.sub("", drawn_by(lambda progress: progress.update(2, 1, "last 12.3 ms"), title))
    frames = [frame.strip() for frame in re.split(r"[\r\n]+", drawn) if frame.strip()]
    assert frames
    for frame in frames:
        assert cell_len(frame) <= columns
        assert re.search(r"\b[02]/3( |$)", frame)
        assert frame.startswith(title[:4])


def test_a_title_of_several_lines_is_shown_in_one(clock: ManualClock) -> None:
    """Line breaks of a title, such as a script, become spaces."""
    assert "first second 2/3" in re.sub(
        "[━╺╸ ]+", " ", ESCAPES.sub("", drawn_by(lambda bar: bar.update(2, 0), "first\n  second"))
    )
    pipe = io.StringIO()
    progress = make_progress("first\n  second", 3, clock, pipe)
    progress.update(1, 0)
    progress.stop()
    assert pipe.getvalue() == "first second: 1 of 3 done, 0 errors\n"


def test_the_bar_restores_the_terminal() -> None:
    """When the bar stops, it is erased and the cursor is visible again."""
    drawn = drawn_by(lambda progress: progress.update(1, 0, "last 1 s"))
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    last_frame = drawn[drawn.rindex("last 1 s") :]
    assert "\x1b[2K" in last_frame


def test_the_bar_of_a_loop_stays() -> None:
    """Where no report follows, the final state stays on the screen after the cursor is visible again."""
    drawn = drawn_by(lambda progress: progress.update(3, 1), last_line=True)
    *_, last_frame = drawn.split("\x1b[2K")
    assert re.fullmatch(r"build ━+ 3/3 1 error, [\d,.]+/s\s+", ESCAPES.sub("", last_frame))
    assert drawn.endswith("\x1b[?25h")


def test_printed_lines_appear_above_the_bar() -> None:
    """On a terminal each line is shown on its own, and the bar continues below."""

    def use(progress: Progress) -> None:
        progress.update(1, 0)
        progress.print("run 1 failed: exit code 3", "bold red")
        progress.print("  details")
        progress.update(2, 1)

    lines = [line.strip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", drawn_by(use)))]
    assert lines.index("run 1 failed: exit code 3") < lines.index("details")


@pytest.mark.parametrize("title", ["a[b]", "[red]x", "[/]", "größe ✓", "{task.id}", "a\\"])
def test_a_title_is_not_markup(title: str, clock: ManualClock) -> None:
    """Brackets, braces and other characters of a title are shown unchanged, on a terminal and on a pipe."""
    drawn = drawn_by(lambda progress: progress.update(1, 0), title)
    assert f"{title} " in ESCAPES.sub("", drawn)
    pipe = io.StringIO()
    progress = make_progress(title, 3, clock, pipe)
    progress.update(1, 0)
    progress.stop()
    assert pipe.getvalue() == f"{title}: 1 of 3 done, 0 errors\n"


def test_without_a_last_line_a_quick_job_prints_nothing(clock: ManualClock) -> None:
    """A command that prints a table at the end shows lines only if it takes longer than a few seconds."""
    pipe = io.StringIO()
    progress = make_progress("build", 100, clock, pipe, last_line=False)
    for step in range(100):
        clock.advance(0.01)
        progress.update(step + 1, 0)
    progress.stop()
    assert pipe.getvalue() == ""


def test_a_line_ends_with_the_note(clock: ManualClock) -> None:
    """Every five seconds a line shows the note of the latest update."""
    pipe = io.StringIO()
    progress = make_progress("build", 5, clock, pipe, last_line=False)
    for step, note in enumerate(["last 1 s", "last 12.3 ms", "last 90 s"], 1):
        clock.advance(3)
        progress.update(step, 0, note)
    progress.stop()
    assert pipe.getvalue() == "build: 2 of 5 done, 0 errors, 0.33/s, 9 s left, last 12.3 ms\n"


def test_printed_lines_are_not_markup() -> None:
    """Markup, numbers and paths in a line stay as they are, and a long line is not wrapped."""
    text = "[bold]x[/] /usr/bin 3.14 :smile: " + "x" * 300
    pipe = io.StringIO()
    progress = make_progress("build", 1, SYSTEM_CLOCK, pipe)
    progress.print(text, "bold red")
    progress.stop()
    assert pipe.getvalue() == f"{text}\n"
