"""Measures one library in one case, and prints the numbers as JSON. Each run is a separate process.

``python -m benchmarks.recording_workers time LIBRARY CASE SCALE`` prepares the case, prints a line, and then
answers each line that it reads with one measurement, so that libraries can take turns. The other measures
print one JSON object: ``count``, ``tail``, ``memory``, ``windows``. A scale below 1 does less of everything.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import pickle
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any, Literal, NamedTuple

from benchmarks.peers import PEERS, TAGS

CALLS = 20_000
"""Calls in one turn."""

BATCH = 500
"""How many arguments are made before the clock starts: few enough to stay in the processor's cache."""

MAX_SECONDS = 900
"""The time-out of one turn."""

COUNTED = (500, 2_500)
"""How often a statement runs under valgrind, in two processes; start and setup cancel in the difference."""

Given = Literal["_", "value", "tags", "tags, value", "name"]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        does: The action, a key of `Peer.statements`.
        given: The names that the loop binds for the statement.
        series: Among how many series the tags choose at random.
        fresh: Whether each call gets its own dict and strings. Otherwise each series has one dict.
        threads: How many threads share the calls.
        calls: Calls in one turn.
        turns: Turns in a round; 0 for the default.
    """

    does: str
    given: Given = "_"
    series: int = 0
    fresh: bool = False
    threads: int = 1
    calls: int = CALLS
    turns: int = 0


def _by_name(kind: str, given: Given = "_") -> dict[str, Case]:
    both: Given = "tags, value" if given == "value" else "tags"
    return {
        f"{kind}, one series": Case(kind, given),
        f"{kind}, 2 000 series": Case(f"{kind} of tags", both, series=2_000, fresh=True),
        f"{kind}, 10 000 series": Case(f"{kind} of tags", both, series=10_000, fresh=True),
    }


CASES: dict[str, Case] = {
    **_by_name("counter"),
    "counter, no tags": Case("counter without tags"),
    "counter, labels by position": Case("counter by position"),
    **_by_name("gauge"),
    "gauge, one series, other values": Case("gauge value", "value"),
    "gauge, no tags": Case("gauge without tags"),
    "gauge, one step up": Case("gauge step"),
    **_by_name("histogram", "value"),
    "histogram, no tags": Case("histogram without tags", "value"),
    **_by_name("timer", "value"),
    "bound counter, add": Case("bound counter"),
    "bound gauge, set": Case("bound gauge"),
    "bound gauge, set to other values": Case("bound gauge value", "value"),
    "bound histogram, observe": Case("bound histogram", "value"),
    "bound timer, with time()": Case("bound timer"),
    "timer by id, start and stop": Case("timer by id"),
    "timer, a function": Case("timed function"),
    "measure": Case("measure"),
    "8 threads, 100 counters": Case("counter of tags", "tags", series=100, threads=8, calls=10 * CALLS),
    "2 000 counters, each once a second": Case("counter of names", "name", calls=128_000, turns=1),
    "2 000 histograms, each once a second": Case("histogram of names", "name", calls=128_000, turns=1),
}

EMPTY = "an empty loop"
"""The case that measures the loop by itself."""


class Loop:
    """A case of a library: a compiled loop around its statement.

    Args:
        peer: The library.
        case: The case.
        scale: Share of the calls and series, 1 for all.
    """

    def __init__(self, peer: str, case: Case, scale: float = 1) -> None:
        library = PEERS[peer]
        self._case, self._scale = case, scale
        self.calls = max(int(case.calls * scale), 20)
        self._random = random.Random(2)
        self._values = [self._random.lognormvariate(0, 1) for _ in range(BATCH)]
        self.names: dict[str, Any] = {"TAGS": TAGS, "_clock": time.thread_time_ns}
        exec(library.setup + library.setups.get(case.does, ""), self.names)
        self.run: Callable[[Iterable[Any]], int] = self.compiled(library.statements[case.does], case.given)
        self.settle: Callable[[], object] = self.names.get("settle", lambda: None)
        self._series = max(int(case.series * scale), 1)
        self._sets = [_tags(number) for number in range(self._series)]
        # All series exist, made of other strings than those that are recorded with.
        for number in range(case.series and self._series):
            items = [(_tags(number), value) for value in self._values[: library.steady_after]]
            self.run(items if "value" in case.given else [items[0][0]])
        for items in self.batches(max(self.calls // 10, min(self.calls, 1_000))):
            self.run(items)
        self.settle()

    def compiled(self, statement: str, given: Given) -> Callable[[Iterable[Any]], int]:
        """Return a function that runs a statement once for each item and returns the nanoseconds of CPU."""
        source = (
            f"def run(items):\n"
            f"    _begun = _clock()\n"
            f"    for {given} in items:\n{indent(statement, ' ' * 8)}\n"
            f"    return _clock() - _begun\n"
        )
        exec(source, self.names)
        run: Callable[[Iterable[Any]], int] = self.names["run"]
        return run

    def batches(self, calls: int) -> Iterator[list[Any]]:
        """Yield the arguments of a number of calls in small batches, created on demand."""
        case = self._case
        if case.given == "name":
            for _ in range(0, calls, len(self.names["names"])):
                yield self.names["names"]
                self.names.get("next_second", lambda: None)()
            return
        for begin in range(0, calls, BATCH):
            size = min(BATCH, calls - begin)
            if "tags" not in case.given:
                yield self._values[:size]
                continue
            chosen = [self._random.randrange(self._series) for _ in range(size)]
            tags = [_tags(number) if case.fresh else self._sets[number] for number in chosen]
            yield list(zip(tags, self._values[:size], strict=True)) if "value" in case.given else tags

    def turn(self) -> float:
        """Return nanoseconds of CPU a call, of one turn; deferred work is part of it."""
        gc.collect()
        if self._case.threads > 1:
            spent = self._in_threads()
        else:
            spent = sum(self.run(items) for items in self.batches(self.calls))
        begin = time.thread_time_ns()
        self.settle()
        return (spent + time.thread_time_ns() - begin) / self.calls

    def _in_threads(self) -> int:
        threads = self._case.threads
        batches = [list(itertools.chain(*self.batches(self.calls // threads))) for _ in range(threads)]
        together, spent = threading.Barrier(threads), []

        def work(items: list[Any]) -> None:
            together.wait()
            spent.append(self.run(items))

        workers = [threading.Thread(target=work, args=(items,)) for items in batches]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return sum(spent)


def _tags(number: int) -> dict[str, str]:
    """Return the tags of a series: a new dict of new strings."""
    return {"method": f"m{number % 100}", "status": f"s{number // 100}"}


def serve_turns(peer: str, title: str, scale: float) -> None:
    """Prepare a case, print ``"ready"``, and measure one turn for each line of standard input."""
    signal.alarm(MAX_SECONDS)
    turn = _empty_turn if title == EMPTY else Loop(peer, CASES[title], scale).turn
    print(json.dumps("ready"), flush=True)
    for _ in sys.stdin:
        signal.alarm(MAX_SECONDS)
        print(json.dumps(turn()), flush=True)


def _empty_turn() -> float:
    names: dict[str, Any] = {"_clock": time.thread_time_ns}
    exec("def run(items):\n _begun = _clock()\n for _ in items:\n  pass\n return _clock() - _begun\n", names)
    run: Callable[[Iterable[Any]], int] = names["run"]
    return sum(run(range(BATCH)) for _ in range(CALLS // BATCH)) / CALLS


def run_for_count(peer: str, title: str, scale: float) -> None:
    """Run a case while valgrind counts the instructions of this process.

    Args:
        peer: The library.
        title: The case.
        scale: Index of the number of calls in `COUNTED`.
    """
    loop = Loop(peer, CASES[title], 0.1)
    # Both processes make the same arguments, so that this cancels in the difference. A garbage collection
    # would not: a full one that runs in only one of the processes is larger than all calls.
    items = list(itertools.chain(*loop.batches(max(COUNTED))))
    gc.disable()
    loop.run(items[: COUNTED[int(scale)]])
    loop.settle()
    os._exit(0)


def measure_tail(peer: str, title: str, scale: float) -> dict[str, float]:
    """Return the slowest records, in microseconds, while another thread reads all the time."""
    loop = Loop(peer, CASES["histogram, one series"], scale)
    statements = PEERS[peer].statements
    took: list[int] = []
    loop.names.update(perf=time.perf_counter_ns, took=took)
    read = loop.compiled(statements["read"], "_")
    record = loop.compiled(f"begun = perf()\n{statements['histogram']}\ntook.append(perf() - begun)", "value")
    stop = threading.Event()

    def reading() -> None:
        while not stop.is_set():
            read([None])

    thread = threading.Thread(target=reading, daemon=True)
    thread.start()
    for items in loop.batches(int(2 * CALLS * scale)):
        record(items)
    stop.set()
    thread.join()
    took.sort()
    return {
        "p50": took[len(took) // 2] / 1e3,
        "p99.99": took[int(len(took) * 0.9999)] / 1e3,
        "max": took[-1] / 1e3,
    }


class Held(NamedTuple):
    """A number of series and their records.

    Attributes:
        does: The action, a key of `Peer.statements`.
        series: How many series there are.
        records: How often each is recorded into.
        own_strings: Whether the strings of a series' tags count; otherwise they belong to the application.
    """

    does: str
    series: int
    records: int
    own_strings: bool = False


MEMORY: dict[str, Held] = {
    "counter": Held("counter of tags", 100_000, 3),
    "counter and the strings of its tags": Held("counter of tags", 100_000, 3, own_strings=True),
    "histogram of 3 values": Held("histogram of tags", 10_000, 3),
    "histogram of 128 values": Held("histogram of tags", 5_000, 128),
    "histogram of 10 000 values": Held("histogram of tags", 200, 10_000),
}


def measure_memory(peer: str, title: str, scale: float) -> dict[str, float]:
    """Return resident bytes a series."""
    held = MEMORY[title]
    is_histogram = held.does.startswith("histogram")
    loop = Loop(peer, Case(held.does, "tags, value" if is_histogram else "tags", series=1), scale)
    number = max(int(held.series * scale), 10)
    chosen = random.Random(3)
    kept = None if held.own_strings else [_tags(index) for index in range(1, number + 1)]
    gc.collect()
    before = _resident()
    for _ in range(max(int(held.records * min(1, 10 * scale)), 3)):
        sets = map(_tags, range(1, number + 1)) if kept is None else map(dict, kept)
        loop.run(((tags, chosen.lognormvariate(0, 1)) for tags in sets) if is_histogram else sets)
    loop.settle()
    gc.collect()
    return {"bytes": (_resident() - before) / number}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


WINDOWS = {"counter": "counter of names", "histogram": "histogram of names"}
MONTH = (*(256,) * 10_000, *(1,) * 7_200)
"""The seconds between bursts of records: 30 days, of which the last two hours are busy every second."""


def measure_windows(peer: str, title: str, scale: float) -> dict[str, float]:
    """Return resident bytes of the time windows of one name after 30 days of an injected clock."""
    library = PEERS[peer]
    names: dict[str, Any] = {"TAGS": TAGS}
    exec(library.setup + library.setups[WINDOWS[title]], names)
    collector, now = names["collector"], names["now"]
    chosen = random.Random(4)
    for seconds in MONTH if scale == 1 else MONTH[:: int(1 / scale)]:
        now[0] += seconds * 1_000_000_000
        for _ in range(20):
            if title == "counter":
                collector.record_counter("name", 1)
            else:
                collector.record_histogram("name", chosen.lognormvariate(0, 1))
    [(_, metric)] = names["store"].metrics()
    [slot] = metric.slots
    windows = pickle.dumps(slot.peek()[0])
    pickle.loads(windows)
    gc.collect()
    before = _resident()
    copies = [pickle.loads(windows) for _ in range(100)]
    return {"bytes": (_resident() - before) / len(copies)}


MEASURES: dict[str, Callable[[str, str, float], dict[str, float] | None]] = {
    "time": serve_turns,
    "count": run_for_count,
    "tail": measure_tail,
    "memory": measure_memory,
    "windows": measure_windows,
}

if __name__ == "__main__":
    _, chosen_measure, chosen_peer, chosen_case, chosen_scale = sys.argv
    result = MEASURES[chosen_measure](chosen_peer, chosen_case, float(chosen_scale))
    if result is not None:
        print(json.dumps(result))
