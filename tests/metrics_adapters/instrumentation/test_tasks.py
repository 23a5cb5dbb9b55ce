"""Every task is counted once, with its outcome, on asyncio, anyio and trio."""

from __future__ import annotations

import asyncio
import functools
import gc
import sys

import anyio
import pytest
import trio
import trio.testing

from metrics_adapters.asgi import TaskMetrics
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError
from metrics_framework.recording import Store
from metrics_framework.values import MetricType


@pytest.fixture
def metrics(clock) -> MetricsSystem:
    """Return a system whose clock the test moves."""
    return MetricsSystem(clock=clock)


@pytest.fixture
def tasks(metrics) -> TaskMetrics:
    """Return the TaskMetrics of the system."""
    return TaskMetrics(metrics)


async def work(clock, seconds=2, result=7):
    """Let time pass, and return a value."""
    await anyio.sleep(0)
    clock.advance(seconds)
    return result


async def fail():
    """Raise."""
    await anyio.sleep(0)
    raise ZeroDivisionError


def counts(metrics) -> dict[str, int]:
    """Return the number of ended tasks by name."""
    return {
        value.tags["task.name"]: value.metadata["count"]
        for value in metrics.aggregator.get_metrics_by_tag({})
        if value.name == "async.task" and value.metric_type is MetricType.TIMER
    }


def failures(metrics) -> dict[str, int]:
    """Return the failures of tasks."""
    return metrics.tracker.get_failure_breakdown("async.task")


def active(metrics) -> float:
    """Return the number of tasks that are not done."""
    return metrics.aggregator.get_metric_summary("async.active_tasks")["last"]


def test_a_task_is_timed_and_returns_its_result(metrics, tasks, clock):
    """It is a task of `asyncio.create_task`, timed from its start to its end."""

    async def main():
        task = tasks.create_task(work(clock), name="refresh")
        assert active(metrics) == 1
        assert task.get_name() == "refresh"
        return await task

    assert asyncio.run(main()) == 7
    assert counts(metrics) == {"refresh": 1}
    assert metrics.timer.get_timing_stats("async.task")["max"] == 2000
    assert metrics.tracker.get_success_rate("async.task") == 1
    assert active(metrics) == 0


def test_the_name_is_that_of_the_function(metrics, tasks, clock):
    """The number of functions is bounded. Debuggers show that name, too."""

    async def main():
        task = tasks.create_task(work(clock))
        assert "coro=<work()" in repr(task)
        await task

    asyncio.run(main())
    assert counts(metrics) == {"work": 1}


def test_an_exception_is_the_error_type_of_a_task(metrics, tasks):
    """It propagates unchanged, and asyncio still reports one that is never retrieved."""
    complaints = []

    async def main():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        with pytest.raises(ZeroDivisionError):
            await tasks.create_task(fail())
        tasks.create_task(fail())
        await asyncio.sleep(0.01)
        gc.collect()

    asyncio.run(main())
    assert failures(metrics) == {"ZeroDivisionError": 2}
    assert [context["message"] for context in complaints] == ["Task exception was never retrieved"]


@pytest.mark.parametrize("steps", [0, 1], ids=["before its first step", "at work"])
def test_a_cancelled_task_is_neither_a_success_nor_a_failure(metrics, tasks, steps):
    """It is timed once whenever it is cancelled, and no coroutine is left un-awaited."""

    async def main():
        task = tasks.create_task(asyncio.sleep(60), name="sleeper")
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    gc.collect()
    assert failures(metrics) == {}
    assert metrics.get_system_health()["operations"] == 0
    assert counts(metrics) == {"sleeper": 1}
    assert active(metrics) == 0


def test_a_group_measures_its_tasks(metrics, tasks, clock):
    """A task group works as usual: if one task fails, the others are cancelled, and all are timed."""

    async def main():
        async with asyncio.TaskGroup() as group:
            measured = tasks.group(group)
            measured.create_task(work(clock))
            measured.create_task(fail())
            measured.create_task(asyncio.sleep(60), name="sleeper")

    with pytest.raises(ExceptionGroup):
        asyncio.run(main())
    assert counts(metrics) == {"work": 1, "fail": 1, "sleeper": 1}
    assert failures(metrics) == {"ZeroDivisionError": 1}
    assert active(metrics) == 0


def test_a_finished_group_rejects_tasks(metrics, tasks, clock):
    """The error is that of the group, no coroutine is left un-awaited, and no task is counted."""

    async def main():
        async with asyncio.TaskGroup() as group:
            pass
        with pytest.raises(RuntimeError, match="finished"):
            tasks.group(group).create_task(work(clock))
        gc.collect()

    asyncio.run(main())
    assert counts(metrics) == {}
    assert metrics.aggregator.get_metrics_by_tag({}) == []  # and none was ever in flight


