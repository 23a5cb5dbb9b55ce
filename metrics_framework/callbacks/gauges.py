"""Gauge callbacks by name and tags: adding, removing, collecting, and the metrics of their failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import iscoroutine
from typing import Any, NamedTuple, TypeVar, overload

from metrics_framework.callbacks.calls import Callback, CallRunner
from metrics_framework.callbacks.collection import ThreadCollector, collect_async
from metrics_framework.capabilities import DescribesMetrics, RemovesSeries
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation, log_event
from metrics_framework.protocols import MetricCollector
from metrics_framework.validation import check_name, check_seconds, plain_number, plain_tags, safe_repr
from metrics_framework.values import MetricUnit

F = TypeVar("F", bound=Callable[[], Any])
Key = tuple[str, tuple[tuple[str, str], ...]]

FAILURES_METRIC = "metrics_framework.callback.failures"
"""Counts failed calls, by ``callback``, ``error_type`` and the callback's own tags."""
AGE_METRIC = "metrics_framework.callback.age"
"""Seconds since the last good value of a callback that has ever failed; 0 after a success."""

_AGE_HELP = "Age of the last good value of a gauge callback, from its first failure on."


class CallbackState(NamedTuple):
    """The state of a callback.

    Attributes:
        name: The name of its gauge.
        tags: The tags of its gauge.
        age_seconds: Age of the last good value: 0 after a success, ``None`` before the first one.
        failure: The type of the last error, or ``timeout``; ``None`` after a success.
    """

    name: str
    tags: dict[str, str]
    age_seconds: float | None
    failure: str | None


