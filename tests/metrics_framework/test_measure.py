"""Measuring blocks and functions: the records, and that measured code behaves as before."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import re
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from logging import DEBUG
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.null import NullAggregator, NullCollector, NullTimer, NullTracker
from metrics_adapters.prometheus import PrometheusCollector
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.errors import InvalidInputError
from metrics_framework.measure import Measurement, ProtocolMeter, StoreMeter, meter_of
from metrics_framework.protocols import PerformanceTimer, SuccessFailureTracker
from metrics_framework.recording import Store
from metrics_framework.values import MetricType, MetricUnit, TimingResult

WAIT = 0.03


class Told(NamedTuple):
    """The numbers of one series of an operation."""

    timed: int
    milliseconds: float
    successes: int
    failures: dict[str, int]


@pytest.fixture
def metrics(clock):
    """Return a system with a manual clock."""
    return MetricsSystem(clock=clock)


def told(metrics, operation="work", tags=None) -> Told:
    """Return the numbers of the series of an operation that has exactly these tags."""
    values = [
        value
        for value in metrics.aggregator.get_metrics_by_tag({})
        if value.name == operation and value.tags == (tags or {})
    ]
    (timed,) = (value.metadata for value in values if value.metric_type is MetricType.TIMER)
    (tracked,) = (value.metadata for value in values if value.metric_type is MetricType.RATE)
    return Told(timed["count"], timed["sum"], tracked["successes"], tracked["failures"])


def recorded(metrics) -> list[str]:
    """Return all recorded names."""
    return [value.name for value in metrics.aggregator.get_metrics_by_tag({})]


# -- real waits --------------------------------------------------------------------------------------------


class Naps:
    """Real waits, and their actual durations."""

    def __init__(self) -> None:
        self.milliseconds = 0.0

    def take(self) -> None:
        """Wait."""
        began = time.perf_counter_ns()
        time.sleep(WAIT)
        self.milliseconds += (time.perf_counter_ns() - began) / 1e6

    async def take_async(self) -> None:
        """Wait without blocking other tasks."""
        began = time.perf_counter_ns()
        await asyncio.sleep(WAIT)
        self.milliseconds += (time.perf_counter_ns() - began) / 1e6


def _block(measure, naps):
    with measure("work"):
        naps.take()


def _async_block(measure, naps):
    async def main():
        async with measure("work"):
            await naps.take_async()

    asyncio.run(main())


def _function(measure, naps):
    @measure("work")
    def work():
        naps.take()

    work()


def _coroutine(measure, naps):
    @measure("work")
    async def work():
        await naps.take_async()

    asyncio.run(work())


def _generator(measure, naps):
    @measure("work")
    def work():
        yield 1
        naps.take()
        yield 2

    assert list(work()) == [1, 2]


def _async_generator(measure, naps):
    @measure("work")
    async def work():
        yield 1
        await naps.take_async()
        yield 2

    async def main():
        assert [item async for item in work()] == [1, 2]

    asyncio.run(main())


def _handed_out(measure, naps):
    @measure("work")
    def work():
        return naps.take_async()

    asyncio.run(work())


USES = [_block, _async_block, _function, _coroutine, _generator, _async_generator, _handed_out]


@pytest.mark.smoke
@pytest.mark.parametrize("use", USES)
def test_a_real_wait_is_within_the_duration(use):
    """For any kind of code, the duration is at least that of the real wait."""
    metrics, naps = MetricsSystem(), Naps()
    began = time.perf_counter_ns()
    use(metrics.measure, naps)
    passed = (time.perf_counter_ns() - began) / 1e6
    found = told(metrics)
    assert 20 < naps.milliseconds <= found.milliseconds <= passed
    assert (found.timed, found.successes, found.failures) == (1, 1, {})


# -- blocks ------------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_block_is_timed_and_tracked(metrics, clock):
    """One `with` block records into the timer and the tracker, under the operation's name."""
    with metrics.measure("work") as measurement:
        assert isinstance(measurement, Measurement)
        clock.advance(1.5)
    assert told(metrics) == (1, 1500.0, 1, {})
    assert metrics.timer.get_timing_stats("work")["max"] == 1500.0
    assert metrics.tracker.get_success_rate("work") == 1.0
    assert recorded(metrics) == ["work", "work"]


def test_an_async_block_is_timed_and_tracked(metrics, clock):
    """`async with` does the same as `with`."""

    async def main():
        async with metrics.measure("work", {"a": "1"}) as measurement:
            await asyncio.sleep(0)
            clock.advance(0.5)
            measurement.tag("b", "2")

    asyncio.run(main())
    assert told(metrics, tags={"a": "1", "b": "2"}) == (1, 500.0, 1, {})


def test_tags_that_change_during_a_block_change_nothing(metrics):
    """A dict of tags is copied at the start, for a new or known series."""
    tags = {"a": "1"}
    for _ in range(3):
        with metrics.measure("work", tags):
            tags["a"] = "2"
        tags["a"] = "1"
    assert told(metrics, tags={"a": "1"})[0] == 3
    assert recorded(metrics) == ["work", "work"]


@pytest.mark.parametrize("tags", [{"a": 1}, {"": "1"}, ["a"], "a"])
def test_bad_tags_of_a_known_operation_are_checked_too(metrics, tags):
    """A number as a tag's value is converted; other invalid tags are rejected at the start."""
    for _ in range(2):
        with metrics.measure("work", {"a": "1"}):
            pass
    if tags == {"a": 1}:
        with metrics.measure("work", tags):
            pass
        assert told(metrics, tags={"a": "1"})[0] == 3
    else:
        with pytest.raises(InvalidInputError, match="tag"):
            metrics.measure("work", tags)


def test_nothing_is_recorded_before_the_end(metrics):
    """A measurement that has not begun, or is running, is in no result."""
    measurement = metrics.measure("work")
    assert recorded(metrics) == []
    with measurement:
        assert recorded(metrics) == []
    assert recorded(metrics) == ["work", "work"]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3), StopIteration(7)])
def test_an_exception_propagates_unchanged_and_is_counted(metrics, clock, error):
    """The caller gets the same object, and the error type is the name of its class."""
    cause = OSError()
    error.__cause__ = cause
    with pytest.raises(type(error)) as caught, metrics.measure("work"):  # noqa: PT012
        clock.advance(0.25)
        raise error
    assert caught.value is error
    assert error.__cause__ is cause
    assert told(metrics) == (1, 250.0, 0, {type(error).__name__: 1})


def test_the_traceback_ends_where_the_error_was_raised(metrics):
    """A measured function keeps the traceback of an error."""

    @metrics.measure("work")
    def work():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        work()
    assert caught.traceback[-1].name == "work"
    assert caught.value.__context__ is None


def test_an_exception_of_an_async_block_propagates(metrics):
    """`async with` handles exceptions like `with`."""
    error = LookupError()

    async def main():
        async with metrics.measure("work"):
            raise error

    with pytest.raises(LookupError) as caught:
        asyncio.run(main())
    assert caught.value is error
    assert told(metrics).failures == {"LookupError": 1}


def test_an_operation_can_fail_without_an_exception(metrics):
    """Setting `error_type` makes it a failure of that type."""
    with metrics.measure("work") as measurement:
        measurement.error_type = "http_500"
    assert told(metrics)[2:] == (0, {"http_500": 1})


def test_an_exception_overrides_an_error_type(metrics):
    """The failure has the type of the exception."""
    with pytest.raises(ValueError, match="no"), metrics.measure("work") as measurement:  # noqa: PT012
        measurement.error_type = "http_500"
        raise ValueError("no")
    assert told(metrics).failures == {"ValueError": 1}


# -- tags --------------------------------------------------------------------------------------------------


