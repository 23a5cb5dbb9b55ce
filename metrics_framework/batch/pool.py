"""Calls a function for each item in a pool of threads or processes, and records each call as a file.

Workers measure; only the process that owns the batch records. So a file counts once, even if it is retried.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar, cast

from metrics_framework.batch.files import (
    PEAK_MEMORY,
    Batch,
    error_message,
    exit_if_main_is_imported,
    skip_reason,
)
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.error_types import error_type_of
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
        return TaskResult(None, duration, "error", error_type_of(error), error_message(error), memory_peak)


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
    if processes is not None:
        exit_if_main_is_imported()
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
        self._pickled: bytes | None = None  # the task, if the workers are processes
        self._executor: Executor | None = None
        self._running: dict[Future[TaskResult], Any] = {}
        self._ready: SimpleQueue[Future[TaskResult]] = SimpleQueue()
        self._suspects: deque[Any] = deque()
        self._runs_alone = False
        if in_processes:
            try:
                self._pickled = pickle.dumps(task)
            except Exception as error:  # pickling code of the application may raise anything
                raise InvalidInputError(
                    f"{task.function!r} cannot be pickled for another process: {error};"
                    " pass a function of a module, or use threads="
                ) from error
            _check_main()

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
            future: Future[Any]
            if self._pickled is None:
                future = self._executor.submit(self._task, item)
            else:
                try:
                    pickled = pickle.dumps(item)
                except Exception as error:  # noqa: BLE001 - as above
                    future = Future()
                    future.set_result(_unpicklable("item", "pickled", error))
                else:
                    future = self._executor.submit(_call_task, pickled)
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
        """Start the workers, and wait until the first process is ready.

        Raises:
            InvalidInputError: If worker processes cannot be started for this task.
        """
        if self._pickled is None:
            return ThreadPoolExecutor(self._workers, thread_name_prefix="metrics-batch")
        import multiprocessing  # here, because threads need neither
        from concurrent.futures import ProcessPoolExecutor

        # Not a fork, which is unsafe if this process has threads.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        executor = ProcessPoolExecutor(
            self._workers, mp_context=context, initializer=_start_worker, initargs=(self._pickled,)
        )
        try:
            fault = executor.submit(_worker_fault).result()
        except (BrokenExecutor, OSError, EOFError):  # the server of new processes may have ended too
            executor.shutdown(wait=True, cancel_futures=True)
            raise InvalidInputError(
                f"a worker process ended while it started. Each worker first imports {_main_name()}, so code"
                ' that must not run there again, such as this call, needs `if __name__ == "__main__":` before'
                " it; or use threads="
            ) from None
        except BaseException:
            executor.shutdown(wait=True, cancel_futures=True)
            raise
        if fault:
            executor.shutdown(wait=True, cancel_futures=True)
            raise InvalidInputError(
                f"worker processes cannot load {self._task.function!r}: {fault}; move it to a module that"
                " they can import, which a notebook and `python -c` are not, or use threads="
            )
        return executor

    def _stop(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def _is_broken(future: Future[TaskResult]) -> bool:
    return future.cancelled() or isinstance(future.exception(), BrokenExecutor)


def _result_of(future: Future[Any]) -> TaskResult:
    raised = future.exception()
    if raised is not None:  # a BaseException in a thread
        return TaskResult(None, 0.0, "error", error_type_of(raised), str(raised))
    result = future.result()
    if not isinstance(result, bytes):
        return cast(TaskResult, result)
    try:
        return cast(TaskResult, pickle.loads(result))  # noqa: S301 - from our own worker
    except Exception as error:  # noqa: BLE001 - unpickling code of the application may raise anything
        return _unpicklable("result", "unpickled", error)


def _unpicklable(subject: str, verb: str, error: BaseException, duration: float = 0.0) -> TaskResult:
    """Return the result of an item whose value cannot be passed to or from a worker process."""
    error_type = pickle.PicklingError if verb == "pickled" else pickle.UnpicklingError
    message = f"the {subject} cannot be {verb} for another process: {error!r}; use plain data, or threads="
    return TaskResult(None, duration, "error", error_type.__name__, message)


def _check_main() -> None:
    """Raise an error if worker processes cannot import the main module, because it was read from stdin."""
    main = sys.modules["__main__"]
    file = getattr(main, "__file__", None)
    if file is not None and getattr(main, "__spec__", None) is None and not Path(file).is_file():
        raise InvalidInputError(
            f"processes= needs a program that worker processes can import, and {file!r} is not a file: save"
            " it as one, or use threads="
        )


def _main_name() -> str:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return repr(spec.name if spec else getattr(main, "__file__", "__main__"))


# -- in a worker process -------------------------------------------------------------------------------

_task: Task | None = None
_fault = ""


def _start_worker(pickled: bytes) -> None:
    """Load the task, ignore Ctrl-C, which the owner of the pool handles, and exit when the owner ends."""
    global _task, _fault  # noqa: PLW0603 - one value per process
    import multiprocessing

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = multiprocessing.parent_process()
    if owner is not None:
        threading.Thread(target=_exit_with, args=[owner], name="metrics-batch-owner", daemon=True).start()
    try:
        _task = pickle.loads(pickled)  # noqa: S301 - from the owner of the pool
    except Exception as error:  # noqa: BLE001 - unpickling code of the application may raise anything
        _fault = str(error) or repr(error)


def _worker_fault() -> str:
    """Return why this worker cannot call the task, or an empty string."""
    return _fault


def _call_task(pickled: bytes) -> bytes | TaskResult:
    """Call the task for a pickled item, and return its pickled result."""
    assert _task is not None
    try:
        item = pickle.loads(pickled)  # noqa: S301 - from the owner of the pool
    except Exception as error:  # noqa: BLE001 - as above
        return _unpicklable("item", "unpickled", error)
    try:
        result = _task(item)
    except BaseException as error:  # noqa: BLE001 - a SystemExit of the function fails only its item
        return TaskResult(None, 0.0, "error", error_type_of(error), str(error))
    try:
        return pickle.dumps(result)
    except Exception as error:  # noqa: BLE001 - as above
        return _unpicklable("result", "pickled", error, result.duration)


def _exit_with(owner: Any) -> None:
    owner.join()
    os._exit(1)
