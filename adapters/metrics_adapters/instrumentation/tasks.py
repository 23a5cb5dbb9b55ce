"""Tasks of asyncio, anyio and trio: how long each takes, how it ends, and how many are at it."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from typing import Any, ParamSpec, Protocol, TypeVar

from metrics_adapters.instrumentation.error_types import CANCELLED, error_type_of
from metrics_adapters.instrumentation.meters import InFlight, Metrics, SafeMeter
from metrics_framework.validation import check_name

P = ParamSpec("P")
T = TypeVar("T")

TASK = "async.task"
ACTIVE_TASKS = "async.active_tasks"
NAME = "task.name"


class TaskMaker(Protocol):
    """Makes a task of a coroutine: `asyncio.eager_task_factory`, or `asyncio.Task` itself."""

    def __call__(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """Make the task."""
        ...


class TaskMetrics:
    """Measures tasks: each is an operation ``async.task`` with the tag ``task.name``.

    What raises fails by its exception's name; a task that is cancelled fails as ``cancelled``, also one that
    never came to its first step. The gauge ``async.active_tasks`` counts those that are not done.

    A name is that of the function by default, never the task's own, which would be another one each time.

    Args:
        metrics: A system, or a collector, which gets the timer ``async.task.duration``.
        name: What a task is called as an operation.

    Raises:
        InvalidInputError: If an argument breaks its rule.

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

    def __init__(self, metrics: Metrics, *, name: str = TASK) -> None:
        self._name = check_name(name)
        self._meter = SafeMeter(metrics)
        self._active = InFlight(metrics, ACTIVE_TASKS, "Tasks that are not done.")

    def create_task(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """Start a task of asyncio that is measured, as `asyncio.create_task` does."""
        return self._start(
            functools.partial(asyncio.create_task, name=name, context=context), coroutine, name
        )

    def group(self, group: asyncio.TaskGroup) -> MeasuredGroup:
        """Return a view of a task group of asyncio whose tasks are measured."""
        return MeasuredGroup(self, group)

    def measured(
        self, function: Callable[P, Awaitable[T]], name: str | None = None
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return an async function, measured at each call: for ``start_soon`` of anyio and of trio.

        Example:
            >>> from metrics_framework import MetricsSystem
            >>> tasks = TaskMetrics(MetricsSystem())
            >>> async def listen(port: int) -> None: ...
            >>> async def serve(group) -> None:
            ...     group.start_soon(tasks.measured(listen), 8000)
        """
        tag = check_name(_name_of(function) if name is None else name, "task name")

        async def run(*args: P.args, **kwargs: P.kwargs) -> T:
            return await _run(function(*args, **kwargs), _Task(self, tag))

        functools.update_wrapper(run, function, updated=())
        return run

    def task_factory(self, make: TaskMaker | None = None) -> Callable[..., asyncio.Task[Any]]:
        """Return a factory for ``loop.set_task_factory`` that measures every task of the loop.

        Args:
            make: Another factory that makes the tasks, such as `asyncio.eager_task_factory`.
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
            measurement = _Task(self, _name_of(coroutine) if name is None else check_name(name, "task name"))
        except BaseException:
            coroutine.close()  # nobody will await it
            raise
        wrapped = _run(coroutine, measurement)
        for attribute in ("__name__", "__qualname__"):  # what a debugger shows
            setattr(wrapped, attribute, getattr(coroutine, attribute, type(coroutine).__name__))
        try:
            task = start(wrapped)
        except BaseException:  # a group that takes no more tasks
            wrapped.close()
            coroutine.close()
            raise
        measurement.begin()
        task.add_done_callback(functools.partial(_never_begun, coroutine, measurement))
        return task


class MeasuredGroup:
    """A task group of asyncio, whose tasks are measured."""

    def __init__(self, metrics: TaskMetrics, group: asyncio.TaskGroup) -> None:
        self._metrics = metrics
        self._group = group

    def create_task(
        self, coroutine: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        """Start a task in the group, as `asyncio.TaskGroup.create_task` does."""
        start = functools.partial(self._group.create_task, name=name, context=context)
        return self._metrics._start(start, coroutine, name)


class _Task:
    """What one task takes."""

    def __init__(self, metrics: TaskMetrics, name: str) -> None:
        self._metrics = metrics
        self._tags = {NAME: name}
        self._begun: object = None
        self._since_ns: int | None = None
        self._has_ended = False

    def begin(self) -> None:
        """Begin, once: an eager task takes its first step before it is there."""
        if self._since_ns is None:
            metrics = self._metrics
            metrics._active.up(self._tags)
            self._begun = metrics._meter.begin(metrics._name, self._tags)
            self._since_ns = metrics._meter.now_ns()

    def end(self, error_type: str | None) -> None:
        """Record how it ended, once."""
        if self._has_ended or self._since_ns is None:
            return
        self._has_ended = True
        metrics = self._metrics
        spent_ns = metrics._meter.now_ns() - self._since_ns
        metrics._active.down(self._tags)
        metrics._meter.end(self._begun, metrics._name, self._tags, spent_ns, error_type)


async def _run(coroutine: Awaitable[T], measurement: _Task) -> T:
    measurement.begin()
    try:
        result = await coroutine
    except BaseException as error:
        measurement.end(error_type_of(error))
        raise
    measurement.end(None)
    return result


def _never_begun(coroutine: Coroutine[Any, Any, Any], measurement: _Task, task: asyncio.Task[Any]) -> None:
    """Count a task that was cancelled before its first step: nothing of its coroutine ran."""
    if task.cancelled():
        coroutine.close()
        measurement.end(CANCELLED)


def _name_of(work: object) -> str:
    """Return the name of a function or coroutine, whatever is wrapped around it."""
    while isinstance(work, functools.partial):
        work = work.func
    return getattr(work, "__qualname__", None) or type(work).__qualname__
