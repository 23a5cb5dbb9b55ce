"""Shared pages while their process records at full speed, stands still, or was killed amid a record."""

from __future__ import annotations

import gc
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from tests.metrics_framework.recording import debug_core
from tests.metrics_framework.recording.debug_core import ROOT, debug_library, new_series

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform != "linux", reason="these tests stop processes as Linux does"),
    pytest.mark.timeout(7_200),
]

MAX_RETRIES = 50
VALUES = [0, *accumulate(number % 1000 + 1 for number in range(2_000))]
"""The sums of the first values that a writer records."""


@pytest.fixture(scope="module")
def core() -> Any:
    """Return the debug build of the compiled engine."""
    return debug_core.load(debug_library())


class Host:
    """Starts writers, each of which is a fork of one process that has loaded the engine."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    @contextmanager
    def writer(self, page: Path) -> Iterator[int]:
        """Return the id of a process that records at full speed into a page."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{page}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        try:
            yield pid
        finally:
            end(pid)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """Return a host."""
    command = [sys.executable, "-m", "tests.metrics_framework.recording.debug_core", str(debug_library())]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Host(process)
        process.kill()


def end(pid: int) -> None:
    """Kill a writer and wait until it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        while True:
            os.kill(pid, 0)
            time.sleep(0.0005)


def stop(pid: int) -> None:
    """Stop a writer and wait until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.0005)


def live_reader(core: Any, page: Path) -> Any:
    """Return a reader of a page."""
    file = os.open(page, os.O_RDONLY)
    try:
        return core.PageReader(file)
    finally:
        os.close(file)


def is_whole(distribution: Any, records: int | None = None) -> bool:
    """Return whether a distribution is that of consecutive values of the pattern.

    Args:
        distribution: A distribution, of the first values unless ``records`` is 0.
        records: 0 if it begins anywhere.
    """
    rounds, rest = divmod(distribution.count, 1000)
    starts = range(1000) if records == 0 else range(1)
    sums = (rounds * 500_500 + VALUES[start + rest] - VALUES[start] for start in starts)
    buckets = distribution.buckets
    held = sum(buckets.positive.counts()) + buckets.zeros if distribution.count > 128 else distribution.count
    return distribution.sum in sums and held == distribution.count


def timed_read(reader: Any) -> tuple[int, Any, Any]:
    """Return the nanoseconds of CPU of one read, with the distribution and the slots of the histogram."""
    began_ns = time.thread_time_ns()
    series, slots = reader.read(1), reader.read_slots(1)
    return time.thread_time_ns() - began_ns, series[0], slots


def check_page(reader: Any) -> int:
    """Check all that a page has; return the number of records of the histogram."""
    indexes = {entry[0].decode(): index for index, entry in reader.poll()}
    assert set(indexes) == {"Histogram", "Counter"}
    histogram, counter = reader.read(indexes["Histogram"])[0], reader.read(indexes["Counter"])[0]
    assert is_whole(histogram)
    assert counter.value == counter.records // 1000 * 500_500 + VALUES[counter.records % 1000]
    opened, closed = reader.read_slots(indexes["Histogram"])
    for slot in (opened, closed):
        if slot is not None:
            assert is_whole(slot[1], 0)
            assert slot[0] % 1_000_000_000 == 0
    assert opened is not None
    count: int = histogram.count
    return count


@pytest.mark.soak
def test_a_read_beside_a_writer_is_whole_and_short(
    core: Any, host: Host, tmp_path: Path, soak: Callable[[int], int]
) -> None:
    """Count, sum and buckets agree, with at most 50 retries and hardly more CPU than beside no writer."""
    page = tmp_path / "page"
    gc.collect()
    gc.disable()  # a collection is not a part of a read
    try:
        with host.writer(page):
            reader = live_reader(core, page)
            first = last = check_page(reader)
            durations = []
            for number in range(soak(300_000)):
                duration_ns, distribution, slots = timed_read(reader)
                durations.append(duration_ns)
                assert distribution.count >= last
                last = distribution.count
                assert is_whole(distribution)
                assert number % 100 or is_whole(slots[0][1], 0)
        alone_ns = statistics.median(timed_read(reader)[0] for _ in range(1_000))
    finally:
        gc.enable()
    assert reader.most_retries <= MAX_RETRIES
    # The rest includes interrupts, and on a virtual machine the time that its host takes.
    assert statistics.quantiles(durations, n=1_000)[-1] <= MAX_RETRIES * alone_ns
    assert last > first >= 1_000  # the writer went on meanwhile


@pytest.mark.soak
def test_without_the_line_log_the_same_readings_are_torn(core: Any, host: Host, tmp_path: Path) -> None:
    """The checks of these tests can fail: readings that ignore the log are wrong."""
    page, torn = tmp_path / "page", 0
    with host.writer(page):
        reader = live_reader(core, page)
        check_page(reader)
        reader.debug_ignore_log()
        for _ in range(20_000):
            try:
                torn += not is_whole(reader.read(1)[0])
            except ValueError:  # the buckets do not add up
                torn += 1
    assert torn > 0


@pytest.mark.soak
def test_a_killed_writer_leaves_a_whole_page(
    core: Any, host: Host, tmp_path: Path, soak: Callable[[int], int]
) -> None:
    """A page is whole after a kill at any moment, and some of the kills interrupt a record."""
    chance, interrupted = random.Random(1), 0
    for number in range(soak(10_000)):
        page = tmp_path / f"page{number}"
        with host.writer(page):
            time.sleep(chance.uniform(0, 0.003))
        reader = core.PageReader.of(page.read_bytes())
        interrupted += reader.header()["unfinished"] > 0
        assert check_page(reader) >= 1_000
        assert reader.retries == 0
        page.unlink()
    assert interrupted > 0


@pytest.mark.soak
def test_a_stopped_writer_delays_no_reader(
    core: Any, host: Host, tmp_path: Path, soak: Callable[[int], int]
) -> None:
    """A page is whole while its process stands still at any moment, also in the middle of a record."""
    chance, interrupted = random.Random(2), 0
    page = tmp_path / "page"
    with host.writer(page) as pid:
        for _ in range(soak(5_000)):
            time.sleep(chance.uniform(0, 0.001))
            stop(pid)
            reader = live_reader(core, page)
            interrupted += reader.header()["unfinished"] > 0
            reader.poll()
            reader.read(1)
            reader.read_slots(1)
            assert check_page(live_reader(core, page)) >= 1_000
            assert reader.retries == 0
            os.kill(pid, signal.SIGCONT)
    assert interrupted > 0


SCENARIO = """
import random, sys
from tests.metrics_framework.recording import debug_core
core = debug_core.load(debug_core.Path(sys.argv[1]))
chance = random.Random(int(sys.argv[2]))
times = iter(range(10**9, 10**15, 70_000_000))
home = core.Core(lambda: next(times))
home.allows_recent = True
kept = lambda slot: slot.commit(slot.windows, None, len(slot.peek()[1]))
if len(sys.argv) > 4:
    home.share(sys.argv[4])
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
        timer.tag_set.key = str(number).encode()
        counter.drop_recent()
        histogram.slot.count_by((1.0, float(number)), seed=number % 1000 == 999)
print(home.records)
"""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shared", [False, True])
def test_a_record_changes_only_lines_that_it_logged(seed: int, shared: bool, tmp_path: Path) -> None:
    """The debug build compares all other lines of the page after each record, also of the directory."""
    arguments = [str(debug_library()), str(seed), "1500", *([str(tmp_path / "page")] if shared else [])]
    run = subprocess.run(
        [sys.executable, "-c", SCENARIO, *arguments],
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
