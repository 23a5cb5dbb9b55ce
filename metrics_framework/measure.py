"""Measures the duration and the outcome of a block or a function.

One decorator supports four kinds of function. A coroutine is timed until it returns. A generator, sync or
async, is timed from the first requested item to its end, without the time that its consumer takes between two
items.
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
from metrics_framework.recording.store import Store, store_of
from metrics_framework.validation import check_name, plain_tags

P = ParamSpec("P")
R = TypeVar("R")


class Meter(Protocol):
    """Records measurements; `measure` and the middleware rely on it."""

    def begin(self, operation: str, tags: dict[str, str]) -> object:
        """Begin to time an operation; the result is passed to `end`."""
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
    """Measures into a store: durations and outcomes are series by their tags.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._record = store.record_operation
        self.find = store.timings.get
        """Returns anything but ``None`` for a valid operation and tags that were recorded before."""
        self.now_ns = store.clock.monotonic_ns

    def begin(self, operation: str, tags: dict[str, str]) -> None:
        """Do nothing."""

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Record how long an operation took and how it ended."""
        self._record(operation, tags or None, spent_ns, error_type)


class ProtocolMeter:
    """Measures with any timer and tracker, which have no tags of operations: the tags become metadata.

    Args:
        timer: Measures the duration.
        tracker: Counts the outcome.
        clock: The source of time.
    """

    def __init__(self, timer: PerformanceTimer, tracker: SuccessFailureTracker, clock: Clock) -> None:
        self._timer = timer
        self._tracker = tracker
        self.now_ns = clock.monotonic_ns

    def find(self, operation: object, tags: object) -> None:
        """Return ``None``: every operation is checked."""

    def begin(self, operation: str, tags: dict[str, str]) -> str:
        """Start a timer."""
        return self._timer.start_timer(operation, dict(tags))

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Stop the timer, however long the operation took, and track the outcome."""
        self._timer.stop_timer(cast(str, begun), error_type is None)
        if error_type is None:
            self._tracker.record_success(operation, dict(tags))
        else:
            self._tracker.record_failure(operation, error_type, dict(tags))


def meter_of(
    timer: PerformanceTimer, tracker: SuccessFailureTracker, clock: Clock
) -> StoreMeter | ProtocolMeter:
    """Return a meter that feeds both: through their store, which has its own clock, if they share one."""
    store = store_of(timer)
    if store is not None and store is store_of(tracker):
        return StoreMeter(store)
    return ProtocolMeter(timer, tracker, clock)


class Measurement:
    """One use of `measure`: a context manager, also an async one, and a decorator.

    Args:
        meter: Records the measurement.
        operation: The operation.
        tags: The tags of its series.

    Raises:
        InvalidInputError: If an argument breaks its rule.

    Example:
        >>> from metrics_framework import MetricsSystem
        >>> metrics = MetricsSystem()
        >>> with metrics.measure("db.query", tags={"table": "users"}) as query:
        ...     query.tag("rows", "many")
        >>> metrics.tracker.get_success_rate("db.query")
        1.0
    """

    __slots__ = (
        "__weakref__",
        "_begun",
        "_error_type",
        "_given",
        "_meter",
        "_operation",
        "_since_ns",
        "_spent_ns",
        "_tags",
    )

    def __init__(
        self,
        meter: StoreMeter | ProtocolMeter,
        operation: str,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self._meter = meter
        # Check arguments before the measured code runs. An operation and tags that were recorded before are
        # valid: checking them again would cost half of a measurement.
        if meter.find(operation, tags) is None:
            self._operation = check_name(operation, "operation name")
            self._given = plain_tags(tags)
        else:
            self._operation = operation
            self._given = {**tags} if tags else {}
        self._tags = self._given
        self._since_ns: int | None = None
        self._error_type: str | None = None

    @property
    def error_type(self) -> str | None:
        """The error type of a failure that raises nothing; ``None`` is success. Set it before the end."""
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
        self._tags = self._given
        self._error_type = None
        self._spent_ns = 0
        meter = self._meter
        self._begun: object = meter.begin(self._operation, self._given)
        self._since_ns = meter.now_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        meter, since_ns, spent_ns = self._meter, self._since_ns, self._spent_ns
        if since_ns is not None:  # else it is paused
            spent_ns += meter.now_ns() - since_ns
            self._since_ns = None
        error_type = self._error_type if error is None else type(error).__name__
        meter.end(self._begun, self._operation, self._tags, spent_ns, error_type)

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
            TypeError: If it is a class or static method: put the measuring decorator below.
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
        again = Measurement.__new__(Measurement)  # without checking its arguments again
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
            if isinstance(result, CoroutineType):  # a plain function that returns a coroutine
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
                    except GeneratorExit:  # the consumer stops, which is not a failure
                        measurement._resume()
                        generator.close()
                        break
                    except BaseException as error:  # noqa: BLE001 - the consumer threw it into the generator
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
                    except BaseException as error:  # noqa: BLE001 - the consumer threw it into the generator
                        measurement._resume()
                        step = functools.partial(generator.athrow, error)
                    else:
                        measurement._resume()
                        step = functools.partial(generator.asend, sent)
            raise GeneratorExit

        return measured


def _first(generator: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Request the first item, hidden from the event loop, which closes all generators it knows at its end."""
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