def test_a_factory_measures_every_task_of_a_loop(metrics, tasks, clock):
    """Also tasks of other code, with their names and contexts."""

    async def main():
        asyncio.get_running_loop().set_task_factory(tasks.task_factory())
        task = asyncio.create_task(work(clock), name="theirs")
        assert task.get_name() == "theirs"
        results = await asyncio.gather(task, work(clock, result=8))
        asyncio.get_running_loop().set_task_factory(None)
        return results

    assert asyncio.run(main()) == [7, 8]
    assert counts(metrics) == {"work": 2}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_are_measured(metrics, tasks):
    """A task that ends before it is returned is counted like any other."""

    async def at_once():
        return 7

    async def main():
        asyncio.get_running_loop().set_task_factory(tasks.task_factory(asyncio.eager_task_factory))
        task = asyncio.create_task(at_once())
        assert task.done()
        asyncio.get_running_loop().set_task_factory(None)
        return await task

    assert asyncio.run(main()) == 7
    assert list(counts(metrics).values()) == [1]
    assert active(metrics) == 0


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_functions_for_start_soon_are_measured(metrics, tasks, clock, backend):
    """Task groups of anyio take a measured function, on both event loops; cancelled ones are timed."""

    async def main():
        async with anyio.create_task_group() as group:
            group.start_soon(tasks.measured(work), clock)
            group.start_soon(tasks.measured(functools.partial(anyio.sleep, 60), "sleeper"))
            await anyio.wait_all_tasks_blocked()
            assert active(metrics) == 1
            group.cancel_scope.cancel()

    anyio.run(main, backend=backend)
    assert counts(metrics) == {"work": 1, "sleeper": 1}
    assert failures(metrics) == {}
    assert active(metrics) == 0


def test_nurseries_of_trio_take_measured_functions(metrics, tasks):
    """The error type is the exception's name; the sibling is cancelled."""

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tasks.measured(trio.sleep_forever))
            nursery.start_soon(tasks.measured(fail))

    with pytest.raises(ExceptionGroup):
        trio.run(main)
    assert counts(metrics) == {"sleep_forever": 1, "fail": 1}
    assert failures(metrics) == {"ZeroDivisionError": 1}


def test_a_measured_function_keeps_its_metadata():
    """Name and documentation are those of the function, or of the function of a partial."""
    tasks = TaskMetrics(MetricsSystem())
    measured = tasks.measured(work)
    assert (measured.__name__, measured.__doc__) == ("work", work.__doc__)
    assert tasks.measured(functools.partial(work, None)) is not None


def test_an_invalid_name_is_an_error(tasks, clock):
    """It is raised before anything runs, and no coroutine is left un-awaited."""

    async def main():
        with pytest.raises(InvalidInputError, match="task name ''"):
            tasks.create_task(work(clock), name="")
        gc.collect()

    asyncio.run(main())
    with pytest.raises(InvalidInputError, match="task name 7"):
        tasks.measured(work, 7)


def test_a_collector_records_a_timer(clock):
    """Without a timer and a tracker, the tags of the durations contain the error type."""
    collector = InMemoryCollector(Store(clock))

    async def main():
        await TaskMetrics(collector, name="jobs").create_task(work(clock))

    asyncio.run(main())
    (timed,) = InMemoryAggregator(collector.store).get_metrics_by_tag({"error.type": ""})
    assert (timed.name, timed.metadata["count"]) == ("jobs.duration", 1)


@pytest.mark.parametrize(
    ("rule", "work", "rate", "failed"),
    [
        ({"ignore": ZeroDivisionError}, fail, 1.0, {}),
        ({"ignore": ArithmeticError, "failures": ZeroDivisionError}, fail, 0.0, {"ZeroDivisionError": 1}),
        ({"failures": asyncio.CancelledError}, None, 0.0, {"cancelled": 1}),
        ({"ignore": asyncio.CancelledError}, None, 1.0, {}),
    ],
)
@pytest.mark.parametrize("is_started", [True, False])
def test_the_rule_of_the_system_decides_which_exceptions_are_failures(
    clock, rule, work, rate, failed, is_started
):
    """`ignore` and `failures` hold for tasks as for `measure`, also for a task that never starts."""
    metrics = MetricsSystem(clock=clock, **rule)

    async def main():
        task = TaskMetrics(metrics).create_task(asyncio.sleep(9) if work is None else work())
        if work is None:
            if is_started:
                await asyncio.sleep(0)
            task.cancel()
        with pytest.raises((ZeroDivisionError, asyncio.CancelledError)):
            await task
        await asyncio.sleep(0)

    asyncio.run(main())
    assert metrics.timer.get_timing_stats("async.task")["count"] == 1
    assert metrics.tracker.get_success_rate("async.task") == rate
    assert failures(metrics) == failed
    assert active(metrics) == 0
