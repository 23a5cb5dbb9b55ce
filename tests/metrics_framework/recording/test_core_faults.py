"""Faults that are specific to C: exhausted memory, leaks, subinterpreters, hostile input."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.metrics_framework.recording import debug_core
from tests.metrics_framework.recording.debug_core import ROOT, debug_library, new_series
from tests.metrics_framework.recording.hostile import Hostile


def compiled() -> Any:
    """Return the compiled engine, or skip the test if it is not built."""
    return pytest.importorskip("metrics_framework.recording._core", exc_type=ImportError)


def keep(slot: Any) -> None:
    """Keep the last closed slot. Without memory it waits: the record that closed it counts already."""
    with suppress(MemoryError):
        closed = slot.peek()[1]
        slot.commit(slot.windows, closed[-1:], len(closed))


class Scene:
    """A core with a series of each kind, an index, and the objects that record by name.

    Args:
        core: The module of the engine.
        page: Where the core shares its numbers, if it does.
    """

    def __init__(self, core: Any, page: Path | None = None) -> None:
        self.core = core
        self.home = core.Core()
        if page is not None:
            self.home.share(page)
        self.home.allows_recent = True
        kinds = ("Counter", "Gauge", "Histogram", "Timer", "Outcome")
        self.series = [new_series(core, self.home, kind, keep) for kind in kinds]
        self.counts = [0] * len(self.series)
        self.indexes = {
            kind: core.SeriesIndex() for kind in ("counter", "gauge", "histogram", "timer", "outcome")
        }
        for (kind, index), series in zip(self.indexes.items(), self.series, strict=True):
            index.learn(kind, {}, series)
            index.learn(kind, {"alias": "yes"}, series)
        self.recorder = core.Recorder(self.home, self)
        self.operations = core.OperationRecorder(
            self.home, self.indexes["timer"], self.indexes["outcome"], self
        )

    def index(self, kind: str) -> Any:
        """Return the index of a kind."""
        return self.indexes[kind]

    def find(self, kind: str, name: object, tags: object) -> Any:
        """Reject unknown names."""

    find_step = find_timing = find_outcomes = find

    def steps(self, number: int) -> list[tuple[int | None, Callable[[], object]]]:
        """Return calls, each with the index of the series that it records into."""
        counter, gauge, histogram, timer, outcome = self.series
        return [
            (0, lambda: counter.add(number)),
            (0, lambda: self.recorder.record_counter("counter", 1, {"alias": "yes"})),
            (1, lambda: gauge.set(-number / 3)),
            (1, lambda: gauge.increment()),
            (2, lambda: histogram.observe(1.7**number * (-1) ** number)),
            (2, lambda: self.recorder.record_histogram("histogram", number)),
            (3, lambda: timer.elapse(float(number), success=False)),
            (4, lambda: outcome.finish(f"Error{number}")),
            (None, lambda: (one := histogram.state()) and one.merge(one).quantiles(0.5, 0.99)),
            (None, lambda: histogram.slot.peek()),
            (None, lambda: histogram.slot.count_by((float(number), 1e9), seed=True)),
            (None, lambda: histogram.counted()),
            (None, lambda: self.core.read_values([counter, gauge])),
            (None, lambda: self.core.read_versions(self.series)),
        ]

    def run(self, number: int, fail: Callable[[], None]) -> int:
        """Take all steps, any of which may fail to allocate; return how many raised MemoryError."""
        failures = 0
        for place, step in self.steps(number):
            fail()
            try:
                step()
            except MemoryError:
                failures += 1
            else:
                if place is not None:
                    self.counts[place] += 1
        return failures


@pytest.mark.heavy
@pytest.mark.parametrize("shared", [False, True])
def test_a_record_that_finds_no_memory_counts_nothing_and_harms_nothing(shared: bool, tmp_path: Path) -> None:
    """Each allocation fails in turn and raises MemoryError; totals are those of the other records."""
    core = debug_core.load(debug_library())
    scene, failures = Scene(core, tmp_path / "page" if shared else None), 0
    for number in range(1, 160):
        for allocation in range(4):
            failures += scene.run(number, lambda allocation=allocation: core.debug_fail_after(allocation))  # type: ignore[misc]
        core.debug_fail_after(-1)
        assert [series.state().records if series.state() else 0 for series in scene.series] == scene.counts
    assert failures > 100
    assert scene.home.records == sum(scene.counts)
    if shared:
        reader = core.PageReader.of((tmp_path / "page").read_bytes())
        read = {entry[0].decode(): reader.read(index)[0].records for index, entry in reader.poll()}
        kinds = ("Counter", "Gauge", "Histogram", "Timer", "Outcome")
        own = dict(zip(kinds, scene.counts, strict=True))
        assert len(read) + scene.home.unshared_series == len(own)
        assert read == {kind: own[kind] for kind in read}


@pytest.mark.slow
def test_a_reader_that_finds_no_memory_loses_nothing(tmp_path: Path) -> None:
    """Each allocation of a poll or a read fails in turn; later calls report and read everything."""
    core = debug_core.load(debug_library())
    scene = Scene(core, tmp_path / "page")
    for number in range(1, 160):
        scene.run(number, lambda: None)
    data, failures = (tmp_path / "page").read_bytes(), 0
    for allocation in range(40):
        reader = core.PageReader.of(data)
        found: dict[int, Any] = {}
        for call in (reader.poll, reader.changed, *[reader.read, reader.read_slots] * 5):
            index = [] if call in (reader.poll, reader.changed) else [1 + failures % 5]
            core.debug_fail_after(allocation)
            try:
                answer = call(*index)
            except MemoryError:
                failures += 1
            else:
                found.update(answer if call == reader.poll else [])
            core.debug_fail_after(-1)
        found.update(reader.poll())
        assert sorted(found) == [1, 2, 3, 4, 5]
        assert all(reader.read(index) and reader.read_slots(index)[0] for index in found)
    assert failures > 5


@pytest.mark.slow
def test_a_dropped_store_frees_all_memory() -> None:
    """No block or object of cores, series, indexes, logs and aggregates in cycles remains."""
    core = compiled()

    def once() -> None:
        scene = Scene(core)
        log = scene.home.subscribe(10)
        for number in range(30):
            scene.run(number, lambda: None)
        scene.home.publish_recent = scene.find  # a cycle through the core
        scene.series[0].tag_set.remove(scene.series[0])
        log.drain()
        scene.home.reset()

    def blocks() -> int:
        gc.collect()
        return sys.getallocatedblocks()

    rounds = 400
    for _ in range(rounds):  # the interpreter fills caches of its own at first
        once()
    before = blocks()
    for _ in range(rounds):
        once()
    assert blocks() - before < rounds * 0.75  # one object that leaks is a block a round at least


@pytest.mark.slow
def test_hostile_input_neither_crashes_nor_corrupts(soak: Callable[[int], int]) -> None:
    """Invariants hold with keys that record when compared, number-like values, and publishers that raise."""
    for seed in range(3):
        Hostile(compiled(), seed).run(soak(20_000))


@pytest.mark.soak
def test_hostile_input_with_many_steps(soak: Callable[[int], int]) -> None:
    """The same with more steps and other seeds."""
    for seed in range(100, 120):
        Hostile(compiled(), seed).run(soak(200_000))


@pytest.mark.soak
def test_hostile_input_while_allocations_fail(soak: Callable[[int], int]) -> None:
    """The same while random allocations fail."""
    core = debug_core.load(debug_library())
    try:
        for seed in range(200, 210):
            Hostile(core, seed, fails=True).run(soak(100_000))
    finally:
        core.debug_fail_after(-1)


IN_SUBINTERPRETER = """
from metrics_framework import MetricsSystem
from metrics_framework.recording import engine
with MetricsSystem() as metrics:
    metrics.collector.increment("records", {"engine": engine.ENGINE})
    assert metrics.collector.store.summary("records")["total"] == 1