def test_tags_keep_series_apart(metrics, clock):
    """Durations and outcomes are kept by tags, and the operation's totals include all."""
    for table, seconds in (("users", 1), ("users", 1), ("orders", 4)):
        with metrics.measure("work", tags={"table": table}):
            clock.advance(seconds)
    assert told(metrics, tags={"table": "users"}) == (2, 2000.0, 2, {})
    assert told(metrics, tags={"table": "orders"}) == (1, 4000.0, 1, {})
    assert metrics.timer.get_timing_stats("work")["sum"] == 6000.0


def test_tags_can_be_added_before_the_end(metrics):
    """They replace tags of the same name."""
    with metrics.measure("work", {"a": "1"}) as measurement:
        measurement.tag("b", "2")
        measurement.tag("a", "3")
    assert told(metrics, tags={"a": "3", "b": "2"}) == (1, 0.0, 1, {})
    assert recorded(metrics) == ["work", "work"]


def test_a_failure_has_its_tags_too(metrics):
    """Tags that were added before an exception are those of the failure."""
    with pytest.raises(ValueError, match="no"), metrics.measure("work") as measurement:  # noqa: PT012
        measurement.tag("status", "500")
        raise ValueError("no")
    assert told(metrics, tags={"status": "500"}) == (1, 0.0, 0, {"ValueError": 1})
    (failure,) = metrics.tracker.recent_failures("work")
    assert failure.metadata == {"status": "500"}


def test_the_tags_of_a_failure_are_plain_strings(metrics):
    """Members of an enumeration are their values, also in a series that was recorded before."""
    page = StrEnum("page", {"START": "/start"})
    for _ in range(3):
        with pytest.raises(ValueError, match="no"), metrics.measure("work", {"page": page.START}):
            raise ValueError("no")
    kept = [failure.metadata["page"] for failure in metrics.tracker.recent_failures("work")]
    assert kept == ["/start"] * 3
    assert {type(text) for text in kept} == {str}


def test_the_callers_tags_are_copied(metrics):
    """A measurement does not change the mapping, and later changes do not affect it."""
    tags = {"a": "1"}
    with metrics.measure("work", tags) as measurement:
        measurement.tag("b", "2")
        assert tags == {"a": "1"}
        tags["a"] = "changed"
    assert told(metrics, tags={"a": "1", "b": "2"}).timed == 1


def test_values_of_tags_become_strings(metrics):
    """Other values are converted."""
    with metrics.measure("work", {"status": 200}) as measurement:
        measurement.tag("retry", 1)
    assert told(metrics, tags={"status": "200", "retry": "1"}).timed == 1


