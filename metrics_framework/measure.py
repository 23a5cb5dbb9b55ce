"""Measures the duration and the outcome of a block or a function.

One decorator supports four kinds of function. A coroutine is timed until it returns. A generator, sync or
async, is timed from the first requested item to its end, without the time that its consumer takes between two
items. A function that returns a coroutine, a generator, a future or another awaitable is timed until that
ends.

Measuring does not change the behaviour of the measured code. If a measurement cannot be recorded, the fault
is counted and logged, also where a direct record would raise.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping
from types import AsyncGeneratorType, CoroutineType, GeneratorType, NoneType, TracebackType
from typing import Any, ParamSpec, Protocol, Self, TypeVar, cast

from metrics_framework.clock import Clock
from metrics_framework.error_types import (
    DEFAULT_RULE,
    NOT_COUNTED,
    FailureRule,
    class_error_type,
    error_type_of,
)
from metrics_framework.errors import InvalidInputError
from metrics_framework.log import LogOnce
from metrics_framework.protocols import PerformanceTimer, SuccessFailureTracker
from metrics_framework.recording.store import Store, store_of
from metrics_framework.validation import OBJECT_ERRORS, check_name, plain_tags, safe_repr

P = ParamSpec("P")
R = TypeVar("R")

_COMPLETE = frozenset((NoneType, bool, int, float, str, bytes, list, dict, tuple, set))
"""Common types of results with which a function has ended."""

_CONTEXT_MANAGERS = (contextlib._GeneratorContextManager, contextlib._AsyncGeneratorContextManager)
_LATER = frozenset((CoroutineType, GeneratorType, AsyncGeneratorType, *_CONTEXT_MANAGERS))

_OTHER_USES = ("__aenter__", "__enter__", "__aiter__", "__iter__", "__anext__", "__next__")
"""Methods of awaitable objects that need not be awaited, such as a query that is also iterable."""


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
        rule: Decides which exceptions are failures.
    """

    def __init__(self, store: Store, rule: FailureRule = DEFAULT_RULE) -> None:
        self.rule = rule
        self._store = store
        self._record = store.operations.record
        self.find = store.timings.get
        """Returns anything but ``None`` for a valid operation and tags that were recorded before."""
        self.now_ns = store.clock.monotonic_ns

    def with_rule(self, rule: FailureRule) -> StoreMeter:
        """Return a meter with another rule."""
        return StoreMeter(self._store, rule)

    def begin(self, operation: str, tags: dict[str, str]) -> None:
        """Do nothing."""

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Record how long an operation took and how it ended."""
        try:
            if error_type is None:
                self._record(operation, tags or None, spent_ns, None)
            else:
                self._store.record_operation(operation, tags or None, spent_ns, error_type)
        except OBJECT_ERRORS as error:
            self.reject(error)

    def skip(self, begun: object, operation: str, tags: dict[str, str], spent_ns: int) -> None:
        """Record how long an operation took, without an outcome."""
        try:
            self._store.record_duration(operation, tags or None, spent_ns)
        except OBJECT_ERRORS as error:
            self.reject(error)

    def reject(self, error: Exception) -> None:
        """Count a measurement that cannot be recorded. The next read logs it."""
        self._store.count_rejected(error)


class ProtocolMeter:
    """Measures with any timer and tracker, which have no tags of operations: the tags become metadata.

    Args:
        timer: Measures the duration.
        tracker: Counts the outcome.
        clock: The source of time.
        store: Counts measurements that cannot be recorded, if there is one.
        rule: Decides which exceptions are failures.
    """

    def __init__(
        self,
        timer: PerformanceTimer,
        tracker: SuccessFailureTracker,
        clock: Clock,
        store: Store | None = None,
        rule: FailureRule = DEFAULT_RULE,
    ) -> None:
        self.rule = rule
        self._timer = timer
        self._tracker = tracker
        self._clock = clock
        self._store = store
        self._logged = LogOnce()
        self.now_ns = clock.monotonic_ns

    def with_rule(self, rule: FailureRule) -> ProtocolMeter:
        """Return a meter with another rule."""
        meter = ProtocolMeter(self._timer, self._tracker, self._clock, self._store, rule)
        meter._logged = self._logged
        return meter

    def find(self, operation: object, tags: object) -> None:
        """Return ``None``: every operation is checked."""

    def begin(self, operation: str, tags: dict[str, str]) -> str | None:
        """Start a timer, and return its id; ``None`` if the timer raised."""
        try:
            return self._timer.start_timer(operation, dict(tags))
        except Exception as error:  # noqa: BLE001 - an adapter may raise anything
            self.reject(error)
            return None

    def end(
        self, begun: object, operation: str, tags: dict[str, str], spent_ns: int, error_type: str | None
    ) -> None:
        """Stop the timer, however long the operation took, and track the outcome."""
        self._stop(begun, error_type is None)
        try:
            if error_type is None:
                self._tracker.record_success(operation, dict(tags))
            else:
                self._tracker.record_failure(operation, error_type, dict(tags))
        except Exception as error:  # noqa: BLE001 - an adapter may raise anything
            self.reject(error)

    def skip(self, begun: object, operation: str, tags: dict[str, str], spent_ns: int) -> None:
        """Stop the timer, without an outcome."""
        self._stop(begun, True)

    def reject(self, error: Exception) -> None:
        """Count and log a measurement that cannot be recorded."""
        if self._store is None:
            self._logged.log("error", "measurement not recorded", error=safe_repr(error))
        else:
            self._store.count_rejected(error)

    def _stop(self, begun: object, success: bool) -> None:
        if begun is None:
            return
        try:
            self._timer.stop_timer(cast(str, begun), success)
        except Exception as error:  # noqa: BLE001 - an adapter may raise anything
            self.reject(error)


def meter_of(
    timer: PerformanceTimer,
    tracker: SuccessFailureTracker,
    clock: Clock,
    store: Store | None = None,
    rule: FailureRule = DEFAULT_RULE,
) -> StoreMeter | ProtocolMeter:
    """Return a meter that feeds both: through their store, which has its own clock, if they share one.

    Args:
        timer: Measures durations.
        tracker: Counts outcomes.
        clock: The source of time of parts without a shared store.
        store: Counts what parts without a shared store cannot record.
        rule: Decides which exceptions are failures.
    """
    shared = store_of(timer)
    if shared is not None and shared is store_of(tracker):
        return StoreMeter(shared, rule)
    return ProtocolMeter(timer, tracker, clock, store, rule)


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
        "_idle",
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
            self._operation = _checked_operation(operation)
            self._given = plain_tags(tags)
        else:
            self._operation = operation
            self._given = {**tags} if tags else {}
        self._tags = self._given
        self._idle = True
        self._error_type: str | None = None

    @property
    def error_type(self) -> str | None:
        """The error type of a failure that raises nothing; ``None`` is success. Set it before the end.

        An exception, or a class of exceptions, sets its error type. Any other value that is not a non-empty
        string is counted and logged, and changes nothing.
        """
        return self._error_type

    @error_type.setter
    def error_type(self, error_type: str | BaseException | type[BaseException] | None) -> None:
        if isinstance(error_type, BaseException):
            error_type = error_type_of(error_type)
        elif isinstance(error_type, type) and issubclass(error_type, BaseException):
            error_type = class_error_type(error_type)
        try:
            self._error_type = None if error_type is None else check_name(error_type, "error type")
        except InvalidInputError as error:
            self._meter.reject(error)

    def tag(self, name: str, value: str) -> None:
        """Add a tag, or change one, before the end. A tag that is not allowed is counted and logged."""
        try:
            self._tags = plain_tags({**self._tags, name: value})
        except InvalidInputError as error:
            self._meter.reject(error)

    # -- as a context manager --------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            del self._idle  # one step: of several threads, only one succeeds
        except AttributeError:
            raise RuntimeError(
                f"this measurement of {self._operation!r} is running already; call measure() for each use"
            ) from None
        self._tags = self._given
        self._error_type = None
        meter = self._meter
        self._begun: object = meter.begin(self._operation, self._given)
        self._since_ns: int | None = meter.now_ns()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        meter, since_ns = self._meter, self._since_ns
        spent_ns = self._spent_ns if since_ns is None else meter.now_ns() - since_ns  # None: it is paused
        try:
            if error is None:
                meter.end(self._begun, self._operation, self._tags, spent_ns, self._error_type)
            else:
                self._end_with(error, spent_ns)
        finally:
            self._idle = True

    def _end_with(self, error: BaseException, spent_ns: int) -> None:
        meter, error_type = self._meter, self._error_type
        outcome = meter.rule.outcome(error)
        if outcome is NOT_COUNTED and error_type is None:
            meter.skip(self._begun, self._operation, self._tags, spent_ns)
        else:
            error_type = outcome if isinstance(outcome, str) else error_type
            meter.end(self._begun, self._operation, self._tags, spent_ns, error_type)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def _resume(self) -> None:
        self._since_ns = self._meter.now_ns() - self._spent_ns

    def _pause(self) -> None:
        if self._since_ns is not None:
            self._spent_ns = self._meter.now_ns() - self._since_ns
            self._since_ns = None

    # -- as a decorator --------------------------------------------------------------------------------

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return ``function``, measured at each call.

        Raises:
            TypeError: If it is not a function or another callable object, or is a class or a property; the
                message names the remedy.
        """
        self._check_function(function)
        wrapped: Callable[..., Any]
        if inspect.isasyncgenfunction(function):
            wrapped = self._async_generator(function, self._again)
        elif inspect.isgeneratorfunction(function):
            if _is_iterable_coroutine(function):
                wrapped = self._iterable_coroutine(function)
            else:
                wrapped = self._generator(function, self._again)
        elif inspect.iscoroutinefunction(function):
            wrapped = self._coroutine(function)
        else:
            wrapped = self._function(function)
        return cast(Callable[P, R], functools.wraps(function)(wrapped))

    def _check_function(self, function: object) -> None:
        if isinstance(function, type):
            raise TypeError(
                f"measure({self._operation!r}) cannot decorate the class {function.__name__}: decorate its"
                f" methods, or use a block: with measure({self._operation!r}): {function.__name__}(…)"
            )
        if isinstance(function, classmethod | staticmethod) or (
            not callable(function) and hasattr(type(function), "__get__")
        ):
            raise TypeError(f"put @{type(function).__name__} above the measuring decorator, not below it")
        if not callable(function):
            raise TypeError(
                f"measure({self._operation!r}) cannot decorate {safe_repr(function)}, which is not callable:"
                " pass a function and not its result, or measure a block:"
                f" with measure({self._operation!r}): …"
            )

    def _again(self) -> Measurement:
        again = Measurement.__new__(Measurement)  # without checking its arguments again
        again._meter, again._operation, again._given = self._meter, self._operation, self._given
        again._idle = True
        return again

    def _function(self, function: Callable[..., R]) -> Callable[..., R]:
        last_kind: type = NoneType

        def measured(*args: Any, **kwargs: Any) -> R:
            nonlocal last_kind
            measurement = self._again()
            measurement.__enter__()
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                measurement.__exit__(type(error), error, None)
                raise
            kind = type(result)
            if kind is not last_kind and kind not in _COMPLETE:
                if _ends_later(kind):
                    return cast(R, _measured_result(result, measurement))
                last_kind = kind
            measurement.__exit__(None, None, None)
            return result

        return measured

    def _coroutine(self, function: Callable[..., Awaitable[R]]) -> Callable[..., Coroutine[Any, Any, R]]:
        async def measured(*args: Any, **kwargs: Any) -> R:
            with self._again():
                return await function(*args, **kwargs)

        return measured

    def _iterable_coroutine(
        self, function: Callable[..., Generator[Any, Any, R]]
    ) -> Callable[..., Awaitable[R]]:
        @types.coroutine
        def measured(*args: Any, **kwargs: Any) -> Generator[Any, Any, R]:
            with self._again():
                return (yield from function(*args, **kwargs))

        return measured

    def _generator(
        self,
        function: Callable[..., Generator[Any, Any, R]],
        begin: Callable[[], Measurement | _Paused],
    ) -> Callable[..., Generator[Any, Any, R]]:
        def measured(*args: Any, **kwargs: Any) -> Generator[Any, Any, R]:
            with begin() as measurement:
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
                    except BaseException as error:  # noqa: BLE001 - the consumer threw it, or closes this
                        measurement._resume()
                        step = functools.partial(generator.throw, error)
                    else:
                        measurement._resume()
                        step = functools.partial(generator.send, sent)

        return measured

    def _async_generator(
        self,
        function: Callable[..., AsyncGenerator[Any, Any]],
        begin: Callable[[], Measurement | _Paused],
    ) -> Callable[..., AsyncGenerator[Any, Any]]:
        async def measured(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            with begin() as measurement:
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
                    except BaseException as error:  # noqa: BLE001 - the consumer threw it, or closes this
                        measurement._resume()
                        step = functools.partial(generator.athrow, error)
                    else:
                        measurement._resume()
                        step = functools.partial(generator.asend, sent)

        return measured


class DeferredMeasurement(Measurement):
    """A measurement whose decorated functions look up their system at each call.

    Args:
        measure: Called at each call of a decorated function; returns the measurement of that call.
    """

    __slots__ = ("_measure",)

    def __init__(
        self,
        meter: StoreMeter | ProtocolMeter,
        operation: str,
        tags: Mapping[str, str] | None,
        measure: Callable[[], Measurement],
    ) -> None:
        super().__init__(meter, operation, tags)
        self._measure = measure

    def _again(self) -> Measurement:
        return self._measure()


def _first(generator: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Request the first item, hidden from the event loop, which closes all generators it knows at its end."""
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return anext(generator)
    finally:
        sys.set_asyncgen_hooks(*hooks)


class _Paused:
    """Continues a measurement that is running, for the rest of a function in a generator that it returned."""

    def __init__(self, measurement: Measurement) -> None:
        measurement._pause()
        self._measurement = measurement

    def __enter__(self) -> Measurement:
        self._measurement._resume()
        return self._measurement

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._measurement.__exit__(kind, error, trace)


def _checked_operation(operation: object) -> str:
    if callable(operation):
        raise InvalidInputError(
            f"operation name {safe_repr(operation)} is a function: pass the operation's name first, such as"
            " @metrics.measure('checkout')"
        )
    return check_name(operation, "operation name")


def _is_iterable_coroutine(function: object) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    code = getattr(function, "__code__", None)
    return code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE)


# -- results that end later ------------------------------------------------------------------------------


def _ends_later(kind: type) -> bool:
    """Return whether a function that returns an object of this type is measured until the object ends."""
    return kind in _LATER or _is_future(kind) or _is_awaitable(kind)


def _is_future(kind: type) -> bool:
    return hasattr(kind, "add_done_callback") and (
        hasattr(kind, "_asyncio_future_blocking") or kind.__module__.startswith("concurrent.futures")
    )


def _is_awaitable(kind: type) -> bool:
    return hasattr(kind, "__await__") and not any(hasattr(kind, name) for name in _OTHER_USES)


def _measured_result(result: Any, measurement: Measurement) -> Any:
    """Return the result of a function, measured until it ends."""
    kind = type(result)
    if kind is CoroutineType or (
        kind is GeneratorType and result.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE
    ):
        return _awaited(result, measurement)
    if kind is GeneratorType or kind is AsyncGeneratorType:
        return _measured_generator(result, measurement)()
    if kind in _CONTEXT_MANAGERS:
        function = result.func
        result.gen = _measured_generator(result.gen, measurement)()
        # A context manager that decorates functions calls this function at each call.
        result.func = measurement._again()(function)
        return result
    if _is_future(kind):
        if result.done():
            _end_future(measurement, result)
        else:
            result.add_done_callback(functools.partial(_end_future, measurement))
        return result
    return _MeasuredAwaitable(result, measurement)


def _measured_generator(generator: Any, measurement: Measurement) -> Callable[[], Any]:
    paused = _Paused(measurement)
    if isinstance(generator, AsyncGeneratorType):
        return measurement._async_generator(lambda: generator, lambda: paused)
    return measurement._generator(lambda: generator, lambda: paused)


def _end_future(measurement: Measurement, future: Any) -> None:
    error: BaseException | None
    if future.cancelled():
        import asyncio  # slow to import

        error = asyncio.CancelledError()
    else:
        # Not `exception()`: asyncio would no longer report an exception that is never retrieved.
        error = future._exception
    measurement.__exit__(None if error is None else type(error), error, None)


async def _awaited(awaitable: Awaitable[R], measurement: Measurement) -> R:
    try:
        result = await awaitable
    except BaseException as error:
        measurement.__exit__(type(error), error, None)
        raise
    measurement.__exit__(None, None, None)
    return result


class _MeasuredAwaitable:
    """An awaitable object whose first ``await`` ends a measurement. Otherwise it behaves like the object."""

    __slots__ = ("__weakref__", "_awaitable", "_measurement")

    def __init__(self, awaitable: Awaitable[Any], measurement: Measurement) -> None:
        object.__setattr__(self, "_awaitable", awaitable)
        object.__setattr__(self, "_measurement", measurement)

    def __await__(self) -> Generator[Any, Any, Any]:
        awaitable, measurement = self._awaitable, self._measurement
        if measurement is None:
            return cast("Generator[Any, Any, Any]", awaitable.__await__())
        object.__setattr__(self, "_measurement", None)
        return _awaited(awaitable, measurement).__await__()

    __class__: Any = property(lambda self: type(self._awaitable))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._awaitable, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._awaitable, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._awaitable, name)

    def __repr__(self) -> str:
        return repr(self._awaitable)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _MeasuredAwaitable):
            other = other._awaitable
        return bool(self._awaitable == other)

    def __hash__(self) -> int:
        return hash(self._awaitable)
