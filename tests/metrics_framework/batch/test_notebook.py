"""Batches, `measure` and commands in a Jupyter kernel, as a person sees their outputs in a notebook."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from tests.terminal import ESCAPES

jupyter_client = pytest.importorskip("jupyter_client.manager")
jupyter_core = pytest.importorskip("jupyter_core.utils")
pytest.importorskip("ipykernel")

pytestmark = pytest.mark.heavy

CELL_SECONDS = 60


class Notebook:
    """The cells of a notebook in a folder, with one kernel for all of them.

    Args:
        folder: The working folder of the kernel.
    """

    def __init__(self, folder: Path) -> None:
        self._kernel, self._client = jupyter_client.start_new_kernel(cwd=str(folder))
        self._pid = int(self.run("import os; os.getpid()")["result"])

    def run(self, source: str, stop_after: float | None = None) -> dict[str, str]:
        """Run a cell and return its outputs: ``stdout``, ``stderr``, ``result`` and ``error``.

        Args:
            source: The code.
            stop_after: Press the stop button after so many seconds.
        """
        outputs: dict[str, str] = {}

        def show(message: dict[str, Any]) -> None:
            name, text = _content(message["msg_type"], message["content"])
            if name:
                outputs[name] = outputs.get(name, "") + text

        # Not `interrupt_kernel`, which leaves an event loop open in another thread.
        stop = Timer(stop_after or CELL_SECONDS, lambda: os.kill(self._pid, signal.SIGINT))
        stop.start()
        try:
            self._client.execute_interactive(source, timeout=2 * CELL_SECONDS, output_hook=show)
        finally:
            stop.cancel()
            stop.join()
        return outputs

    def close(self) -> None:
        """End the kernel."""
        self._client.stop_channels()
        self._kernel.shutdown_kernel(now=True)
        jupyter_core.ensure_event_loop().close()
        asyncio.set_event_loop(None)


def _content(kind: str, content: dict[str, Any]) -> tuple[str, str]:
    if kind == "stream":
        return content["name"], content["text"]
    if kind == "error":
        return "error", f"{content['ename']}: {content['evalue']}"
    return ("result", content["data"]["text/plain"]) if kind == "execute_result" else ("", "")


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """Provide an empty notebook in an empty folder."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    opened = Notebook(tmp_path)
    yield opened
    opened.close()


LOOP = """
from metrics_framework import MetricsSystem
from metrics_framework.batch import BatchMetrics

metrics = MetricsSystem()
batch = BatchMetrics("nightly", system=metrics)
with batch:
    for number in batch.track(range(4), title="reading"):
        print("row", number)
        with batch.file(f"{number}.csv"):
            if number == 1:
                raise ValueError("no number")
batch.counts
"""


def test_a_loop_shows_its_rows_its_progress_and_its_result(notebook: Notebook) -> None:
    """Printed rows are complete and in order, progress is plain text, and the result is that of the batch."""
    outputs = notebook.run(LOOP)
    assert outputs["stdout"] == "row 0\nrow 1\nrow 2\nrow 3\n"
    assert re.fullmatch(r"reading: 4 of 4 done, 1 error, [\d,]+/s\n", outputs["stderr"])
    assert outputs["result"] == "Counts(files=4, processed=3, errors=1, skipped=0)"
    assert "error" not in outputs
    errors = notebook.run('batch.summary().to_dict()["errors"]["by_type"]')
    assert errors == {"result": "{'ValueError': 1}"}
    rate = notebook.run('metrics.snapshot().metrics.custom["operation:batch/file/success_rate"]')
    assert rate == {"result": "0.75"}


def test_a_long_loop_shows_its_progress_while_it_runs(notebook: Notebook) -> None:
    """A line appears every five seconds of the loop, before it ends."""
    outputs = notebook.run(
        "from metrics_framework.batch import BatchMetrics\n"
        "from metrics_framework.clock import ManualClock\n"
        "clock = ManualClock()\n"
        "for number in BatchMetrics(clock=clock).track(range(4)):\n"
        "    clock.advance(3)\n"
    )
    assert outputs == {
        "stderr": "files: 2 of 4 done, 0 errors, 0.33/s, 6 s left\nfiles: 4 of 4 done, 0 errors, 0.33/s\n"
    }