class GaugeCallbacks:
    """Calls functions at each collection and records their return values as gauges. Thread-safe.

    A callback fails if it raises, does not return a finite number, or exceeds its deadline. A failure affects
    no other callback: the gauge keeps its last good value, and the failure and the age of that value are
    recorded. A failure is logged once until the callback succeeds again.

    Args:
        collector: Receives the gauges, the failures and the ages.
        clock: Measures ages; deadlines use real time.

    Example:
        >>> from queue import SimpleQueue
        >>> from metrics_adapters.in_memory import InMemoryCollector
        >>> collector, queue = InMemoryCollector(), SimpleQueue()
        >>> callbacks = GaugeCallbacks(collector)
        >>> _ = callbacks.add("queue.size", queue.qsize)
        >>> queue.put("work")
        >>> callbacks.collect()
        >>> collector.store.summary("queue.size")["last"]
        1
    """

    def __init__(self, collector: MetricCollector, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._collector = collector
        self._clock = clock
        self._callbacks: dict[Key, Callback] = {}
        self._isolation = Isolation()
        self._is_described = False
        self._runner = CallRunner(self._record_value, self._record_failure)
        self._threads = ThreadCollector(self._runner)

    @overload
    def add(
        self, name: str, function: F, tags: Mapping[str, str] | None = None, *, deadline: float = 1.0
    ) -> F: ...

    @overload
    def add(
        self,
        name: str,
        function: None = None,
        tags: Mapping[str, str] | None = None,
        *,
        deadline: float = 1.0,
    ) -> Callable[[F], F]: ...

    def add(
        self,
        name: str,
        function: F | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        deadline: float = 1.0,
    ) -> F | Callable[[F], F]:
        """Add a callback. It replaces a callback of the same name and tags.

        Args:
            name: The gauge's name.
            function: Returns the gauge's value, or an awaitable of it. It stays alive, with the object of a
                bound method, until the callback is removed. Without it, ``add`` is a decorator.
            tags: The gauge's tags.
            deadline: Seconds that a call may take. An async call is cancelled at its deadline. A sync call
                cannot be cancelled: collections stop waiting for it, the function is not called again until
                the call returns, and its late value is recorded.

        Returns:
            The function itself, or a decorator.

        Raises:
            InvalidInputError: If an argument is not valid.
        """
        name, plain = check_name(name), plain_tags(tags)
        check_seconds(f"callback {name!r}: deadline", deadline)

        def add(function: F) -> F:
            _check_function(name, function)
            self._describe_metrics()
            key = _key(name, plain)
            replaced = self._callbacks.get(key)
            self._callbacks[key] = Callback(name, function, deadline, plain)
            if replaced is not None:
                replaced.is_removed = True
            return function

        return add if function is None else add(function)

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Remove a callback, and its gauge if the collector can remove metrics.

        Args:
            name: The gauge's name.
            tags: The tags that the callback was added with.

        Returns:
            Whether there was such a callback.
        """
        callback = self._callbacks.pop(_key(name, plain_tags(tags)), None)
        if callback is None:
            return False
        callback.is_removed = True
        self._remove_gauges(callback)
        return True

    def collect(self) -> None:
        """Call all callbacks at once, from a thread. Return when each has finished or timed out.

        Sync callbacks run in other threads, async ones on an event loop in a thread of its own. Collections
        that run at the same time share calls.
        """
        callbacks = list(self._callbacks.values())
        self._threads.collect(callbacks)
        self._record_ages(callbacks)

    async def collect_async(self, beside: Iterable[Callback] = ()) -> None:
        """Collect from a task of asyncio or trio, without blocking its event loop.

        Sync callbacks run in other threads, async ones on this loop.

        Args:
            beside: Further callbacks to call at the same time.

        Raises:
            InvalidInputError: If no event loop of asyncio or trio is running.
        """
        callbacks = list(self._callbacks.values())
        await collect_async(self._runner, [*callbacks, *beside])
        self._record_ages(callbacks)

    def states(self) -> list[CallbackState]:
        """Return the state of each callback, in the order of their addition, without calling any."""
        return [
            CallbackState(callback.name, dict(callback.tags), self._age(callback), callback.failure)
            for callback in list(self._callbacks.values())
        ]

    def close(self) -> None:
        """Stop the thread of the async callbacks, if there is one. A later `collect` starts a new one."""
        self._threads.close()

    # -- recording -------------------------------------------------------------------------------------

    def _record_value(self, callback: Callback, value: object) -> None:
        if not callback.is_recorded or callback.is_removed:
            return
        number = plain_number(callback.name, value, signed=True, boolean=True)
        self._collector.record_gauge(callback.name, number, callback.tags or None)
        callback.good_ns = self._clock.monotonic_ns()
        if callback.is_removed and _key(callback.name, callback.tags) not in self._callbacks:
            self._remove_gauges(callback)  # it was removed while its value was recorded

    def _record_failure(self, callback: Callback, error_type: str, error: str) -> None:
        if callback.is_removed:
            return
        is_first = callback.failure is None
        callback.failure, callback.has_failed = error_type, True
        tags = _tags_with_name(callback, error_type=error_type)
        count = partial(self._collector.record_counter, FAILURES_METRIC, 1, tags)
        self._isolation.call("callback failure not counted", count)
        if is_first:
            log_event(
                "warning",
                "gauge callback failed",
                callback=callback.name,
                tags=callback.tags,
                error_type=error_type,
                error=error,
            )

    def _record_ages(self, callbacks: Iterable[Callback]) -> None:
        for callback in callbacks:
            age = self._age(callback)
            if callback.has_failed and age is not None and not callback.is_removed:
                record = partial(self._collector.record_gauge, AGE_METRIC, age, _tags_with_name(callback))
                self._isolation.call("callback age not recorded", record)

    def _age(self, callback: Callback) -> float | None:
        good_ns = callback.good_ns
        if good_ns is None:
            return None
        return 0.0 if callback.failure is None else (self._clock.monotonic_ns() - good_ns) / 1e9

    def _describe_metrics(self) -> None:
        if self._is_described or not isinstance(self._collector, DescribesMetrics):
            return
        describe = self._collector.describe
        self._is_described = True
        for description in (
            partial(describe, FAILURES_METRIC, help="Failed calls of gauge callbacks."),
            partial(describe, AGE_METRIC, unit=MetricUnit.SECONDS, help=_AGE_HELP, merge="max"),
        ):
            self._isolation.call("callback accounts not described", description)

    def _remove_gauges(self, callback: Callback) -> None:
        if isinstance(self._collector, RemovesSeries):
            for name, tags in ((callback.name, callback.tags), (AGE_METRIC, _tags_with_name(callback))):
                remove = partial(self._collector.remove, name, tags)
                self._isolation.call("gauge not removed", remove, gauge=name)


def _key(name: str, tags: Mapping[str, str]) -> Key:
    return name, tuple(tags.items())


def _tags_with_name(callback: Callback, **tags: str) -> dict[str, str]:
    return {**callback.tags, "callback": callback.name, **tags}


def _check_function(name: str, function: object) -> None:
    if iscoroutine(function):
        function.close()  # otherwise Python warns that it was never awaited
        raise InvalidInputError(
            f"callback {name!r}: {safe_repr(function)} can be awaited only once: pass the function without"
            " calling it"
        )
    if not callable(function):
        raise InvalidInputError(
            f"callback {name!r}: {safe_repr(function)} is not callable: pass a function that returns the"
            " value, such as queue.qsize without parentheses"
        )