@pytest.mark.parametrize("name", ["", None, 3, b"work", ["work"]])
def test_a_bad_name_raises_at_measure(metrics, name):
    """The error quotes it before the measured code runs."""
    with pytest.raises(InvalidInputError, match="operation name") as caught:
        metrics.measure(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("tags", ["a=1", [("a", "1")], {"": "1"}, {3: "1"}, 7])
def test_bad_tags_raise_at_measure(metrics, tags):
    """The error is raised before the measured code runs, also if the store only counts errors."""
    with pytest.raises(InvalidInputError, match="tag"):
        metrics.measure("work", tags)
    lenient = MetricsSystem(collector=InMemoryCollector(Store(on_error="log")))
    with pytest.raises(InvalidInputError, match="tag"):
        lenient.measure("work", tags)


def test_a_bad_tag_is_counted_and_leaves_the_block_alone(metrics, caplog):
    """The block goes on with its former tags, also if the store raises errors. The next read logs it."""

    class Unprintable:
        def __str__(self):
            raise ValueError("no text")

    with metrics.measure("work", {"a": "1"}) as measurement:
        measurement.tag("", "2")
        measurement.tag("amount", Unprintable())
    assert told(metrics, tags={"a": "1"}) == (1, 0.0, 1, {})
    assert metrics.collector.store.rejected == 2
    assert "tag name '' is not a non-empty string" in caplog.text
    assert "the value of tag 'amount' cannot be converted" in caplog.text


# -- one measurement, several uses -------------------------------------------------------------------------


def test_a_measurement_can_be_used_again(metrics, clock):
    """Each use in sequence starts with the given tags, no time and no error."""
    measurement = metrics.measure("work", {"a": "1"})
    with measurement:
        clock.advance(1)
        measurement.tag("b", "2")
        measurement.error_type = "broken"
    clock.advance(10)
    with measurement:
        clock.advance(2)
    assert told(metrics, tags={"a": "1", "b": "2"}) == (1, 1000.0, 0, {"broken": 1})
    assert told(metrics, tags={"a": "1"}) == (1, 2000.0, 1, {})


def test_a_measurement_can_be_used_again_after_an_exception(metrics, clock):
    """A failed use does not affect the next one."""
    measurement = metrics.measure("work")
    with pytest.raises(ValueError, match="no"), measurement:  # noqa: PT012
        clock.advance(1)
        raise ValueError("no")
    with measurement:
        clock.advance(2)
    assert told(metrics) == (2, 3000.0, 1, {"ValueError": 1})


def test_a_running_measurement_cannot_be_used(metrics, clock):
    """A nested use raises a RuntimeError with the remedy, and the outer one still ends normally."""
    measurement = metrics.measure("work", {"a": "1"})
    with measurement:
        clock.advance(1)
        measurement.tag("b", "2")
        with pytest.raises(RuntimeError, match=r"'work' is running already; call measure\(\) for each use"):
            measurement.__enter__()
    assert told(metrics, tags={"a": "1", "b": "2"}) == (1, 1000.0, 1, {})


def test_a_running_async_measurement_cannot_be_used(metrics):
    """Two concurrent tasks that share one measurement get an error."""
    measurement = metrics.measure("work")

    async def use():
        async with measurement:
            await asyncio.sleep(0)

    async def main():
        return await asyncio.gather(use(), use(), return_exceptions=True)

    first, second = asyncio.run(main())
    assert first is None
    assert isinstance(second, RuntimeError)
    assert told(metrics)[2:] == (1, {})


def test_measurements_can_be_nested(metrics, clock):
    """Separate measurements can be nested, also of the same operation."""
    with metrics.measure("work"):
        clock.advance(1)
        with metrics.measure("work"):
            clock.advance(2)
    assert told(metrics) == (2, 5000.0, 2, {})


def test_one_measurement_decorates_several_functions(metrics, clock):
    """All functions are recorded under its operation and tags."""
    measured = metrics.measure("work", {"a": "1"})

    @measured
    def first():
        clock.advance(1)

    @measured
    def second():
        first()
        clock.advance(1)

    second()
    assert told(metrics, tags={"a": "1"}) == (2, 3000.0, 2, {})


# -- functions ---------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_function_is_measured_at_each_call(metrics, clock):
    """Arguments and result pass through, and each call is one record."""

    @metrics.measure("work", {"a": "1"})
    def work(seconds, /, *more, factor=1):
        clock.advance(seconds)
        return (more, factor)

    assert work(1) == ((), 1)
    assert work(2, "x", factor=3) == (("x",), 3)
    assert told(metrics, tags={"a": "1"}) == (2, 3000.0, 2, {})


def test_an_exception_of_a_function_propagates(metrics, clock):
    """The caller gets the same object, and it is counted."""
    error = ZeroDivisionError()

    @metrics.measure("work")
    def work():
        clock.advance(1)
        raise error

    with pytest.raises(ZeroDivisionError) as caught:
        work()
    assert caught.value is error
    assert told(metrics) == (1, 1000.0, 0, {"ZeroDivisionError": 1})


def test_a_function_may_call_itself(metrics, clock):
    """Each call of a recursive function has its own measurement."""

    @metrics.measure("work")
    def work(depth):
        clock.advance(1)
        return depth and work(depth - 1) + 1

    assert work(3) == 3
    assert told(metrics) == (4, 10_000.0, 4, {})


def test_a_decorated_function_looks_like_itself(metrics):
    """Name, docstring, module, signature and the wrapped function are available."""

    def work(a: int, *, b: str = "x") -> None:
        """Work."""

    measured = metrics.measure("other")(work)
    assert (measured.__name__, measured.__doc__, measured.__module__) == ("work", "Work.", __name__)
    assert measured.__qualname__ == work.__qualname__
    assert measured.__wrapped__ is work
    assert inspect.signature(measured) == inspect.signature(work)


def test_the_kind_of_a_function_stays(metrics):
    """Frameworks that inspect the kind of a function get the same answer as without the decorator."""

    def function():
        pass

    async def coroutine():
        pass

    def generator():
        yield

    async def async_generator():
        yield

    asks = [inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction]
    for each in (function, coroutine, generator, async_generator):
        measured = metrics.measure("work")(each)
        assert [ask(measured) for ask in asks] == [ask(each) for ask in asks]
        assert measured.__wrapped__ is each
        assert measured.__name__ == each.__name__


def test_methods_of_each_kind_are_measured(metrics, clock):
    """Methods, class methods and static methods get their usual first argument."""

    class Service:
        @metrics.measure("work")
        def method(self, seconds):
            clock.advance(seconds)
            return self

        @classmethod
        @metrics.measure("work")
        def of_the_class(cls, seconds):
            clock.advance(seconds)
            return cls

        @staticmethod
        @metrics.measure("work")
        def alone(seconds):
            clock.advance(seconds)
            return seconds

        @property
        @metrics.measure("work")
        def attribute(self):
            clock.advance(8)
            return self

    service = Service()
    assert service.method(1) is service
    assert service.of_the_class(2) is Service.of_the_class(2) is Service
    assert service.alone(4) == Service.alone(4) == 4
    assert service.attribute is service
    assert told(metrics) == (6, 21_000.0, 6, {})


def test_methods_may_be_coroutines_and_generators(metrics, clock):
    """The kinds of function are recognized in classes, too."""

    class Service:
        @metrics.measure("work")
        async def load(self):
            clock.advance(1)
            return self

        @metrics.measure("work")
        def items(self):
            clock.advance(2)
            yield self

        @classmethod
        @metrics.measure("work")
        async def pages(cls):
            clock.advance(4)
            yield cls

    service = Service()

    async def main():
        return [await service.load(), *service.items(), *[page async for page in service.pages()]]

    assert asyncio.run(main()) == [service, service, Service]
    assert told(metrics) == (3, 7000.0, 3, {})


def test_any_callable_can_be_measured(metrics, clock):
    """Lambdas, built-ins, partials and callable objects are measured."""

    class Called:
        async def __call__(self, seconds):
            clock.advance(seconds)
            return seconds

    measure = metrics.measure("work")
    assert measure(lambda: clock.advance(1))() is None
    assert measure(len)("abc") == 3
    assert measure(functools.partial(clock.advance, 2))() is None
    assert asyncio.run(measure(Called())(4)) == 4
    assert asyncio.run(measure(functools.partial(Called().__call__, 8))()) == 8
    assert told(metrics) == (5, 15_000.0, 5, {})


def test_a_measured_context_manager_works(metrics, clock):
    """Below `contextmanager` the time of the `with` body is excluded, as it is the consumer."""

    @contextmanager
    @metrics.measure("work")
    def opened():
        clock.advance(1)
        try:
            yield "it"
        finally:
            clock.advance(2)

    with opened() as it:
        clock.advance(100)
    assert it == "it"
    with pytest.raises(ValueError, match="no"), opened():
        raise ValueError("no")
    assert told(metrics) == (2, 6000.0, 1, {"ValueError": 1})


# -- coroutines --------------------------------------------------------------------------------------------


@pytest.mark.smoke
def test_a_coroutine_is_measured_until_it_returns(metrics, clock):
    """The duration is from its first step to its end, including awaits."""

    @metrics.measure("work")
    async def work(seconds, *, more=0):
        clock.advance(seconds)
        await asyncio.sleep(0)
        clock.advance(more)
        return "done"

    async def main():
        coroutine = work(1, more=2)
        clock.advance(100)
        return await coroutine

    assert asyncio.run(main()) == "done"
    assert told(metrics) == (1, 3000.0, 1, {})


def test_an_exception_of_a_coroutine_propagates(metrics):
    """The awaiting task gets the same object, and it is counted."""
    error = ConnectionError()

    @metrics.measure("work")
    async def work():
        await asyncio.sleep(0)
        raise error

    with pytest.raises(ConnectionError) as caught:
        asyncio.run(work())
    assert caught.value is error
    assert told(metrics)[2:] == (0, {"ConnectionError": 1})


def test_a_returned_coroutine_is_measured_until_its_end(metrics, clock):
    """A plain function that returns a coroutine is measured once, from its call on."""

    async def inner():
        await asyncio.sleep(0)
        clock.advance(4)
        return "done"

    @metrics.measure("work")
    def work():
        clock.advance(1)
        return inner()

    async def main():
        coroutine = work()
        assert recorded(metrics) == []
        return await coroutine

    assert asyncio.run(main()) == "done"
    assert told(metrics) == (1, 5000.0, 1, {})


def test_an_exception_of_a_returned_coroutine_propagates(metrics):
    """The outcome of the function is that of its coroutine, or its own error."""

    async def inner():
        raise ConnectionError

    @metrics.measure("work")
    def work(coroutine):
        if not coroutine:
            raise LookupError
        return inner()

    with pytest.raises(ConnectionError):
        asyncio.run(work(True))
    with pytest.raises(LookupError):
        work(False)
    assert told(metrics)[2:] == (0, {"ConnectionError": 1, "LookupError": 1})


def _cancelled_coroutine(metrics, started):
    @metrics.measure("work")
    async def work():
        started.set()
        await asyncio.sleep(60)

    return work()


async def _cancelled_block(metrics, started):
    async with metrics.measure("work"):
        started.set()
        await asyncio.sleep(60)


async def _cancelled_generator(metrics, started):
    @metrics.measure("work")
    async def work():
        yield
        started.set()
        await asyncio.sleep(60)

    async for _ in work():
        pass


def _cancelled_handed_out(metrics, started):
    @metrics.measure("work")
    def work():
        return _cancelled_inner(started)

    return work()


async def _cancelled_inner(started):
    started.set()
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    "begin", [_cancelled_coroutine, _cancelled_block, _cancelled_generator, _cancelled_handed_out]
)
def test_a_cancellation_is_neither_a_success_nor_a_failure(metrics, begin):
    """A cancelled task stays cancelled: its duration is recorded, and its operation is known."""

    async def main():
        started = asyncio.Event()
        task = asyncio.ensure_future(begin(metrics, started))
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        return task.cancelled()

    assert asyncio.run(main())
    stats = metrics.timer.get_timing_stats("work")
    assert (stats["count"], stats["failures"]) == (1, 0)
    assert metrics.tracker.get_success_rate("work") == 1.0
    assert metrics.tracker.get_failure_breakdown("work") == {}
    metrics.tracker.record_failure("work", "timeout")
    assert metrics.tracker.get_success_rate("work") == 0.0


def test_a_coroutine_may_run_many_times_at_once(metrics, clock):
    """Fifty concurrent calls are fifty records, each with its own outcome."""
    running = 0

    @metrics.measure("work")
    async def work(number):
        nonlocal running
        running += 1
        while running < 50:
            await asyncio.sleep(0)
        if number % 5 == 0:
            raise ValueError(number)
        return number

    async def main():
        return await asyncio.gather(*(work(number) for number in range(50)), return_exceptions=True)

    results = asyncio.run(main())
    assert [result for result in results if isinstance(result, int)] == [n for n in range(50) if n % 5]
    assert told(metrics) == (50, 0.0, 40, {"ValueError": 10})


def test_a_function_may_run_in_many_threads_at_once(metrics):
    """Eight threads in one measured function lose no call and do not mix outcomes."""
    barrier = threading.Barrier(8)

    @metrics.measure("work")
    def work(number):
        if number % 4 == 0:
            raise LookupError
        return number

    def calls(_):
        barrier.wait()
        failed = 0
        for number in range(500):
            try:
                assert work(number) == number
            except LookupError:
                failed += 1
        return failed

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(calls, range(8))) == [125] * 8
    found = told(metrics)
    assert (found.timed, found.successes, found.failures) == (4000, 3000, {"LookupError": 1000})


