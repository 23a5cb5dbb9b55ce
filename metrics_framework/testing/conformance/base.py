"""The base class of all contracts, and helpers for threads, signals and garbage collection."""

from __future__ import annotations

import functools
import gc
import inspect
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
from typing_extensions import get_protocol_members

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
CALL_TIMEOUT_SECONDS = 30.0
"""A call that has not returned after this time has failed."""

FAST_SWITCHING_SECONDS = 1.0
"""For this time, the interpreter switches threads as often as possible."""

STUCK_CALL = "a call did not return: it waits forever"


@dataclass
class Parts:
    """The parts of one backend, which share its metrics. A contract needs the parts that it tests."""

    collector: MetricCollector | None = None
    timer: PerformanceTimer | None = None
    tracker: SuccessFailureTracker | None = None
    aggregator: MetricsAggregator | None = None


class Demands:
    """Base of the contracts: each test is a demand, and its failure says which one.

    A demand is the name of a test followed by its docstring; ``docs/adapters.md`` lists them all.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, test in list(vars(cls).items()):
            if name.startswith("test_") and inspect.isfunction(test) and test.__doc__:
                setattr(cls, name, _naming_its_demand(test, demand_of(cls, test)))


def demand_of(contract: type, test: Callable[..., object]) -> str:
    """Return a demand of a contract as one line, from the name and the docstring of its test."""
    name = test.__name__.removeprefix("test_").replace("_", " ")
    sentences = " ".join((test.__doc__ or "").split())
    return f"{contract.__name__.removesuffix('Contract')}: {name}. {sentences}"


def _naming_its_demand(test: Callable[..., object], demand: str) -> Callable[..., object]:
    @functools.wraps(test)
    def run(*arguments: Any, **fixtures: Any) -> object:
        __tracebackhide__ = True
        try:
            return test(*arguments, **fixtures)
        except (Exception, pytest.fail.Exception) as error:
            error.add_note(f"The adapter does not meet this demand of the contract:\n{demand}")
            raise

    return run


def check_members(part: object, protocol: type) -> None:
    """Assert that a part has all members of its Protocol; the message names those that are missing."""
    missing = sorted(name for name in get_protocol_members(protocol) if not hasattr(part, name))
    assert not missing, f"{type(part).__name__} is not a {protocol.__name__}: it lacks {', '.join(missing)}"


def check_keys(actual: Iterable[str], expected: Iterable[str], what: str, *, only: bool = True) -> None:
    """Assert that something has the expected keys; the message names those missing and those too many.

    Args:
        actual: The keys that it has.
        expected: The keys that it must have.
        what: The description of the thing in the message.
        only: Whether it may have no other keys.
    """
    missing, more = set(expected) - set(actual), set(actual) - set(expected) if only else set()
    assert not missing, (
        f"{what} lacks the keys {sorted(missing)}: declare in unknown_keys those that the backend cannot know"
    )
    assert not more, (
        f"{what} has the keys {sorted(more)} beyond the contract: declare in more_keys those it always has"
    )


class Contract(Demands, ABC):
    """A contract as tests of the parts that ``make`` returns.

    A backend declares its limits by the attributes below. All tests that these do not exclude must pass.

    Attributes:
        unknown_keys: Summary keys that this backend cannot compute: ``"stddev"`` for every metric type,
            ``"gauge.avg"`` for one. Its summaries must not contain them.
        more_keys: Summary keys that this backend has in addition to those of the contract.
        metric_types: The metric types that this backend distinguishes. Tests of others are skipped.
        keeps_windows: Whether the backend supports time windows. If not, it either summarizes everything
            since the start, with the right ``seconds``, or rejects a window with an `InvalidInputError`.
        quantile_error: The maximum relative error of its quantiles.
        takes_negatives: Whether a histogram accepts negative values. If not, it rejects them with an
            `InvalidInputError` and never drops them silently.
        reentrant: Whether a signal handler or a ``__del__`` may call the backend in the middle of a call. An
            adapter that holds a lock while it records is not reentrant.
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
        """Create the parts on an empty backend that reads the time from the clock."""

    def settle(self, parts: Parts) -> None:
        """Wait until all records can be read. A remote backend may need to."""

    def close(self, parts: Parts) -> None:
        """Release the resources that `make` acquired."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        """Return the clock that the test advances."""
        return ManualClock()

    @pytest.fixture
    def parts(self, clock: ManualClock) -> Iterator[Parts]:
        """Return the parts on an empty backend."""
        parts = self.make(clock)
        yield parts
        self.close(parts)

    def knows(self, metric_type: str, key: str) -> bool:
        """Return whether a summary of a metric type has a key."""
        in_contract = metric_type in self.metric_types and key in SUMMARY_KEYS[metric_type]
        return in_contract and not {key, f"{metric_type}.{key}"} & set(self.unknown_keys)

    def keys(self, metric_type: str) -> set[str]:
        """Return the keys of a summary of this backend."""
        return {key for key in SUMMARY_KEYS[metric_type] if self.knows(metric_type, key)} | self.more_keys

    def known(self, metric_type: str, summary: Mapping[str, float], **expected: float) -> None:
        """Assert the expected values of the keys that this backend can compute."""
        for key, value in expected.items():
            if self.knows(metric_type, key):
                error = self.quantile_error if key in QUANTILES else 1e-9
                where = f"the key {key!r} of the summary of a {metric_type}"
                assert key in summary, f"{where} is missing"
                assert summary[key] == pytest.approx(value, rel=error, abs=1e-9), where

    def check_keys(self, metric_type: str, summary: Mapping[str, float]) -> None:
        """Assert that a summary has exactly the keys of this backend; the message names the others."""
        check_keys(summary, self.keys(metric_type), f"the summary of a {metric_type}")

    def need_windows(self) -> None:
        """Skip the test if the backend has no time windows."""
        if not self.keeps_windows:
            pytest.skip("this backend declares that it has no time windows")

    def need_type(self, metric_type: str) -> None:
        """Skip the test if the backend does not distinguish a metric type."""
        if metric_type not in self.metric_types:
            pytest.skip(f"this backend declares that it has no {metric_type}")

    def need_reentry(self) -> None:
        """Skip the test if the backend is not reentrant."""
        if not self.reentrant:
            pytest.skip("this backend declares that it is not reentrant")


@contextmanager
def time_limit() -> Iterator[None]:
    """Fail if the block hangs in this thread. Does nothing without timer signals."""
    stuck = False

    def give_up(*_: object) -> None:
        nonlocal stuck
        stuck = True
        raise AssertionError(STUCK_CALL)

    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, CALL_TIMEOUT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not stuck, STUCK_CALL  # an exception in __del__ is ignored


def in_threads(work: Callable[[int], None], threads: int = THREADS) -> None:
    """Call a function in several threads at once, and raise the first exception."""
    errors: list[BaseException] = []
    begin = threading.Barrier(threads)

    def run(number: int) -> None:
        begin.wait(CALL_TIMEOUT_SECONDS)
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised again where the test sees it
            errors.append(error)

    running = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(threads)]
    # Frequent switches reveal races. They are limited to a short time because they slow down a backend with a
    # lock.
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    end = time.monotonic() + FAST_SWITCHING_SECONDS
    try:
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(max(end - time.monotonic(), 0))
    finally:
        sys.setswitchinterval(interval)
    for thread in running:
        # Longer than one call may take, because each thread makes thousands, possibly under coverage.
        thread.join(4 * CALL_TIMEOUT_SECONDS)
        assert not thread.is_alive(), STUCK_CALL
    for error in errors:
        raise error


def interrupted(
    work: Callable[[], object], interrupt: Callable[[], object], seconds: float = 0.3
) -> tuple[int, int]:
    """Repeat a call while a signal handler interrupts it many times with another call.

    Returns:
        The number of calls of each.
    """
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        pytest.skip("this platform or thread has no timer signals")
    # Call each once without interrupts, because coverage takes a lock for code that it sees first.
    work()
    interrupt()
    interrupts = 1
    inside = False

    def handle(*_: object) -> None:
        nonlocal interrupts, inside
        if inside:
            raise AssertionError(STUCK_CALL)
        inside = True
        signal.setitimer(signal.ITIMER_REAL, CALL_TIMEOUT_SECONDS)
        interrupt()
        interrupts += 1
        inside = False
        # One interrupt at a time: a handler slower than the interval would interrupt itself forever.
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
    """Repeat a call while the garbage collector calls a ``__del__`` that makes another call.

    Returns:
        The number of calls of each.
    """
    finalized, away = 0, False

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            nonlocal finalized, away
            if not away:
                away = True  # stays true if the call does not return
                finalize()
                away = False
                finalized += 1

    thresholds = gc.get_threshold()
    gc.set_threshold(3)
    try:
        with time_limit():
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
