"""Measuring a block or a function: how long it takes and how it ends, in one go.

One decorator is right for four kinds of function. A coroutine is timed until it returns, not until it is
made. A generator, sync or async, is timed from the first item that is asked for to its end, without the time
in which its consumer does something else.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from types import CoroutineType, TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

from metrics_framework.clock import Clock
from metrics_framework.protocols import PerformanceTimer, SuccessFailureTracker
from metrics_framework.recording import Store
from metrics_framework.recording.series import check_name, plain_tags

P = ParamSpec("P")
R = TypeVar("R")


class Meter(Protocol):
    """Where measurements go."""

    def begin(self, operation: str, tags: dict[str, str]) -> object:
        """Begin to time an operation; what is returned comes back at its end."""
        ...

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Record how long an operation took and how it ended; ``None`` is success."""
        ...

    def now_ns(self) -> int:
        """Read the monotonic clock."""
        ...


class StoreMeter:
    """Measures into a store: durations and outcomes are series by their tags."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.now_ns = store.clock.monotonic_ns

    def begin(self, operation: str, tags: dict[str, str]) -> None:
        """Begin; there is nothing to keep."""

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Record how long an operation took and how it ended."""
        store, given = self._store, tags or None
        timing = store.timing_lookup.get(operation, given) or store.find_timing(operation, tags)
        if timing is not None:
            timing.observe(spent_ns / 1e6)
        if error_type is not None:
            store.fail(operation, error_type, tags, given)
            return
        outcomes = store.outcome_lookup.get(operation, given) or store.find_outcomes(operation, tags)
        if outcomes is not None:
            outcomes.finish(None)