# -- generators --------------------------------------------------------------------------------------------


def test_the_time_of_a_generators_consumer_is_excluded(metrics, clock):
    """The generator's own steps are one record at its end."""

    @metrics.measure("work")
    def work(last):
        clock.advance(1)
        yield 1
        clock.advance(2)
        yield 2
        clock.advance(last)

    items = []
    for item in work(4):
        items.append(item)
        assert recorded(metrics) == []
        clock.advance(100)
    assert items == [1, 2]
    assert told(metrics) == (1, 7000.0, 1, {})


def test_the_time_of_an_async_generators_consumer_is_excluded(metrics, clock):
    """The duration is that of its own steps, including awaits."""

    @metrics.measure("work")
    async def work(last):
        clock.advance(1)
        yield 1
        await asyncio.sleep(0)
        clock.advance(2)
        yield 2
        clock.advance(last)

    async def main():
        items = []
        async for item in work(4):
            items.append(item)
            assert recorded(metrics) == []
            clock.advance(100)
        return items

    assert asyncio.run(main()) == [1, 2]
    assert told(metrics) == (1, 7000.0, 1, {})


def test_a_measured_generator_behaves_like_the_original(metrics, clock):
    """Sent values, thrown exceptions, items and the return value pass through unchanged."""

    @metrics.measure("work")
    def work():
        got = yield "first"
        try:
            yield ("sent", got)
        except KeyError as error:
            thrown = error
        clock.advance(1)
        got = yield ("thrown", thrown)
        return ("returned", got)

    error = KeyError("k")
    generator = work()
    assert next(generator) == "first"
    assert generator.send(5) == ("sent", 5)
    assert generator.throw(error) == ("thrown", error)
    with pytest.raises(StopIteration) as stop:
        generator.send(None)
    assert stop.value.value == ("returned", None)
    with pytest.raises(StopIteration):
        next(generator)
    assert told(metrics) == (1, 1000.0, 1, {})


def test_yield_from_a_measured_generator(metrics):
    """`yield from` passes values both ways and gets the returned one."""

    @metrics.measure("work")
    def work():
        return (yield 1) + (yield 2)

    def outer():
        return (yield from work())

    generator = outer()
    assert [next(generator), generator.send(10)] == [1, 2]
    with pytest.raises(StopIteration) as stop:
        generator.send(20)
    assert stop.value.value == 30
    assert told(metrics).successes == 1


def test_a_measured_async_generator_behaves_like_the_original(metrics):
    """Values of `asend`, exceptions of `athrow` and items pass through unchanged."""

    @metrics.measure("work")
    async def work():
        got = yield "first"
        try:
            yield ("sent", got)
        except KeyError as error:
            thrown = error
        yield ("thrown", thrown)

    error = KeyError("k")

    async def main():
        generator = work()
        assert await anext(generator) == "first"
        assert await generator.asend(5) == ("sent", 5)
        assert await generator.athrow(error) == ("thrown", error)
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        with pytest.raises(StopAsyncIteration):
            await anext(generator)

    asyncio.run(main())
    assert told(metrics)[2:] == (1, {})


def test_closing_a_generator_early_is_a_success(metrics, clock):
    """The generator cleans up within its measured time."""
    closed = []

    @metrics.measure("work")
    def work():
        try:
            while True:
                clock.advance(1)
                yield
        finally:
            clock.advance(2)
            closed.append(True)

    generator = work()
    next(generator)
    clock.advance(100)
    assert generator.close() is None
    assert closed == [True]
    generator.close()
    assert told(metrics) == (1, 3000.0, 1, {})


def test_an_abandoned_generator_is_closed(metrics):
    """A loop that ends with `break` closes the generator, which is a success."""
    closed = []

    @metrics.measure("work")
    def work():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    for _ in work():
        break
    gc.collect()
    assert closed == [True]
    assert told(metrics)[2:] == (1, {})


def test_closing_an_async_generator_early_is_a_success(metrics, clock):
    """The generator may await while it cleans up."""
    closed = []

    @metrics.measure("work")
    async def work():
        try:
            while True:
                clock.advance(1)
                yield
        finally:
            await asyncio.sleep(0)
            clock.advance(2)
            closed.append(True)

    async def main():
        generator = work()
        await anext(generator)
        clock.advance(100)
        await generator.aclose()
        assert closed == [True]
        await generator.aclose()

    asyncio.run(main())
    assert told(metrics) == (1, 3000.0, 1, {})


def test_an_abandoned_async_generator_is_closed(metrics):
    """After a `break` the event loop closes the generator, which is a success."""
    closed = []

    @metrics.measure("work")
    async def work():
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async def main():
        async for _ in work():
            break
        gc.collect()
        for _ in range(10):
            await asyncio.sleep(0)

    asyncio.run(main())
    assert closed == [True]
    assert told(metrics)[2:] == (1, {})


def test_a_thrown_exception_reaches_the_generator(metrics):
    """An unhandled exception returns as the same object and is a failure."""
    seen = []

    @metrics.measure("work")
    def work():
        try:
            yield
        except ValueError as error:
            seen.append(error)
            raise

    error = ValueError("no")
    generator = work()
    next(generator)
    with pytest.raises(ValueError, match="no") as caught:
        generator.throw(error)
    assert caught.value is error
    assert seen == [error]
    assert told(metrics)[2:] == (0, {"ValueError": 1})


def test_a_thrown_exception_reaches_the_async_generator(metrics):
    """An unhandled exception of `athrow` returns as the same object and is a failure."""
    seen = []

    @metrics.measure("work")
    async def work():
        try:
            yield
        except ValueError as error:
            seen.append(error)
            raise

    error = ValueError("no")

    async def main():
        generator = work()
        await anext(generator)
        with pytest.raises(ValueError, match="no") as caught:
            await generator.athrow(error)
        assert caught.value is error

    asyncio.run(main())
    assert seen == [error]
    assert told(metrics)[2:] == (0, {"ValueError": 1})


def test_a_generator_may_return_at_a_thrown_exception(metrics):
    """It succeeds, and its value is returned."""

    @metrics.measure("work")
    def work():
        try:
            yield
        except ValueError:
            return "enough"

    generator = work()
    next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.throw(ValueError)
    assert stop.value.value == "enough"
    assert told(metrics)[2:] == (1, {})


def test_an_exception_of_a_generator_propagates(metrics, clock):
    """The consumer gets the items before it, then the same object."""
    error = EOFError()

    @metrics.measure("work")
    def work():
        yield 1
        clock.advance(1)
        raise error

    generator = work()
    assert next(generator) == 1
    with pytest.raises(EOFError) as caught:
        next(generator)
    assert caught.value is error
    assert told(metrics) == (1, 1000.0, 0, {"EOFError": 1})


def test_an_exception_of_an_async_generator_propagates(metrics):
    """The consumer gets the same object."""
    error = EOFError()

    @metrics.measure("work")
    async def work():
        yield 1
        raise error

    async def main():
        generator = work()
        assert await anext(generator) == 1
        with pytest.raises(EOFError) as caught:
            await anext(generator)
        assert caught.value is error

    asyncio.run(main())
    assert told(metrics)[2:] == (0, {"EOFError": 1})


def test_an_error_at_the_clean_up_is_a_failure(metrics):
    """If the `finally` of a generator raises in `close()`, the caller of `close()` gets the error."""

    @metrics.measure("work")
    def work():
        try:
            yield
        finally:
            raise EOFError

    @metrics.measure("work")
    async def work_async():
        try:
            yield
        finally:
            raise LookupError

    async def main():
        generator = work_async()
        await anext(generator)
        with pytest.raises(LookupError):
            await generator.aclose()

    generator = work()
    next(generator)
    with pytest.raises(EOFError):
        generator.close()
    asyncio.run(main())
    assert told(metrics)[2:] == (0, {"EOFError": 1, "LookupError": 1})


