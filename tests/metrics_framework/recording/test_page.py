"""The memory page of the compiled engine: another process reads its bytes during and after writes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.metrics_framework.recording import debug_core
from tests.metrics_framework.recording.debug_core import ROOT, debug_library, new_series

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the debug build maps files as Linux does")

MAX_RETRIES = 50


@pytest.fixture(scope="module")
def core() -> Any:
    """Return the debug build of the compiled engine."""
    return debug_core.load(debug_library())


@contextmanager
def running_writer(page: Path) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run a process that records at full speed; return where its histogram and counter are in the page."""
    command = [
        sys.executable,
        "-m",
        "tests.metrics_framework.recording.debug_core",
        str(debug_library()),
        str(page),
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            histogram, counter = map(int, process.stdout.readline().split())
            yield process, histogram, counter
        finally:
            process.kill()
            process.wait()


@pytest.mark.soak
def test_a_reader_beside_a_writer_never_sees_half_a_record(
    core: Any, tmp_path: Path, soak: Callable[[int], int]
) -> None:
    """Count, sum and buckets of each reading agree, with few retries and without the writer's objects."""
    page = tmp_path / "page"
    with running_writer(page) as (_, histogram, counter):
        _, _, _, first = core.debug_read(str(page), histogram, counter, 1)
        reads, wrong, most_retries, last = core.debug_read(str(page), histogram, counter, soak(1_000_000))
    assert reads == soak(1_000_000)
    assert wrong == 0
    assert most_retries <= MAX_RETRIES
    assert last > first >= 1_000  # the writer went on meanwhile


@pytest.mark.soak
def test_without_the_line_log_the_same_readings_are_torn(core: Any, tmp_path: Path) -> None:
    """The check of the previous test can fail: readings that ignore the log are wrong."""
    page = tmp_path / "page"
    with running_writer(page) as (_, histogram, counter):
        _, wrong, _, _ = core.debug_read(str(page), histogram, counter, 100_000, False)
    assert wrong > 0


@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_killed_writer_leaves_a_consistent_page(
    core: Any, tmp_path: Path, soak: Callable[[int], int], how: signal.Signals
) -> None:
    """The page is consistent after a kill or a stop at any moment of a record."""
    chance = random.Random(how)
    for number in range(soak(100)):
        page = tmp_path / f"page{number}"
        with running_writer(page) as (process, histogram, counter):
            time.sleep(chance.uniform(0, 0.02))
            os.kill(process.pid, how)
            if how is signal.SIGKILL:
                process.wait()
            _, wrong, retries, records = core.debug_read(str(page), histogram, counter, 100)
        assert wrong == 0
        assert retries <= MAX_RETRIES
        assert records >= 1_000
        page.unlink()


SCENARIO = """
import random, sys
from tests.metrics_framework.recording import debug_core
core = debug_core.load(debug_core.Path(sys.argv[1]))
chance = random.Random(int(sys.argv[2]))
times = iter(range(10**9, 10**15, 70_000_000))
home = core.Core(lambda: next(times))
home.allows_recent = True
kept = lambda slot: slot.commit(slot.windows, None, len(slot.peek()[1]))
series = [debug_core.new_series(core, home, kind, kept)
          for kind in ("Counter", "Gauge", "Histogram", "Timer", "Outcome")]
counter, gauge, histogram, timer, outcome = series
histogram.slot.count_by((1.0, 10.0, 100.0), seed=True)
home.debug_check()
for number in range(int(sys.argv[3])):
    value = chance.choice([chance.lognormvariate(0, 20), -chance.lognormvariate(0, 3), 0, number, 0.5])
    counter.add(abs(value))
    gauge.set(value)
    gauge.increment(value)
    histogram.observe(value)
    timer.elapse(abs(value), success=number % 3 > 0)
    outcome.finish(chance.choice([None, f"E{number % 40}"]))
    if number % 500 == 499:
        one = chance.choice(series)
        one.tag_set.remove(one)
        histogram.slot.count_by((1.0, float(number)), seed=number % 1000 == 999)
print(home.records)
"""


@pytest.mark.parametrize("seed", range(3))
def test_a_record_changes_only_lines_that_it_logged(seed: int) -> None:
    """The debug build compares all other lines of the page after each record."""
    run = subprocess.run(
        [sys.executable, "-c", SCENARIO, str(debug_library()), str(seed), "1500"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stderr == ""
    assert int(run.stdout) > 5_000


def test_an_empty_state_is_all_zeros(core: Any) -> None:
    """An emptied series records like a new one, in reused memory."""
    home = core.Core()
    histogram = new_series(core, home, "Histogram")
    for _ in range(3):
        for value in range(1_000):
            histogram.observe(value)
        assert histogram.state().count == 1_000
        assert histogram.tag_set.remove(histogram).sum == 499_500
        assert histogram.state() is None
    for _ in range(2_000):  # the log goes round, so freed blocks are used again
        histogram.observe(1.5)
    assert histogram.state().state.exact is None
    assert (histogram.state().count, histogram.state().min, histogram.state().max) == (2_000, 1.5, 1.5)
