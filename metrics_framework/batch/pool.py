"""Calls a function for each item in a pool of threads or processes, and records each call as a file.

Workers measure; only the process that owns the batch records. So a file counts once, even if it is retried.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar

from metrics_framework.batch.files import PEAK_MEMORY, Batch, error_message, skip_reason
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.errors import InvalidInputError
from metrics_framework.validation import check_count

T = TypeVar("T")
R = TypeVar("R")

WORKER_DIED = "WorkerDied"
"""Error type of an item whose worker process died while no other item was running."""

_ITEMS_PER_WORKER = 4


@dataclass(frozen=True)
class FileResult(Generic[T, R]):
    """The result of one item.

    Attributes:
        item: The item.
        value: The return value; ``None`` if the call failed or was skipped.
        status: ``success``, ``error`` or ``skipped``.
        error_type: The type of the error, if it failed.
    """

    item: T
    value: R | None
    status: str
    error_type: str | None


class TaskResult(NamedTuple):
    """The measurements of one call, sent by a worker."""

    value: Any
    duration: float
    status: str = "success"
    error_type: str | None = None
    error_message: str | None = None
    memory_peak: int | None = None


@dataclass(frozen=True)
class Task:
    """The function that workers call, with its options. Pickled for worker processes."""

    function: Callable[[Any], Any]
    retries: int
    skip_on: tuple[type[Exception], ...]
    track_memory: bool

    def __call__(self, item: Any) -> TaskResult:
        """Call the function for an item, with retries."""
        for _ in range(self.retries):
            result = self._once(item)
            if result.status != "error":
                return result
        return self._once(item)

    def _once(self, item: Any) -> TaskResult:
        peak = PEAK_MEMORY.begin() if self.track_memory else None
        begin_ns = SYSTEM_CLOCK.monotonic_ns()
        value, error = None, None
        try:
            value = self.function(item)
        except Exception as raised:  # noqa: BLE001 - recorded as the result
            error = raised
        duration = (SYSTEM_CLOCK.monotonic_ns() - begin_ns) / 1e9
        memory_peak = None if peak is None else PEAK_MEMORY.end(peak)
        if error is None:
            return TaskResult(value, duration, memory_peak=memory_peak)
        if isinstance(error, self.skip_on):
            return TaskResult(None, 0.0, "skipped", None, skip_reason(error))
        return TaskResult(None, duration, "error", type(error).__name__, error_message(error), memory_peak)


def run_pool(
    batch: Batch,
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    threads: int | None,
    processes: int | None,
    retries: int,
    name: Callable[[T], str],
    details: Callable[[R], Mapping[str, int]] | None,
) -> Iterator[FileResult[T, R]]:
    """Call a function for each item and record each as a file; see `BatchMetrics.map`."""
    if (threads is None) == (processes is None):
        raise InvalidInputError(f"threads={threads!r} and processes={processes!r}: pass one of the two")
    workers = check_count("threads", threads) if processes is None else check_count("processes", processes)
    task = Task(function, retries, batch.skip_on, batch.track_memory)
    return _results(batch, Pool(task, workers, in_processes=processes is not None), items, name, details)


def _results(
    batch: Batch,
    pool: Pool,
    items: Iterable[T],
    name: Callable[[T], str],
    details: Callable[[R], Mapping[str, int]] | None,
) -> Iterator[FileResult[T, R]]:
    with pool:
        for item, result in pool.run(items):
            more = details(result.value) if details and result.status == "success" else {}
            batch.record_file(
                name(item),
                duration=result.duration,
                status=result.status,
                error_type=result.error_type,
                error_message=result.error_message,
                memory_peak=result.memory_peak,
                **more,
            )
            yield FileResult(item, result.value, result.status, result.error_type)


class Pool:
    """A pool of workers that replaces its processes if one of them dies."""

    def __init__(self, task: Task, workers: int, *, in_processes: bool) -> None:
        self._task = task
        self._workers = workers
        self._in_processes = in_processes
        self._executor: Executor | None = None
        self._running: dict[Future[TaskResult], Any] = {}
        self._ready: SimpleQueue[Future[TaskResult]] = SimpleQueue()
        self._suspects: deque[Any] = deque()
        self._runs_alone = False
        if in_processes:
            try:
                pickle.dumps(task)
            except Exception as error:  # pickling code of the application may raise anything
                raise InvalidInputError(
                    f"{task.function!r} cannot be pickled for another process: {error};"
                    " pass a function of a module, or use threads="
                ) from error

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def run(self, items: Iterable[Any]) -> Iterator[tuple[Any, TaskResult]]:
        """Yield each item with its result, in the order in which they finish."""
        remaining = iter(items)
        while True:
            is_alive = self._fill(remaining)
            if is_alive:
                if not self._running:
                    return
                future = self._ready.get()
                is_alive = not _is_broken(future)
                if is_alive:
                    yield self._running.pop(future), _result_of(future)
            if not is_alive:
                yield from self._replace_executor()

    def _fill(self, items: Iterator[Any]) -> bool:
        """Submit items up to the limit, and return whether the executor still works.

        Items that were running when a process died run again one by one, so that a second death is certainly
        due to the item itself.
        """
        if self._running and (self._suspects or self._runs_alone):
            return True
        self._runs_alone = bool(self._suspects)
        if self._suspects:
            return self._submit(self._suspects.popleft())
        while len(self._running) < _ITEMS_PER_WORKER * self._workers:
            try:
                item = next(items)
            except StopIteration:
                return True
            if not self._submit(item):
                return False
        return True

    def _submit(self, item: Any) -> bool:
        if self._executor is None:
            self._executor = self._start()
        try:
            future: Future[TaskResult] = self._executor.submit(self._task, item)
        except BrokenExecutor:
            self._suspects.append(item)
            return False
        self._running[future] = item
        future.add_done_callback(self._ready.put)
        return True

    def _replace_executor(self) -> Iterator[tuple[Any, TaskResult]]:
        """Stop the broken executor. Yield results that were ready, and an error if one item ran alone."""
        wait(self._running)
        running, self._running, self._ready = self._running, {}, SimpleQueue()
        self._stop()
        for future, item in running.items():
            if not _is_broken(future):
                yield item, _result_of(future)
            elif self._runs_alone:
                yield item, TaskResult(None, 0.0, "error", WORKER_DIED, "its worker process died")
            else:
                self._suspects.append(item)

    def _start(self) -> Executor:
        if not self._in_processes:
            return ThreadPoolExecutor(self._workers, thread_name_prefix="metrics-batch")
        # Not a fork, which is unsafe if this process has threads.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_start_worker)

    def _stop(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def _is_broken(future: Future[TaskResult]) -> bool:
    return future.cancelled() or isinstance(future.exception(), BrokenExecutor)


def _result_of(future: Future[TaskResult]) -> TaskResult:
    error = future.exception()
    if error is None:
        return future.result()
    # The value cannot be pickled, or the error is a BaseException.
    return TaskResult(None, 0.0, "error", type(error).__name__, str(error))


def _start_worker() -> None:
    """Ignore Ctrl-C, which the owner of the pool handles, and exit when the owner ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = multiprocessing.parent_process()
    if owner is not None:
        threading.Thread(target=_exit_with, args=[owner], name="metrics-batch-owner", daemon=True).start()


def _exit_with(owner: Any) -> None:
    owner.join()
    os._exit(1)