def test_a_generator_that_will_not_close_is_measured_until_it_ends(metrics):
    """Yielding while it is closed is Python's `RuntimeError`, measured or not, and the generator goes on."""

    @metrics.measure("work")
    def work():
        while True:
            try:
                yield
            except GeneratorExit:
                yield
                return

    generator = work()
    next(generator)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()
    assert recorded(metrics) == []
    with pytest.raises(StopIteration):
        next(generator)
    assert told(metrics)[2:] == (1, {})


def test_a_generator_exit_that_is_thrown_reaches_the_generator(metrics):
    """A generator may handle it, as a context manager does whose block is left by `GeneratorExit`."""

    @metrics.measure("work")
    def work():
        try:
            yield 1
        except GeneratorExit:
            yield 2

    @metrics.measure("work.async")
    async def work_async():
        try:
            yield 1
        except GeneratorExit:
            yield 2

    @metrics.measure("session")
    @contextmanager
    def session():
        with suppress(GeneratorExit):
            yield

    async def main():
        generator = work_async()
        assert await anext(generator) == 1
        assert await generator.athrow(GeneratorExit()) == 2
        await generator.aclose()

    generator = work()
    assert next(generator) == 1
    assert generator.throw(GeneratorExit()) == 2
    generator.close()
    asyncio.run(main())
    with session():
        raise GeneratorExit
    for operation in ("work", "work.async", "session"):
        assert told(metrics, operation)[2:] == (1, {})


def test_a_generator_that_was_never_started_records_nothing(metrics):
    """Its body never ran."""

    @metrics.measure("work")
    def work():
        yield

    @metrics.measure("work")
    async def work_async():
        yield

    work()
    work().close()
    asyncio.run(work_async().aclose())
    with pytest.raises(ValueError, match="no"):
        work().throw(ValueError("no"))
    gc.collect()
    assert recorded(metrics) == []


def test_generators_run_side_by_side(metrics, clock):
    """Two interleaved generators of one function have separate times."""

    @metrics.measure("work")
    def work(seconds):
        for _ in range(2):
            clock.advance(seconds)
            yield seconds

    assert list(zip(work(1), work(10), strict=True)) == [(1, 10), (1, 10)]
    assert told(metrics) == (2, 22_000.0, 2, {})
    assert metrics.timer.get_timing_stats("work")["min"] == 2000.0


def test_bad_arguments_of_a_generator_raise_at_the_call(metrics):
    """They are Python's `TypeError`, and counted as a failure."""

    @metrics.measure("work")
    def work(a):
        yield a

    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        next(work())
    assert told(metrics).failures == {"TypeError": 1}


# -- foreign parts -----------------------------------------------------------------------------------------


class ForeignTimer:
    """A timer that remembers its calls."""

    def __init__(self) -> None:
        self.calls = []

    def start_timer(self, operation_name, metadata=None):
        """Write it down."""
        self.calls.append(("start", operation_name, metadata))
        return f"id {len(self.calls)}"

    def stop_timer(self, timer_id, success=True):
        """Write it down."""
        self.calls.append(("stop", timer_id, success))
        now = datetime.now(tz=UTC)
        return TimingResult("work", 1.0, MetricUnit.MILLISECONDS, now, now, success, {})

    def time_operation(self, operation_name, operation, metadata=None):
        """Fail: `measure` does not call it."""
        raise NotImplementedError

    def get_timing_stats(self, operation_name):
        """Fail: `measure` does not call it."""
        raise NotImplementedError


class ForeignTracker:
    """A tracker that remembers its calls."""

    def __init__(self) -> None:
        self.calls = []

    def record_success(self, operation, metadata=None):
        """Write it down."""
        self.calls.append(("success", operation, metadata))

    def record_failure(self, operation, error_type, metadata=None):
        """Write it down."""
        self.calls.append(("failure", operation, error_type, metadata))

    def get_success_rate(self, operation, time_window=None):
        """Fail: `measure` does not call it."""
        raise NotImplementedError

    def get_failure_breakdown(self, operation, time_window=None):
        """Fail: `measure` does not call it."""
        raise NotImplementedError


@pytest.fixture
def foreign():
    """Return a system with a foreign timer and tracker."""
    timer, tracker = ForeignTimer(), ForeignTracker()
    assert isinstance(timer, PerformanceTimer)
    assert isinstance(tracker, SuccessFailureTracker)
    return MetricsSystem(timer=timer, tracker=tracker)


def test_a_foreign_timer_and_tracker_are_called_once_each(foreign):
    """A success starts and stops the timer and calls the tracker, with the tags as metadata."""
    with foreign.measure("work", {"a": "1"}) as measurement:
        assert foreign.timer.calls == [("start", "work", {"a": "1"})]
        assert foreign.tracker.calls == []
        measurement.tag("b", "2")
    assert foreign.timer.calls[1:] == [("stop", "id 1", True)]
    assert foreign.tracker.calls == [("success", "work", {"a": "1", "b": "2"})]


def test_a_foreign_timer_and_tracker_get_failures(foreign):
    """An exception, or an assigned error type, stops the timer as a failure and is tracked by type."""
    with pytest.raises(ValueError, match="no"), foreign.measure("work", {"a": "1"}):
        raise ValueError("no")
    with foreign.measure("work") as measurement:
        measurement.error_type = "http_500"
    assert foreign.timer.calls == [
        ("start", "work", {"a": "1"}),
        ("stop", "id 1", False),
        ("start", "work", {}),
        ("stop", "id 3", False),
    ]
    assert foreign.tracker.calls == [
        ("failure", "work", "ValueError", {"a": "1"}),
        ("failure", "work", "http_500", {}),
    ]


@pytest.mark.parametrize("use", USES)
def test_every_kind_of_code_calls_foreign_parts_once(foreign, use):
    """Blocks, functions, coroutines and generators have one start, one stop and one outcome."""
    use(foreign.measure, Naps())
    assert [call[0] for call in foreign.timer.calls] == ["start", "stop"]
    assert foreign.timer.calls[1] == ("stop", "id 1", True)
    assert foreign.tracker.calls == [("success", "work", {})]


def test_foreign_parts_are_measured_by_the_systems_clock():
    """The clock of the system is read once at the start and once at the end."""

    class Watched(ManualClock):
        readings = 0

        def monotonic_ns(self):
            self.readings += 1
            return super().monotonic_ns()

    clock = Watched()
    metrics = MetricsSystem(
        collector=NullCollector(),
        timer=ForeignTimer(),
        tracker=ForeignTracker(),
        aggregator=NullAggregator(),
        clock=clock,
    )
    before = clock.readings
    with metrics.measure("work"):
        assert clock.readings == before + 1
    assert clock.readings == before + 2


def test_a_generator_never_started_calls_no_foreign_part(foreign):
    """No foreign timer keeps running."""

    @foreign.measure("work")
    def work():
        yield

    work().close()
    assert foreign.timer.calls == foreign.tracker.calls == []


def test_foreign_parts_cannot_change_the_tags(foreign):
    """A timer that changes its metadata changes its own copy."""
    with foreign.measure("work", {"a": "1"}):
        foreign.timer.calls[0][2]["a"] = "changed"
    assert foreign.tracker.calls == [("success", "work", {"a": "1"})]


def test_bad_input_never_reaches_foreign_parts(foreign):
    """The rules for names and tags do not depend on the parts."""
    with pytest.raises(InvalidInputError):
        foreign.measure("")
    with pytest.raises(InvalidInputError):
        foreign.measure("work", {"": "1"})
    assert foreign.timer.calls == foreign.tracker.calls == []


