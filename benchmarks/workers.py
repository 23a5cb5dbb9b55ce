"""What runs in a process of its own: one library doing one thing, and the numbers on standard output.

``python -m benchmarks.workers PEER CASE`` prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers import PEERS, TAGS, values

CALLS = 40_000
RANDOM_SERIES = 10_000


def measure_calls(peer: str, case: str) -> dict[str, float] | None:
    """Return nanoseconds a call; what a library puts off until it is read is part of it."""
    library = PEERS[peer]()
    chosen = random.Random(2)
    call: Callable[..., object] | None
    arguments: list[Any]
    kind, _, how = case.partition(", ")
    if how == "bound":
        call = library.bound_counter() if kind == "counter" else library.bound_histogram()
        value = values()
        arguments = [] if kind == "counter" else [value() for _ in range(CALLS)]
    elif kind == "timer":
        if how in ("by id", "measure"):
            ways = {"by id": "timer_by_id", "measure": "measure"}
            call = getattr(library, ways[how])() if peer == "metrics_framework" else None
        else:
            call = library.timer()
        arguments = []
    else:
        call = getattr(library, kind.replace(" ", "_"))("measured")
        if how == "no tags":
            arguments = [None] * CALLS
            if peer == "prometheus_client":
                call = library.counter("untagged", ())
        elif how == "fresh strings":
            # Equal, but never the same objects: what a request's tags are. Their hashes are not known yet.
            arguments = [{name: text[:1] + text[1:] for name, text in TAGS.items()} for _ in range(CALLS)]
        elif how == "random series":
            sets = [
                {"method": f"m{number % 100}", "status": f"s{number // 100}"}
                for number in range(RANDOM_SERIES)
            ]
            arguments = [chosen.choice(sets) for _ in range(CALLS)]
            for tags in sets:
                call(tags)
        else:
            arguments = [TAGS] * CALLS
    if call is None:
        return None
    _loop(call, arguments[: CALLS // 10])  # everything is known and warm
    gc.collect()
    begin = time.perf_counter()
    _loop(call, arguments)
    library.settle()
    return {"ns": (time.perf_counter() - begin) / CALLS * 1e9}


def _loop(call: Callable[..., object], arguments: list[Any]) -> None:
    if arguments:
        for argument in arguments:
            call(argument)
    else:
        for _ in range(CALLS):
            call()


def measure_empty(peer: str, case: str) -> dict[str, float]:
    """Return nanoseconds of an empty call."""

    def empty(_: object) -> None:
        pass

    begin = time.perf_counter()
    _loop(empty, [TAGS] * CALLS)
    return {"ns": (time.perf_counter() - begin) / CALLS * 1e9}


def measure_threads(peer: str, case: str) -> dict[str, float]:
    """Return nanoseconds a call while eight threads record into 100 counters."""
    library = PEERS[peer]()
    call = library.counter("measured")
    sets = [{"method": f"m{number % 10}", "status": f"s{number // 10}"} for number in range(100)]
    for tags in sets:
        call(tags)
    begin = threading.Barrier(9)

    def work() -> None:
        begin.wait()
        for number in range(CALLS // 8):
            call(sets[number % 100])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    begin.wait()
    start = time.perf_counter()
    for thread in threads:
        thread.join()
    library.settle()
    return {"ns": (time.perf_counter() - start) / CALLS * 1e9}


def measure_tail(peer: str, case: str) -> dict[str, float]:
    """Return the slowest records, in microseconds, while another thread reads all the time."""
    library = PEERS[peer]()
    call = library.histogram("measured")
    read = _reader(library, peer)
    stop = threading.Event()

    def reading() -> None:
        while not stop.is_set():
            read()

    call(TAGS)
    thread = threading.Thread(target=reading, daemon=True)
    thread.start()
    clock, took = time.perf_counter_ns, []
    for _ in range(CALLS):
        begin = clock()
        call(TAGS)
        took.append(clock() - begin)
    stop.set()
    thread.join()
    took.sort()
    return {
        "p50": took[CALLS // 2] / 1e3,
        "p99.99": took[int(CALLS * 0.9999)] / 1e3,
        "max": took[-1] / 1e3,
    }


def _reader(library: Any, peer: str) -> Callable[[], object]:
    if peer == "metrics_framework":
        return lambda: library.collector.store.summary("measured")
    from prometheus_client import generate_latest

    return lambda: generate_latest(library._registry)


def measure_memory(peer: str, case: str) -> dict[str, float]:
    """Return resident bytes a series, each recorded into three times and then read."""
    kind, _, count = case.partition(", ")
    number = int(count)
    library = PEERS[peer]()
    call = getattr(library, kind)("measured")
    sets = [{"method": f"m{index % 100}", "status": f"s{index // 100}"} for index in range(number)]
    call({"method": "first", "status": "first"})
    gc.collect()
    before = _resident()
    for _ in range(3):
        for tags in sets:
            call(dict(tags))
    library.settle()
    gc.collect()
    return {"bytes": (_resident() - before) / number}


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_values(peer: str, case: str) -> dict[str, float]:
    """Return traced bytes of one histogram that holds so many lognormal values."""
    import tracemalloc

    count = int(case.rpartition(" ")[2])
    library = PEERS[peer]()
    bound = library.bound_histogram()
    if bound is None:
        call = library.histogram("measured")
        bound = lambda _: call(TAGS)  # noqa: E731
    chosen = random.Random(3)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(count):
        bound(chosen.lognormvariate(0, 1))
    library.settle()
    gc.collect()
    return {"bytes": tracemalloc.get_traced_memory()[0] - before}


MEASURES: dict[str, Callable[[str, str], dict[str, float] | None]] = {
    "calls": measure_calls,
    "empty": measure_empty,
    "threads": measure_threads,
    "tail": measure_tail,
    "memory": measure_memory,
    "values": measure_values,
}

if __name__ == "__main__":
    _, chosen_peer, measure, chosen_case = sys.argv
    print(json.dumps(MEASURES[measure](chosen_peer, chosen_case)))
