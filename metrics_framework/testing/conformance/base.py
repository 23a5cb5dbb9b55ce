"""What all contracts have in common: how an adapter is made, given time, and read."""

from __future__ import annotations

import gc
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from metrics_framework.clock import ManualClock
from metrics_framework.protocols import (
    MetricCollector,
    MetricsAggregator,
    PerformanceTimer,
    SuccessFailureTracker,
)

_DISTRIBUTION = {
    "count",
    "seconds",
    "sum",
    "rate",
    "avg",
    "min",
    "max",
    "stddev",
    "p50",
    "p90",
    "p95",
    "p99",
}
SUMMARY_KEYS: Mapping[str, frozenset[str]] = {
    "counter": frozenset({"count", "seconds", "sum", "rate", "total"}),
    "gauge": frozenset({"count", "seconds", "last", "avg", "min", "max"}),
    "histogram": frozenset(_DISTRIBUTION),
    "timer": frozenset(_DISTRIBUTION),
}
"""The keys of a summary with records, by type of metric."""

BAD_NAMES = ["", None, 3]
BAD_NUMBERS = [float("nan"), float("inf"), float("-inf"), "1", None, True, [1]]
BAD_TAGS = ["branch", 5, [("branch", "main")], {"": "main"}, {1: "main"}]

THREADS = 8
PATIENCE = 30.0


@dataclass
class Parts:
    """The parts of one backend, which show each other's numbers; those that a contract is about are there."""

    collector: MetricCollector | None = None
    timer: PerformanceTimer | None = None
    tracker: SuccessFailureTracker | None = None
    aggregator: MetricsAggregator | None = None


class Contract(ABC):
    """A contract, as tests of whatever ``make`` returns.

    Attributes:
        unknown_keys: Keys of a summary that this backend cannot know. They are not asked for; being there,
            they would be wrong.
        keeps_windows: Whether it can answer for a window of time.
    """

    unknown_keys: frozenset[str] | set[str] = frozenset()
    keeps_windows: bool = True

    @abstractmethod
    def make(self, clock: ManualClock) -> Parts:
        """Make the parts on an empty backend whose time is the clock's."""

    def settle(self, parts: Parts) -> None:  # noqa: B027 - most backends have nothing to do
        """Wait until what was recorded can be read; a backend that is elsewhere may need to."""

    def close(self, parts: Parts) -> None:  # noqa: B027
        """Give back what `make` took."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Return the clock that a test moves."""
        return ManualClock()

    @pytest.fixture
    def parts(self, clock: ManualClock) -> Iterator[Parts]:
        """Return the parts on an empty backend."""
        parts = self.make(clock)
        yield parts
        self.close(parts)

    def keys(self, metric_type: str) -> set[str]:
        """Return the keys that a summary of this backend has."""
        return set(SUMMARY_KEYS[metric_type]) - set(self.unknown_keys)

    def known(self, summary: Mapping[str, float], **expected: float) -> None:
        """Assert the expected values of those keys that this backend knows."""
        for key, value in expected.items():
            if key not in self.unknown_keys:
                assert summary[key] == pytest.approx(value), key

    def need_windows(self) -> None:
        """Skip a test about windows for a backend without them."""
        if not self.keeps_windows:
            pytest.skip("this backend declares that it keeps no windows")


def in_threads(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Do something in several threads at once; what one raises is raised."""
    errors: list[BaseException] = []
    begin = threading.Barrier(threads)

    def run(number: int) -> None:
        begin.wait(PATIENCE)
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a thread did not come back: a call waits for ever"
    for error in errors:
        raise error


def interrupted(
    work: Callable[[], object], interrupt: Callable[[], object], seconds: float = 0.3
) -> tuple[int, int]:
    """Do something again and again while a signal handler, many times in the middle, does something else.

    Returns:
        How often each was done.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        pytest.skip("there are no timer signals here")
    # Each once in peace: whoever watches the tests, such as coverage, takes a lock for what it sees first.
    work()
    interrupt()
    interrupts = 1

    def handle(*_: object) -> None:
        nonlocal interrupts
        interrupt()
        interrupts += 1
        # One at a time: a handler that takes longer than the pause would interrupt itself for ever.
        signal.setitimer(signal.ITIMER_REAL, 0.0005 if time.monotonic() < end else 0)

    before = signal.signal(signal.SIGALRM, handle)
    done, end = 1, time.monotonic() + seconds
    signal.setitimer(signal.ITIMER_REAL, 0.001)
    try:
        while time.monotonic() < end:
            work()
            done += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return done, interrupts


def collected(
    work: Callable[[], object], finalize: Callable[[], object], times: int = 300
) -> tuple[int, int]:
    """Do something again and again while garbage is collected whose ``__del__`` does something else.

    Returns:
        How often each was done.
    """
    finalized = 0

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            nonlocal finalized
            finalize()
            finalized += 1

    thresholds = gc.get_threshold()
    gc.set_threshold(3)
    try:
        for _ in range(times):
            Garbage()
            work()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    return times, finalized


def by_name(values: Iterable[Any], name: str) -> list[Any]:
    """Return the values of one metric."""
    return [value for value in values if value.name == name]