def test_parts_on_one_store_take_tags_as_series(clock):
    """A timer and a tracker on one store keep durations and outcomes by tags."""
    store = Store(clock)
    timer, tracker = InMemoryTimer(store), InMemoryTracker(store)
    assert isinstance(meter_of(timer, tracker, clock), StoreMeter)
    metrics = MetricsSystem(timer=timer, tracker=tracker)
    with metrics.measure("work", {"a": "1"}):
        clock.advance(1)
    assert told(metrics, tags={"a": "1"}) == (1, 1000.0, 1, {})
    assert InMemoryAggregator(store).get_metrics_by_tag({"a": "1"}) != []


def test_one_part_on_a_store_and_one_elsewhere(clock):
    """An in-memory timer with a foreign tracker, and the reverse, are both called."""
    store = Store(clock)
    tracker, timer = ForeignTracker(), ForeignTimer()
    assert isinstance(meter_of(InMemoryTimer(store), tracker, clock), ProtocolMeter)
    assert isinstance(meter_of(timer, InMemoryTracker(store), clock), ProtocolMeter)
    assert isinstance(meter_of(InMemoryTimer(), InMemoryTracker(), clock), ProtocolMeter)
    with MetricsSystem(timer=InMemoryTimer(store), tracker=tracker).measure("work"):
        clock.advance(2)
    assert InMemoryTimer(store).get_timing_stats("work")["sum"] == 2000.0
    assert tracker.calls == [("success", "work", {})]
    with MetricsSystem(timer=timer, tracker=InMemoryTracker(store)).measure("work"):
        pass
    assert InMemoryTracker(store).get_success_rate("work") == 1.0
    assert [call[0] for call in timer.calls] == ["start", "stop"]


def test_null_parts_can_measure():
    """With a null timer and tracker, blocks and functions run as if not measured."""
    metrics = MetricsSystem(timer=NullTimer(), tracker=NullTracker())
    with metrics.measure("work", {"a": "1"}) as work:
        work.tag("b", "2")
    with pytest.raises(ValueError, match="no"), metrics.measure("work"):
        raise ValueError("no")
    assert metrics.measure("work")(lambda: 7)() == 7


@pytest.mark.parametrize("kind", [staticmethod, classmethod])
def test_a_decorator_in_the_wrong_order_raises_with_the_right_order(metrics, kind):
    """Above `staticmethod` or `classmethod` the decorator raises at once."""
    with pytest.raises(TypeError, match=f"put @{kind.__name__} above the measuring decorator"):
        metrics.measure("work")(kind(lambda *_: None))
    assert recorded(metrics) == []


def test_an_async_generator_that_outlives_its_loop_logs_nothing(metrics, caplog):
    """A generator that is open at the end of `asyncio.run` is closed and cleans up silently."""
    kept, closed = [], []

    @metrics.measure("work")
    async def work():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    async def main():
        kept.append(work())
        assert await anext(kept[0]) == 1

    with caplog.at_level("DEBUG"):
        asyncio.run(main())
        kept.clear()
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno > DEBUG] == []
    assert closed == [True]
    assert told(metrics)[2:] == (1, {})


@pytest.mark.parametrize("error_type", ["", 3, int])
def test_a_bad_error_type_is_counted_and_changes_nothing(metrics, error_type):
    """The block goes on, and the failure keeps its earlier type."""
    with metrics.measure("work") as work:
        work.error_type = "http_500"
        work.error_type = error_type
        assert work.error_type == "http_500"
    assert told(metrics)[2:] == (0, {"http_500": 1})
    assert metrics.collector.store.rejected == 1


@pytest.mark.parametrize(
    ("error", "error_type"),
    [
        (ValueError, "ValueError"),
        (ValueError("no"), "ValueError"),
        (asyncio.CancelledError(), "cancelled"),
        (ExceptionGroup("", [KeyError()]), "KeyError"),
    ],
)
def test_an_exception_can_be_assigned_as_an_error_type(metrics, error, error_type):
    """It is spelled as everywhere else."""
    with metrics.measure("work") as work:
        work.error_type = error
    assert told(metrics)[2:] == (0, {error_type: 1})


# -- measuring never changes the measured code -------------------------------------------------------------


class Declined(Exception):
    """An error of the measured code."""


def _clashing(clock):
    """Return a system in which the durations of `work` cannot be exposed."""
    metrics = MetricsSystem(collector=PrometheusCollector(CollectorRegistry(), store=Store(clock)))
    metrics.collector.record_timer("work.duration", 5)
    return metrics


class _RaisingTimer(ForeignTimer):
    def stop_timer(self, timer_id, success=True):
        raise OSError("the timer is down")


class _RaisingStart(ForeignTimer):
    def start_timer(self, operation_name, metadata=None):
        raise OSError("the timer is down")


class _RaisingTracker(ForeignTracker):
    def record_success(self, operation, metadata=None):
        raise OSError("the tracker is down")

    def record_failure(self, operation, error_type, metadata=None):
        raise OSError("the tracker is down")


def _timer_down(clock):
    return MetricsSystem(timer=_RaisingTimer(), tracker=ForeignTracker(), clock=clock)


def _start_down(clock):
    return MetricsSystem(timer=_RaisingStart(), tracker=ForeignTracker(), clock=clock)


def _tracker_down(clock):
    return MetricsSystem(timer=ForeignTimer(), tracker=_RaisingTracker(), clock=clock)


def _broken_clock(clock):
    """Return a system whose names are checked by code that raises."""
    metrics = MetricsSystem(clock=clock)

    def exposed_names(named, unit):
        raise LookupError(named)

    metrics.collector.store.expose(exposed_names)
    return metrics


def _in_block(measure, work):
    with measure("work"):
        return work()


def _in_async_block(measure, work):
    async def main():
        async with measure("work"):
            return work()

    return asyncio.run(main())


def _in_function(measure, work):
    return measure("work")(work)()


def _in_coroutine(measure, work):
    @measure("work")
    async def run():
        return work()

    return asyncio.run(run())


def _in_generator(measure, work):
    @measure("work")
    def run():
        yield work()

    (result,) = run()
    return result


def _in_async_generator(measure, work):
    @measure("work")
    async def run():
        yield work()

    async def main():
        return [item async for item in run()]

    (result,) = asyncio.run(main())
    return result


def _in_future(measure, work):
    with ThreadPoolExecutor(1) as pool:
        return measure("work")(pool.submit)(work).result()


WAYS = [
    _in_block,
    _in_async_block,
    _in_function,
    _in_coroutine,
    _in_generator,
    _in_async_generator,
    _in_future,
]


@pytest.mark.parametrize("system", [_clashing, _timer_down, _start_down, _tracker_down, _broken_clock])
@pytest.mark.parametrize("way", WAYS)
def test_a_fault_of_measuring_leaves_the_measured_code_alone(clock, caplog, system, way):
    """The result or the own error of the code passes through; each fault is counted, and logged."""
    metrics = system(clock)

    def decline():
        raise Declined

    assert way(metrics.measure, lambda: "receipt") == "receipt"
    before = metrics.collector.store.rejected
    assert before > 0
    with pytest.raises(Declined) as caught:
        way(metrics.measure, decline)
    assert caught.value.__context__ is None
    assert metrics.collector.store.rejected > before
    metrics.aggregator.get_metrics_by_tag({})
    assert any(record.levelname in ("WARNING", "ERROR") for record in caplog.records)


def test_the_half_of_an_operation_that_can_be_recorded_is_recorded(clock):
    """If the durations clash with another metric's name, the outcomes are tracked all the same."""
    metrics = _clashing(clock)
    for work in (lambda: 1, lambda: 1 / 0):
        with suppress(ZeroDivisionError):
            _in_function(metrics.measure, work)
    assert metrics.tracker.get_failure_breakdown("work") == {"ZeroDivisionError": 1}
    assert metrics.tracker.get_success_rate("work") == 0.5