class ProtocolMeter:
    """Measures by any timer and tracker, which know no tags of operations: these become metadata."""

    def __init__(self, timer: PerformanceTimer, tracker: SuccessFailureTracker, clock: Clock) -> None:
        self._timer = timer
        self._tracker = tracker
        self.now_ns = clock.monotonic_ns

    def begin(self, operation: str, tags: dict[str, str]) -> str:
        """Start a timer."""
        return self._timer.start_timer(operation, dict(tags))

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Stop the timer, whatever time went by, and track the outcome."""
        self._timer.stop_timer(cast(str, begun), error_type is None)
        if error_type is None:
            self._tracker.record_success(operation, dict(tags))
        else:
            self._tracker.record_failure(operation, error_type, dict(tags))


def meter_of(timer: PerformanceTimer, tracker: SuccessFailureTracker, clock: Clock) -> Meter:
    """Return a meter that feeds both: their store, which has its clock, or else the two of them."""
    store = getattr(timer, "store", None)
    shared = store is getattr(tracker, "store", None)
    if shared and isinstance(store, Store):
        return StoreMeter(store)
    return ProtocolMeter(timer, tracker, clock)


class Measurement:
    """One use of `measure`: a context manager, also an async one, and a decorator.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> metrics = MetricsSystem()
        >>> with metrics.measure("db.query", tags={"table": "users"}) as query:
        ...     query.tag("rows", "many")
        >>> metrics.tracker.get_success_rate("db.query")
        1.0
    """

    def __init__(self, meter: Meter, operation: str, tags: Mapping[str, str] | None = None) -> None:
        self._meter = meter
        # Bad input is said here, where it stands, and never at the end of somebody's work.
        self._operation = check_name(operation, "operation name")
        self._given = plain_tags(tags)
        self._tags = self._given
        self._begun: object = None
        self._since_ns: int | None = None
        self._spent_ns = 0
        self._error_type: str | None = None

    @property
    def error_type(self) -> str | None:
        """How it ends although nothing is raised, where that is no success; set it before the end."""
        return self._error_type

    @error_type.setter
    def error_type(self, error_type: str | None) -> None:
        self._error_type = None if error_type is None else check_name(error_type, "error type")

    def tag(self, name: str, value: str) -> None:
        """Add a tag, or change one, before the end.

        Raises:
            InvalidInputError: If it breaks a rule of tags.
        """
        self._tags = plain_tags({**self._tags, name: value})

    # -- as a context manager --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._since_ns is not None:
            raise RuntimeError(
                f"this measurement of {self._operation!r} is running already; call measure() for each use"
            )
        self._tags, self._spent_ns, self._error_type = self._given, 0, None
        meter = self._meter
        self._begun = meter.begin(self._operation, self._tags)
        self._since_ns = meter.now_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pause()
        error_type = self._error_type if error is None else type(error).__name__
        self._meter.end(self._begun, self._operation, self._tags, self._spent_ns, error_type)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _resume(self) -> None:
        self._since_ns = self._meter.now_ns()

    def _pause(self) -> None:
        if self._since_ns is not None:
            self._spent_ns += self._meter.now_ns() - self._since_ns
            self._since_ns = None

    # -- as a decorator --------------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function``, measured at each call.

        Raises:
            TypeError: If it is no function but a class or static method: measure what is inside of it.
        """
        if isinstance(function, (classmethod, staticmethod)):
            raise TypeError(f"put @{type(function).__name__} above the measuring decorator, not below it")
        wrapped: Callable[..., Any]
        if inspect.isasyncgenfunction(function):
            wrapped = self._async_generator(function)
        elif inspect.isgeneratorfunction(function):
            wrapped = self._generator(function)
        elif inspect.iscoroutinefunction(function):
            wrapped = self._coroutine(function)
        else:
            wrapped = self._function(function)
        return cast(Callable[P, R], functools.wraps(function)(wrapped))

    def _again(self) -> Measurement:
        again = Measurement.__new__(Measurement)  # what was checked once is right
        again._meter, again._operation, again._given = self._meter, self._operation, self._given
        again._since_ns = None
        return again

    def _function(self, function: Callable[..., R]) -> Callable[..., R]:
        def measured(*args: Any, **kwargs: Any) -> R:
            measurement = self._again()
            measurement.__enter__()
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                measurement.__exit__(type(error), error, None)
                raise
            if isinstance(result, CoroutineType):  # a plain function that hands out another's coroutine
                return cast(R, _awaited(result, measurement))
            measurement.__exit__(None, None, None)
            return result

        return measured

    def _coroutine(self, function: Callable[..., Awaitable[R]]) -> Callable[..., Coroutine[Any, Any, R]]:
        async def measured(*args: Any, **kwargs: Any) -> R:
            with self._again():
                return await function(*args, **kwargs)

        return measured

    def _generator(
        self, function: Callable[..., Generator[Any, Any, R]]
    ) -> Callable[..., Generator[Any, Any, R]]:
        def measured(*args: Any, **kwargs: Any) -> Generator[Any, Any, R]:
            with self._again() as measurement:
                generator = function(*args, **kwargs)
                step: Callable[[], Any] = functools.partial(next, generator)
                while True:
                    try:
                        item = step()
                    except StopIteration as stop:
                        return cast(R, stop.value)
                    measurement._pause()
                    try:
                        sent = yield item
                    except GeneratorExit:  # who stops asking does not make it fail
                        measurement._resume()
                        generator.close()
                        break
                    except BaseException as error:  # noqa: BLE001 - it goes where the consumer sent it
                        measurement._resume()
                        step = functools.partial(generator.throw, error)
                    else:
                        measurement._resume()
                        step = functools.partial(generator.send, sent)
            raise GeneratorExit

        return measured

    def _async_generator(
        self, function: Callable[..., AsyncGenerator[Any, Any]]
    ) -> Callable[..., AsyncGenerator[Any, Any]]:
        async def measured(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            with self._again() as measurement:
                generator = function(*args, **kwargs)
                step: Callable[[], Awaitable[Any]] = functools.partial(_first, generator)
                while True:
                    try:
                        item = await step()
                    except StopAsyncIteration:
                        return
                    measurement._pause()
                    try:
                        sent = yield item
                    except GeneratorExit:
                        measurement._resume()
                        await generator.aclose()
                        break
                    except BaseException as error:  # noqa: BLE001 - it goes where the consumer sent it
                        measurement._resume()
                        step = functools.partial(generator.athrow, error)
                    else:
                        measurement._resume()
                        step = functools.partial(generator.asend, sent)
            raise GeneratorExit

        return measured


def _first(generator: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Ask for the first item, unseen by the event loop: at its end it closes all that it has seen at once."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return anext(generator)
    finally:
        sys.set_asyncgen_hooks(*hooks)


async def _awaited(coroutine: Coroutine[Any, Any, R], measurement: Measurement) -> R:
    try:
        result = await coroutine
    except BaseException as error:
        measurement.__exit__(type(error), error, None)
        raise
    measurement.__exit__(None, None, None)
    return result
