"""Measures tasks of asyncio, anyio and trio: their durations, error types and number."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, ParamSpec, Protocol, TypeVar

from metrics_adapters.instrumentation.meters import InFlight, SafeMeter, SystemOrCollector
from metrics_framework.error_types import CANCELLED, NOT_COUNTED
from metrics_framework.validation import check_name

P = ParamSpec("P")
T = TypeVar("T")

TASK = "async.task"
ACTIVE_TASKS = "async.active_tasks"
NAME = "task.name"


class TaskFactory(Protocol):
    """Creates a task of a coroutine, such as `asyncio.eager_task_factory`."""

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Create the task."""
        ...


class TaskMetrics:
    """Measures tasks: each is an operation ``async.task`` with the tag ``task.name``.

    The error type of a task that raises is the name of its exception. A cancelled task is neither a success
    nor a failure: only its duration is recorded, even if the task was never started. ``ignore`` and
    ``failures`` of the system change this, as for `MetricsSystem.measure`. The gauge ``async.active_tasks``
    counts the tasks that are not done.

    By default ``task.name`` is the name of the function. The name of the task object is different each time.

    Args:
        metrics: A system; or a collector, which records the timer ``async.task.duration``.
        name: The name of the operation.

    Raises:
        InvalidInputError: If an argument is invalid.

    Example:
        >>> import asyncio
        >>> from metrics_framework import MetricsSystem
        >>> async def refresh() -> int:
        ...     return 1
        >>> async def main() -> float:
        ...     metrics = MetricsSystem()
        ...     await TaskMetrics(metrics).create_task(refresh())
        ...     return metrics.tracker.get_success_rate("async.task")
        >>> asyncio.run(main())
        1.0
    """

    def __init__(self, metrics: SystemOrCollector, *, name: str = TASK) -> None:
        self._name = check_name(name)
        self._meter = SafeMeter(metrics)
        self._active = InFlight(metrics, ACTIVE_TASKS, "Tasks in progress.")

    def create_task(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """Start a measured asyncio task, as `asyncio.create_task` does."""
        return self._start(
            functools.partial(asyncio.create_task, name=name, context=context), coroutine, name
        )

    def group(self, group: asyncio.TaskGroup) -> MeasuredGroup:
        """Return a wrapper of an asyncio task group that measures its tasks."""
        return MeasuredGroup(self, group)

    def measured(
        self, function: Callable[P, Awaitable[T]], name: str | None = None
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return an async function that measures each call, for ``start_soon`` of anyio and trio.

        Example:
            >>> from metrics_framework import MetricsSystem
            >>> tasks = TaskMetrics(MetricsSystem())
            >>> async def listen(port: int) -> None: ...
            >>> async def serve(group) -> None:
            ...     group.start_soon(tasks.measured(listen), 8000)
        """
        tag = check_name(_name_of(function) if name is None else name, "task name")

        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            return await _run(function(*args, **kwargs), _TaskMeasurement(self, tag))

        functools.update_wrapper(run, function, updated=())
        return run

    def task_factory(self, make: TaskFactory | None = None) -> Callable[..., asyncio.Task[Any]]:
        """Return a factory for ``loop.set_task_factory`` that measures all tasks of the loop.

        Args:
            make: Another factory that creates the tasks, such as `asyncio.eager_task_factory`.
        """

        def factory(
            loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **kwargs: Any
        ) -> asyncio.Task[Any]:
            def start(wrapped: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
                if make is None:
                    return asyncio.Task(wrapped, loop=loop, **kwargs)
                return make(loop, wrapped, **kwargs)

            return self._start(start, coroutine, None)

        return factory

    def _start(
        self,
        start: Callable[[Coroutine[Any, Any, T]], asyncio.Task[T]],
        coroutine: Coroutine[Any, Any, T],
        name: str | None,
    ) -> asyncio.Task[T]:
        try:
            tag = _name_of(coroutine) if name is None else check_name(name, "task name")
            measurement = _TaskMeasurement(self, tag)
        except BaseException:
            coroutine.close()  # it will not be awaited
            raise
        wrapped = _run(coroutine, measurement)
        for attribute in ("__name__", "__qualname__"):  # debuggers show them
            setattr(wrapped, attribute, getattr(coroutine, attribute, type(coroutine).__name__))
        try:
            task = start(wrapped)
        except BaseException:  # such as a group that is shutting down
            wrapped.close()
            coroutine.close()
            raise
        measurement.begin()
        task.add_done_callback(functools.partial(_finish_unstarted, coroutine, measurement))
        return task


class MeasuredGroup:
    """An asyncio task group whose tasks are measured."""

    def __init__(self, metrics: TaskMetrics, group: asyncio.TaskGroup) -> None:
        self._metrics = metrics
        self._group = group

    def create_task(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """Start a task in the group, as `asyncio.TaskGroup.create_task` does."""
        start = functools.partial(self._group.create_task, name=name, context=context)
        return self._metrics._start(start, coroutine, name)


class _TaskMeasurement:
    """The measurement of one task."""

    def __init__(self, metrics: TaskMetrics, name: str) -> None:
        self._metrics = metrics
        self._tags = {NAME: name}
        self._started: object = None
        self._since_ns: int | None = None
        self._has_ended = False

    def begin(self) -> None:
        """Start, once: an eager task runs before its creation returns."""
        if self._since_ns is None:
            metrics = self._metrics
            metrics._active.increment(self._tags)
            self._started = metrics._meter.begin(metrics._name, self._tags)
            self._since_ns = metrics._meter.now_ns()

    def end(self, error: BaseException | None = None) -> None:
        """Record the end of the task, once.

        Args:
            error: Its exception, if it raised one.
        """
        if self._has_ended or self._since_ns is None:
            return
        self._has_ended = True
        meter, operation = self._metrics._meter, self._metrics._name
        spent_ns = meter.now_ns() - self._since_ns
        self._metrics._active.decrement(self._tags)
        outcome = None if error is None else meter.rule.outcome(error)
        if outcome is NOT_COUNTED:
            meter.end(self._started, operation, self._tags, spent_ns, CANCELLED, is_counted=False)
        else:
            meter.end(self._started, operation, self._tags, spent_ns, outcome)


async def _run(coroutine: Awaitable[T], measurement: _TaskMeasurement) -> T:
    measurement.begin()
    try:
        result = await coroutine
    except BaseException as error:
        measurement.end(error)
        raise
    measurement.end()
    return result


def _finish_unstarted(
    coroutine: Coroutine[Any, Any, Any], measurement: _TaskMeasurement, task: asyncio.Task[Any]
) -> None:
    """Record a task that was cancelled before its coroutine started."""
    if task.cancelled():
        coroutine.close()
        measurement.end(asyncio.CancelledError())


def _name_of(work: object) -> str:
    """Return the name of a function or coroutine, without `functools.partial`."""
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__qualname__", None) or type(work).__qualname__