def test_async_cells_are_measured(notebook: Notebook) -> None:
    """`measure` and `track` work in a cell with ``await``, which runs in the loop of the kernel."""
    notebook.run(LOOP)
    outputs = notebook.run(
        "import asyncio\n"
        "@metrics.measure('step')\n"
        "async def step():\n"
        "    await asyncio.sleep(0.01)\n"
        "async with metrics.measure('step'):\n"
        "    await asyncio.sleep(0.01)\n"
        "async for number in batch.track(range(2)):\n"
        "    await step()\n"
        "stats = metrics.timer.get_timing_stats('step')\n"
        "stats['count'], stats['min'] >= 10, metrics.tracker.get_success_rate('step')\n"
    )
    assert outputs["result"] == "(3, True, 1.0)"
    assert outputs["stderr"].startswith("files: 2 of 2 done, 0 errors")


def test_a_failing_cell_is_measured_and_shows_its_own_error(notebook: Notebook) -> None:
    """The error of the cell is shown unchanged, and the next cell finds it in the metrics."""
    notebook.run(LOOP)
    outputs = notebook.run("with metrics.measure('load'):\n    {}['missing']")
    assert outputs == {"error": "KeyError: 'missing'"}
    found = notebook.run("metrics.tracker.get_failure_breakdown('load')")
    assert found == {"result": "{'KeyError': 1}"}


def test_a_stopped_cell_leaves_its_file_to_do(notebook: Notebook) -> None:
    """The stop button ends the loop; finished files count, the interrupted one does not."""
    notebook.run(
        "import time\n"
        "from metrics_framework.batch import BatchMetrics\n"
        "batch = BatchMetrics('b', journal='journal')\n"
    )
    outputs = notebook.run(
        "with batch:\n"
        "    for name in batch.track(['quick', 'slow', 'last']):\n"
        "        with batch.file(name):\n"
        "            time.sleep(60 if name == 'slow' else 0)\n",
        stop_after=2,
    )
    assert outputs["error"].startswith("KeyboardInterrupt")
    assert outputs["stderr"].startswith("files: 1 of 3 done, 0 errors")
    assert notebook.run("batch.counts.files") == {"result": "1"}
    again = notebook.run(
        "batch.close()\n"
        "batch = BatchMetrics('b', journal='journal')\n"
        "list(batch.remaining(['quick', 'slow', 'last']))\n"
    )
    assert again == {"result": "['slow', 'last']"}


def test_a_cell_with_a_journal_can_be_run_again(notebook: Notebook) -> None:
    """While the batch of the first run is open, the error names the remedy."""
    cell = "from metrics_framework.batch import BatchMetrics\nbatch = BatchMetrics('b', journal='journal')"
    assert notebook.run(cell) == {}
    error = notebook.run(cell)["error"]
    assert error.startswith("InvalidInputError: the journal 'journal' is in use by another batch: close it")
    assert notebook.run(f"batch.close()\n{cell}") == {}


def test_worker_processes_call_functions_of_modules_only(notebook: Notebook, tmp_path: Path) -> None:
    """A function of a module beside the notebook works; one of a cell is one error, and no file is done."""
    (tmp_path / "work.py").write_text("def double(number):\n    return 2 * number\n")
    notebook.run(
        "from metrics_framework.batch import BatchMetrics\n"
        "from work import double\n"
        "batch = BatchMetrics()\n"
        "def triple(number):\n"
        "    return 3 * number\n"
    )
    found = notebook.run("sorted(found.value for found in batch.map(double, range(5), processes=2))")
    assert found == {"result": "[0, 2, 4, 6, 8]"}
    outputs = notebook.run("list(batch.map(triple, range(5), processes=2))")
    assert outputs.keys() == {"error"}
    assert outputs["error"].startswith("InvalidInputError: worker processes cannot load <function triple")
    assert outputs["error"].endswith(
        "move it to a module that they can import, which a notebook and `python -c` are not, or use threads="
    )
    assert notebook.run("batch.counts.files") == {"result": "5"}
    threads = notebook.run("sorted(found.value for found in batch.map(triple, range(3), threads=2))")
    assert threads == {"result": "[0, 3, 6]"}


def test_a_shell_cell_shows_the_bar_and_the_table(notebook: Notebook, tmp_path: Path) -> None:
    """``!metrics-framework run`` draws its bar in one line, and prints the table and the path."""
    outputs = notebook.run(
        f"!{sys.executable} -m metrics_framework run -n 3 --name nap --output snapshots -- sleep 0.1"
    )
    drawn = outputs["stdout"]
    bar, _, table = ESCAPES.sub("", drawn).partition("nap, 3 runs")
    assert "3/3" in bar
    assert [line for line in bar.split("\n")[:-1] if "nap" not in line] == []
    assert bar.count("\n") == 1  # a notebook cannot erase more than the current line
    assert "peak memory" in table
    assert (tmp_path / table.splitlines()[-1]).is_file()
