"""Callbacks by name: what is added, removed, read, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from inspect import iscoroutine
from typing import Any, NamedTuple, TypeVar, overload

from metrics_framework.callbacks.evaluator import Evaluator
from metrics_framework.callbacks.looking import looking
from metrics_framework.callbacks.on_threads import ThreadLooks
from metrics_framework.callbacks.work import Work
from metrics_framework.clock import SYSTEM_CLOCK, Clock
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import Isolation, log_event
from metrics_framework.protocols import MetricCollector
from metrics_framework.validation import check_seconds
from metrics_framework.values import MetricUnit

F = TypeVar("F", bound=Callable[[], Any])
Key = tuple[str, tuple[tuple[str, str], ...]]

FAILURES = "metrics_framework.callback.failures"
"""Counts calls without a value, by ``callback`` and ``error_type``, beside the tags of the callback."""
AGE = "metrics_framework.callback.age"
"""How many seconds old the last good value of a callback is, once it has failed; 0 while it answers."""

_AGE_HELP = "How old the last good value of a gauge callback is, once it has failed."


class CallbackState(NamedTuple):
    """How a callback is.

    Attributes:
        name: The name of its gauge.
        tags: The tags of its gauge.
        age_seconds: How old the last good value is: 0 while it answers, ``None`` where there was none yet.
        failure: The type of the last error, or ``timeout``; ``None`` while it answers.
    """

    name: str
    tags: dict[str, str]
    age_seconds: float | None
    failure: str | None


class GaugeCallbacks:
    """Functions that are called when somebody looks, and whose values are recorded as gauges.

    One that raises, returns no finite number or misses its deadline costs its own sample only: the gauge
    keeps its last good value, the failure is counted, the value's age is recorded, and it is logged once
    until all is well again. Any thread may call any method.

    Args:
        collector: Where the gauges go, and the accounts of failures and ages.
        clock: What ages are told by; deadlines are real time.

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
        self._works: dict[Key, Work] = {}
        self._isolation = Isolation()
        self._is_described = False
        self._evaluator = Evaluator(self._take, self._failed)
        self._from_threads = ThreadLooks(self._evaluator)

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
        """Add a callback; one of the same name and tags is replaced.

        Args:
            name: The gauge's name.
            function: Returns its value, or something to be awaited that does. It and what it is bound to are
                kept until it is removed. Without it, ``add`` is a decorator.
            tags: Which series of the gauge.
            deadline: How many seconds a call has. At its end an async one is cancelled. A sync one cannot be
                ended: nobody waits for it, it is not called again before it has returned, and what it returns
                late is taken as a good value.

        Returns:
            The function as it is, or a decorator.

        Raises:
            InvalidInputError: If an argument breaks its rule.
        """
        from metrics_framework.validation import check_name, plain_tags

        name, plain = check_name(name), plain_tags(tags)
        check_seconds(f"callback {name!r}: deadline", deadline)

        def add(function: F) -> F:
            _check_function(name, function)
            self._describe()
            before, self._works[_key(name, plain)] = (
                self._works.get(_key(name, plain)),
                Work(name, function, deadline, plain),
            )
            if before is not None:
                before.is_removed = True
            return function

        return add if function is None else add(function)

    def remove(self, name: str, tags: Mapping[str, str] | None = None) -> bool:
        """Forget a callback, and its gauge where the collector can forget one.

        Args:
            name: The gauge's name.
            tags: The tags that it was added with.

        Returns:
            Whether there was one.
        """
        from metrics_framework.validation import plain_tags

        work = self._works.pop(_key(name, plain_tags(tags)), None)
        if work is None:
            return False
        work.is_removed = True
        self._forget(work)
        return True

    def collect(self) -> None:
        """Call all at once, from a thread, and return when each has returned or its deadline has gone by.

        Sync callbacks are called in other threads, async ones on an event loop in a thread of its own. Who
        looks while another is looking shares the calls that are on their way.
        """
        works = list(self._works.values())
        self._from_threads.collect(works)
        self._record_ages(works)

    async def collect_async(self, beside: Iterable[Work] = ()) -> None:
        """Do what `collect` does on a loop of asyncio or trio, without blocking it.

        Sync callbacks are called in other threads, async ones on this loop.

        Args:
            beside: Further work, from `work`, that is done at the same time.

        Raises:
            InvalidInputError: On a loop of another kind.
        """
        works = list(self._works.values())
        await looking()(self._evaluator, [*works, *beside])
        self._record_ages(works)

    def work(self, name: str, function: Callable[[], object], *, deadline: float) -> Work:
        """Return something that `collect_async` does beside the callbacks and whose value nobody wants."""
        return Work(name, function, deadline, {}, records=False)

    def states(self) -> list[CallbackState]:
        """Return how each callback is, in the order that they were added in; nothing is called for it."""
        return [
            CallbackState(work.name, dict(work.tags), self._age(work), work.failure)
            for work in list(self._works.values())
        ]

    def close(self) -> None:
        """End the thread of the async callbacks, if there is one; a later `collect` starts it again."""
        self._from_threads.close()

    # -- accounts --------------------------------------------------------------------------------------

    def _take(self, work: Work, value: object) -> None:
        if not work.records or work.is_removed:
            return
        from metrics_framework.validation import plain_number

        number = plain_number(work.name, value, signed=True, boolean=True)
        self._collector.record_gauge(work.name, number, work.tags or None)
        work.good_ns = self._clock.monotonic_ns()
        if work.is_removed and _key(work.name, work.tags) not in self._works:  # in the meantime
            self._forget(work)

    def _failed(self, work: Work, error_type: str, error: str) -> None:
        if work.is_removed:
            return
        was_well = work.failure is None
        work.failure, work.has_failed = error_type, True
        count = partial(self._collector.record_counter, FAILURES, 1, _account(work, error_type=error_type))
        self._isolation.call("callback failure not counted", count)
        if was_well:
            log_event(
                "warning",
                "gauge callback failed",
                callback=work.name,
                tags=work.tags,
                error_type=error_type,
                error=error,
            )

    def _record_ages(self, works: Iterable[Work]) -> None:
        for work in works:
            age = self._age(work)
            if work.has_failed and age is not None and not work.is_removed:
                record = partial(self._collector.record_gauge, AGE, age, _account(work))
                self._isolation.call("callback age not recorded", record)

    def _age(self, work: Work) -> float | None:
        good_ns = work.good_ns
        if good_ns is None:
            return None
        return 0.0 if work.failure is None else (self._clock.monotonic_ns() - good_ns) / 1e9

    def _describe(self) -> None:
        describe = getattr(self._collector, "describe", None)
        if self._is_described or not callable(describe):
            return
        self._is_described = True
        for description in (
            partial(describe, FAILURES, help="Calls of gauge callbacks that gave no value."),
            partial(describe, AGE, unit=MetricUnit.SECONDS, help=_AGE_HELP, merge="max"),
        ):
            self._isolation.call("callback accounts not described", description)

    def _forget(self, work: Work) -> None:
        remove = getattr(self._collector, "remove", None)
        if callable(remove):
            for name, tags in ((work.name, work.tags), (AGE, _account(work))):
                self._isolation.call("gauge not removed", partial(remove, name, tags), gauge=name)


def _key(name: str, tags: Mapping[str, str]) -> Key:
    return name, tuple(tags.items())


def _account(work: Work, **tags: str) -> dict[str, str]:
    return {**work.tags, "callback": work.name, **tags}


def _check_function(name: str, function: object) -> None:
    if iscoroutine(function):
        function.close()  # or Python warns that it was never awaited
        raise InvalidInputError(
            f"{name!r} cannot be read by {function!r}, which can be awaited only once: pass the function,"
            " without calling it"
        )
    if not callable(function):
        raise InvalidInputError(
            f"{name!r} cannot be read by {function!r}: pass a function that returns the value, such as"
            " queue.qsize without the parentheses"
        )