def test_one_foreign_part_that_is_down_does_not_stop_the_other(clock):
    """The tracker gets the outcome, although the timer raised, and the reverse."""
    for system in (_timer_down, _start_down):
        metrics = system(clock)
        assert _in_function(metrics.measure, lambda: 1) == 1
        assert metrics.tracker.calls == [("success", "work", {})]
    metrics = _tracker_down(clock)
    assert _in_function(metrics.measure, lambda: 1) == 1
    assert [call[0] for call in metrics.timer.calls] == ["start", "stop"]


def test_a_fault_without_any_store_is_logged(clock, caplog):
    """A system of foreign parts has no counter of rejected records."""
    metrics = MetricsSystem(
        collector=NullCollector(),
        timer=ForeignTimer(),
        tracker=_RaisingTracker(),
        aggregator=NullAggregator(),
        clock=clock,
    )
    assert _in_function(metrics.measure, lambda: 1) == 1
    assert "the tracker is down" in caplog.text


def test_an_interrupt_while_a_measurement_is_recorded_propagates(clock):
    """Only faults are counted: Ctrl-C in the middle of a record still ends the program."""

    class Interrupted(ForeignTracker):
        def record_success(self, operation, metadata=None):
            raise KeyboardInterrupt

    metrics = MetricsSystem(timer=ForeignTimer(), tracker=Interrupted(), clock=clock)
    measurement = metrics.measure("work")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), measurement:
            pass


# -- which endings are failures ----------------------------------------------------------------------------


class NotFound(LookupError):
    """An answer, not a fault."""


def _ending(metrics, error, **rule):
    """Measure code that ends with an exception, and return its successes and failures."""
    before = told(metrics) if recorded(metrics) else Told(0, 0, 0, {})
    with suppress(BaseException), metrics.measure("work", **rule):
        raise error
    after = told(metrics)
    assert after.timed == before.timed + 1
    failures = {
        error_type: count - before.failures.get(error_type, 0)
        for error_type, count in after.failures.items()
        if count != before.failures.get(error_type, 0)
    }
    return after.successes - before.successes, failures


CANCELLED = asyncio.CancelledError()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (SystemExit(), (1, {})),
        (SystemExit(0), (1, {})),
        (SystemExit(2), (0, {"SystemExit": 1})),
        (SystemExit("no configuration"), (0, {"SystemExit": 1})),
        (SystemExit(0.0), (0, {"SystemExit": 1})),
        (GeneratorExit(), (1, {})),
        (CANCELLED, (0, {})),
        (KeyboardInterrupt(), (0, {"KeyboardInterrupt": 1})),
        (NotFound(), (0, {"NotFound": 1})),
        (BaseExceptionGroup("", [CANCELLED, CANCELLED]), (0, {})),
        (BaseExceptionGroup("", [CANCELLED, SystemExit(0)]), (0, {})),
        (BaseExceptionGroup("", [GeneratorExit(), SystemExit(0)]), (1, {})),
        (BaseExceptionGroup("", [CANCELLED, NotFound()]), (0, {"NotFound": 1})),
    ],
    ids=repr,
)
def test_expected_endings_are_not_failures(metrics, error, outcome):
    """An exit with success and a closed generator are successes, and a cancellation is not counted."""
    with metrics.measure("work"):  # so that the operation is listed
        pass
    assert _ending(metrics, error) == outcome


@pytest.mark.parametrize(
    ("error", "rule", "outcome"),
    [
        (NotFound(), {"ignore": (NotFound,)}, (1, {})),
        (NotFound(), {"ignore": NotFound}, (1, {})),
        (NotFound(), {"ignore": [LookupError, OSError]}, (1, {})),
        (KeyError(), {"ignore": (NotFound,)}, (0, {"KeyError": 1})),
        (NotFound(), {"ignore": (LookupError,), "failures": (NotFound,)}, (0, {"NotFound": 1})),
        (KeyError(), {"ignore": (LookupError,), "failures": (NotFound,)}, (1, {})),
        (CANCELLED, {"failures": (asyncio.CancelledError,)}, (0, {"cancelled": 1})),
        (CANCELLED, {"ignore": (asyncio.CancelledError,)}, (1, {})),
        (SystemExit(0), {"failures": (SystemExit,)}, (0, {"SystemExit": 1})),
        (ExceptionGroup("", [NotFound(), OSError()]), {"ignore": (NotFound,)}, (0, {"OSError": 1})),
        (ExceptionGroup("", [NotFound(), NotFound()]), {"ignore": (NotFound,)}, (1, {})),
    ],
    ids=repr,
)
def test_the_application_decides_what_is_a_failure(clock, error, rule, outcome):
    """`ignore` and `failures` of one measurement and of the system have the same effect."""
    one, all_of_them = MetricsSystem(clock=clock), MetricsSystem(clock=clock, **rule)
    for metrics in (one, all_of_them):
        with metrics.measure("work"):
            pass
    assert _ending(one, error, **rule) == outcome
    assert _ending(all_of_them, error) == outcome


def test_a_rule_of_a_measurement_comes_before_that_of_the_system(clock):
    """What the measurement does not mention is decided by the system, then by the defaults."""
    metrics = MetricsSystem(clock=clock, ignore=(NotFound,), failures=(asyncio.CancelledError,))
    with metrics.measure("work"):
        pass
    assert _ending(metrics, NotFound(), failures=(LookupError,)) == (0, {"NotFound": 1})
    assert _ending(metrics, CANCELLED, ignore=(OSError,)) == (0, {"cancelled": 1})
    assert _ending(metrics, NotFound(), ignore=(OSError,)) == (1, {})
    assert _ending(metrics, SystemExit(0), ignore=(OSError,)) == (1, {})


def test_a_decorated_function_keeps_its_rule(metrics):
    """Each call of the function, and each item of a generator, ends by it."""

    @metrics.measure("work", ignore=(NotFound,))
    def find():
        raise NotFound

    @metrics.measure("work", ignore=(NotFound,))
    def find_all():
        yield find()

    for _ in range(2):
        with pytest.raises(NotFound):
            find()
    with pytest.raises(NotFound):
        list(find_all())
    assert told(metrics)[2:] == (4, {})


def test_an_ignored_exception_keeps_an_assigned_error_type(metrics):
    """The application has said that the operation failed."""
    with suppress(NotFound), metrics.measure("work", ignore=(NotFound,)) as work:
        work.error_type = "stale_cache"
        raise NotFound
    assert told(metrics)[2:] == (0, {"stale_cache": 1})


def test_a_cancellation_stops_a_foreign_timer_without_an_outcome(foreign):
    """The timer does not keep running, and the tracker is not called."""
    with pytest.raises(asyncio.CancelledError), foreign.measure("work"):
        raise asyncio.CancelledError
    assert foreign.timer.calls[1] == ("stop", "id 1", True)
    assert foreign.tracker.calls == []


def test_a_cancellation_of_trio_is_not_counted(metrics):
    """Its class has no public constructor, so a real one is raised."""
    trio = pytest.importorskip("trio")

    async def main():
        with trio.move_on_after(0):
            async with metrics.measure("work"):
                await trio.sleep_forever()

    trio.run(main)
    assert metrics.timer.get_timing_stats("work")["failures"] == 0
    assert metrics.tracker.get_failure_breakdown("work") == {}


@pytest.mark.parametrize("key", ["ignore", "failures"])
@pytest.mark.parametrize("wrong", ["LookupError", 7, int, [LookupError, "KeyError"], LookupError()])
def test_a_rule_takes_classes_of_exceptions(metrics, key, wrong):
    """Anything else is an error that quotes it and shows a valid value."""
    for build in (partial(metrics.measure, "work"), MetricsSystem):
        with pytest.raises(InvalidInputError, match=rf"pass classes, such as {key}=\(LookupError,\)"):
            build(**{key: wrong})


# -- results that end later, and things that are not functions ---------------------------------------------