"""

RUN_IN_SUBINTERPRETERS = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    made = [interpreters.create("legacy"), interpreters.create("isolated")]
else:
    import _xxsubinterpreters as interpreters
    made = [interpreters.create(isolated=False)]
from metrics_framework import MetricsSystem
metrics = MetricsSystem()
metrics.collector.increment("here")
for interpreter in made:
    failed = interpreters.run_string(interpreter, {code!r})
    assert failed is None, failed
    interpreters.destroy(interpreter)
metrics.collector.increment("here")
print(metrics.collector.store.summary("here")["total"])
"""


@pytest.mark.heavy
def test_subinterpreters_record_on_their_own() -> None:
    """A subinterpreter loads its own engine; the main one is not affected when it ends."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(RUN_IN_SUBINTERPRETERS).format(code=IN_SUBINTERPRETER)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.stdout.strip(), run.returncode) == ("2", 0), run.stderr


@pytest.mark.heavy
def test_a_module_can_be_loaded_twice() -> None:
    """Two copies of the module share no state: one rejects a series of the other."""
    one, other = compiled(), debug_core.load(debug_library())
    series = new_series(one, one.Core(), "Counter")
    with pytest.raises(TypeError, match="is not a Series"):
        other.read_versions([series])
    assert importlib.import_module("metrics_framework.recording._core") is one
