"""What all contracts have in common: how an adapter is made, given time, and read."""

from __future__ import annotations

import gc
import signal
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
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
BAD_NUMBERS = [float("nan"), float("inf"), float("-inf"), "1", None, [1]]
BAD_WINDOWS = [timedelta(0), timedelta(seconds=-1), 60]
BAD_TAGS = ["branch", 5, [("branch", "main")], {"": "main"}, {1: "main"}]

QUANTILES = ("p50", "p90", "p95", "p99")

THREADS = 8
PATIENCE = 30.0
"""Seconds after which a call that does not come back has failed."""

HASTE = 1.0
"""Seconds for which threads take turns as often as can be."""

STUCK = "a call does not come back: it waits for ever"


@dataclass
class Parts:
    """The parts of one backend, which show each other's numbers; those that a contract is about are there."""

    collector: MetricCollector | None = None
    timer: PerformanceTimer | None = None
    tracker: SuccessFailureTracker | None = None
    aggregator: MetricsAggregator | None = None


class Contract(ABC):
    """A contract, as tests of whatever ``make`` returns.

    What a backend honestly cannot do it declares, in as few words as these; all else is asked of it.

    Attributes:
        unknown_keys: Keys of a summary that this backend cannot know: ``"stddev"`` of every type of metric,
            ``"gauge.avg"`` of one. They are not asked for; being there, they would be wrong.
        more_keys: Keys that each of its summaries with records has beyond those of the contract.
        metric_types: The types of metric that it tells apart. Tests about another one are skipped.
        keeps_windows: Whether it can answer for a window of time. One that cannot answers since the start
            and says so by ``seconds``, or refuses the window with an `InvalidInputError`.
        quantile_error: How far off its quantiles may be, relative to the value.
        takes_negatives: Whether a histogram takes negative values. One that cannot refuses them with an
            `InvalidInputError`, and never drops them.
        reentrant: Whether a signal handler or a ``__del__`` may call it, also in the middle of a call. An
            adapter that holds a lock while it records is not.
    """

    unknown_keys: frozenset[str] | set[str] = frozenset()
    more_keys: frozenset[str] | set[str] = frozenset()
    metric_types: frozenset[str] | set[str] = frozenset(SUMMARY_KEYS)
    keeps_windows: bool = True
    quantile_error: float = 0.01
    takes_negatives: bool = True
    reentrant: bool = True

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

    def knows(self, metric_type: str, key: str) -> bool:
        """Say whether a summary of that type has that key."""
        in_contract = metric_type in self.metric_types and key in SUMMARY_KEYS[metric_type]
        return in_contract and not {key, f"{metric_type}.{key}"} & set(self.unknown_keys)

    def keys(self, metric_type: str) -> set[str]:
        """Return the keys that a summary of this backend has."""
        return {key for key in SUMMARY_KEYS[metric_type] if self.knows(metric_type, key)} | self.more_keys

    def known(self, metric_type: str, summary: Mapping[str, float], **expected: float) -> None:
        """Assert the expected values of those keys that this backend knows."""
        for key, value in expected.items():
            if self.knows(metric_type, key):
                error = self.quantile_error if key in QUANTILES else 1e-9
                assert summary[key] == pytest.approx(value, rel=error, abs=1e-9), key

    def need_windows(self) -> None:
        """Skip a test about windows for a backend without them."""
        if not self.keeps_windows:
            pytest.skip("this backend declares that it keeps no windows")

    def need_type(self, metric_type: str) -> None:
        """Skip a test about a type of metric that a backend does not tell apart from others."""
        if metric_type not in self.metric_types:
            pytest.skip(f"this backend declares that it knows no {metric_type}")

    def need_reentry(self) -> None:
        """Skip a test about re-entry for a backend that cannot be called in the middle of a call."""
        if not self.reentrant:
            pytest.skip("this backend declares that it is not reentrant")


@contextmanager
def patience() -> Iterator[None]:
    """Fail what waits for ever in this thread instead of waiting with it, where there are timer signals."""
    stuck = False

    def give_up(*_: object) -> None:
        nonlocal stuck
        stuck = True
        raise AssertionError(STUCK)

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not stuck, STUCK  # what a __del__ raises reaches nobody


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
    # Threads take turns as often as can be: what is not safe between two of them shows. But only for a while,
    # as a backend that takes a lock hardly gets on that way.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    end = time.monotonic() + HASTE
    try:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(max(end - time.monotonic(), 0))
    finally:
        sys.setswitchinterval(interval)
    for thread in running:
        # Longer than one call may take, as each thread makes thousands, and coverage may watch them.
        thread.join(4 * PATIENCE)
        assert not thread.is_alive(), STUCK
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
    inside = False

    def handle(*_: object) -> None:
        nonlocal interrupts, inside
        if inside:
            raise AssertionError(STUCK)
        inside = True
        signal.setitimer(signal.ITIMER_REAL, PATIENCE)
        interrupt()
        interrupts += 1
        inside = False
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
    finalized, away = 0, False

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            nonlocal finalized, away
            if not away:
                away = True  # and for ever, where it does not come back
                finalize()
                away = False
                finalized += 1

    thresholds = gc.get_threshold()
    gc.set_threshold(3)
    try:
        with patience():
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