def plain(function):
    """Wrap a function as a decorator of another library does: the wrapper is a plain function."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def test_a_generator_behind_a_plain_wrapper_is_measured_to_its_end(metrics, clock):
    """As without the wrapper, the time of its consumer is excluded, and sent values pass through."""

    @metrics.measure("work")
    @plain
    def work():
        clock.advance(1)
        got = yield 1
        clock.advance(2)
        yield got

    generator = work()
    clock.advance(100)
    assert next(generator) == 1
    clock.advance(100)
    assert generator.send("sent") == "sent"
    assert list(generator) == []
    assert told(metrics) == (1, 3000.0, 1, {})


def test_an_async_generator_behind_a_plain_wrapper_is_measured_to_its_end(metrics, clock):
    """The time of its consumer is excluded, and an exception is its outcome."""

    @metrics.measure("work")
    @plain
    async def work():
        clock.advance(1)
        yield 1
        raise NotFound

    async def main():
        async for _ in work():
            clock.advance(100)

    with pytest.raises(NotFound):
        asyncio.run(main())
    assert told(metrics) == (1, 1000.0, 0, {"NotFound": 1})


@pytest.mark.parametrize("wrap", [lambda function: function, plain])
def test_a_context_manager_below_the_decorator_is_measured(metrics, clock, wrap):
    """Entering and leaving count, the body does not, in each use: as a block, and as a decorator."""

    @metrics.measure("work")
    @wrap
    @contextmanager
    def opened():
        clock.advance(1)
        yield "it"
        clock.advance(2)

    with opened() as it:
        clock.advance(100)
    assert it == "it"
    assert told(metrics) == (1, 3000.0, 1, {})

    @opened()
    def decorated():
        clock.advance(100)

    decorated()
    decorated()
    assert told(metrics) == (3, 9000.0, 3, {})


def test_an_async_context_manager_below_the_decorator_is_measured(metrics, clock):
    """An exception of the body is that of the operation, unless the manager handles it."""

    @metrics.measure("work")
    @asynccontextmanager
    async def opened():
        clock.advance(1)
        yield
        clock.advance(2)

    async def main():
        async with opened():
            clock.advance(100)
        async with opened():
            raise NotFound

    with pytest.raises(NotFound):
        asyncio.run(main())
    assert told(metrics) == (2, 4000.0, 1, {"NotFound": 1})


def test_a_future_is_measured_until_it_is_done(metrics, clock):
    """The caller gets the future itself; its result, its exception or its cancellation is the outcome."""
    futures = []

    @metrics.measure("work")
    def work():
        futures.append(asyncio.get_running_loop().create_future())
        return futures[-1]

    async def main():
        done, failed, cancelled = work(), work(), work()
        assert [done, failed, cancelled] == futures
        clock.advance(2)
        done.set_result("done")
        failed.set_exception(NotFound())
        cancelled.cancel()
        results = await asyncio.gather(done, failed, cancelled, return_exceptions=True)
        assert [type(result) for result in results] == [str, NotFound, asyncio.CancelledError]

    asyncio.run(main())
    assert told(metrics) == (3, 6000.0, 1, {"NotFound": 1})


def test_measuring_a_future_hides_no_error(metrics, caplog):
    """Asyncio still reports an exception that is never retrieved."""

    @metrics.measure("work")
    def work():
        return asyncio.ensure_future(fail())

    async def fail():
        raise NotFound

    async def main():
        work()
        await asyncio.sleep(0.01)

    asyncio.run(main())
    gc.collect()
    assert "Task exception was never retrieved" in caplog.text
    assert told(metrics).failures == {"NotFound": 1}


def test_a_future_that_is_done_needs_no_event_loop(metrics):
    """Its loop may be closed already, which would refuse a callback."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_result(1)
    loop.close()
    assert metrics.measure("work")(lambda: future)() is future
    assert told(metrics)[2:] == (1, {})


def test_a_future_of_a_pool_is_measured_until_it_is_done(metrics):
    """`submit` is measured to the end of the work, also if it has ended already."""
    with ThreadPoolExecutor(1) as pool:
        submit = metrics.measure("work")(pool.submit)
        assert submit(pow, 2, 3).result() == 8
        assert isinstance(submit(int, "no").exception(), ValueError)

        @metrics.measure("work")
        def finished():
            future = pool.submit(pow, 2, 3)
            wait([future])
            return future

        assert finished().result() == 8
    assert told(metrics)[2:] == (2, {"ValueError": 1})


class Request:
    """An awaitable object, as HTTP clients return them."""

    def __init__(self, clock) -> None:
        self.clock = clock
        self.timeout = 1

    def __await__(self):
        yield from asyncio.sleep(0).__await__()
        self.clock.advance(self.timeout)
        return "response"


def test_an_awaitable_object_is_measured_until_it_has_been_awaited(metrics, clock):
    """It keeps its attributes and its type, and later awaits are not measured."""
    request = Request(clock)

    @metrics.measure("work")
    def work():
        return request

    async def main():
        returned = work()
        returned.timeout = 5
        assert (request.timeout, returned.timeout) == (5, 5)
        assert isinstance(returned, Request)
        assert returned == request
        assert hash(returned) == hash(request)
        assert repr(returned) == repr(request)
        assert recorded(metrics) == []
        assert await returned == "response"
        assert await returned == "response"

    asyncio.run(main())
    assert told(metrics) == (1, 5000.0, 1, {})


def test_an_object_that_need_not_be_awaited_is_returned_as_it_is(metrics):
    """A query that can also be iterated, or a session, is measured until the function returns it."""

    class Query:
        def __await__(self):
            yield

        def __aiter__(self):
            return self

    query = Query()
    assert metrics.measure("work")(lambda: query)() is query
    assert told(metrics)[2:] == (1, {})


def test_an_iterable_coroutine_stays_awaitable(metrics, clock):
    """`types.coroutine` below the decorator, also behind a wrapper, is measured with its waits."""

    @types.coroutine
    def old():
        clock.advance(1)
        yield from asyncio.sleep(0).__await__()
        clock.advance(2)
        return "done"

    async def main():
        return [await metrics.measure("work")(old)(), await metrics.measure("work")(plain(old))()]

    assert inspect.isgeneratorfunction(metrics.measure("work")(old))
    assert asyncio.run(main()) == ["done", "done"]
    assert told(metrics) == (2, 6000.0, 2, {})


@pytest.mark.parametrize(
    ("thing", "remedy"),
    [
        (property(lambda self: 1), "put @property above the measuring decorator"),
        (functools.cached_property(lambda self: 1), "put @cached_property above the measuring decorator"),
        (functools.partialmethod(print), "put @partialmethod above the measuring decorator"),
        (Request, "cannot decorate the class Request: decorate its methods, or use a block: with measure"),
        (42, "cannot decorate 42, which is not callable: pass a function and not its result"),
        (None, "cannot decorate None, which is not callable"),
    ],
    ids=["property", "cached_property", "partialmethod", "class", "number", "none"],
)
def test_a_thing_that_is_not_a_function_is_refused_with_a_remedy(metrics, thing, remedy):
    """The error is raised where the decorator is written."""
    with pytest.raises(TypeError, match=re.escape(remedy)):
        metrics.measure("work")(thing)
    assert recorded(metrics) == []


def test_a_bare_decorator_is_an_error_with_a_remedy(metrics):
    """`@metrics.measure` without a name says how to write it."""
    with pytest.raises(InvalidInputError, match=r"pass the operation's name first, such as @"):

        @metrics.measure
        def work():
            pass


def test_of_many_threads_one_enters_a_shared_measurement(metrics):
    """The others get the error with the remedy, and none of the numbers mix."""
    measurement = metrics.measure("work")
    together, inside = threading.Barrier(8), threading.Barrier(8)

    def use(_):
        together.wait()
        try:
            with measurement:
                inside.wait()
        except RuntimeError as error:
            inside.wait()
            return str(error)
        return None

    for times in range(1, 20):
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(use, range(8)))
        assert results.count(None) == 1
        assert all("call measure() for each use" in result for result in results if result)
        assert told(metrics).timed == times
