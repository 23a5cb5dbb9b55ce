"""Calls of a function in a pool of threads or processes, each recorded as a file.

The pool's workers measure; only the process that owns the batch records. So a file counts once, however
often it had to be begun.
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

from metrics_framework.batch.files import Batch, message_of, reason_of
from metrics_framework.batch.peaks import PEAKS
from metrics_framework.clock import SYSTEM_CLOCK
from metrics_framework.errors import InvalidInputError
from metrics_framework.validation import check_count

T = TypeVar("T")
R = TypeVar("R")

WORKER_DIED = "WorkerDied"
"""The error type of an item that a process died of."""

_AHEAD = 4


@dataclass(frozen=True)
class FileResult(Generic[T, R]):
    """What became of one item.

    Attributes:
        item: Which.
        value: What the function returned; ``None`` where it did not.
        status: ``success``, ``error`` or ``skipped``.
        error_type: Of an error, its type.
    """

    item: T
    value: R | None
    status: str
    error_type: str | None


class Outcome(NamedTuple):
    """What a worker measured."""

    value: Any
    duration: float
    status: str = "success"
    error_type: str | None = None
    error_message: str | None = None
    memory_peak: int | None = None


@dataclass(frozen=True)
class Task:
    """What a worker is told; it travels to another process."""

    function: Callable[[Any], Any]
    retries: int
    skip_on: tuple[type[Exception], ...]
    track_memory: bool

    def __call__(self, item: Any) -> Outcome:
        """Do it for an item, and again if it fails."""
        for _ in range(self.retries):
            outcome = self._once(item)
            if outcome.status != "error":
                return outcome
        return self._once(item)

    def _once(self, item: Any) -> Outcome:
        peak = PEAKS.begin() if self.track_memory else None
        begin_ns = SYSTEM_CLOCK.monotonic_ns()
        value, error = None, None
        try:
            value = self.function(item)
        except Exception as raised:  # noqa: BLE001 - it is recorded
            error = raised
        duration = (SYSTEM_CLOCK.monotonic_ns() - begin_ns) / 1e9
        memory_peak = None if peak is None else PEAKS.end(peak)
        if error is None:
            return Outcome(value, duration, memory_peak=memory_peak)
        if isinstance(error, self.skip_on):
            return Outcome(None, 0.0, "skipped", None, reason_of(error))
        return Outcome(None, duration, "error", type(error).__name__, message_of(error), memory_peak)


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
        for item, outcome in pool.run(items):
            more = details(outcome.value) if details and outcome.status == "success" else {}
            batch.record_file(
                name(item),
                duration=outcome.duration,
                status=outcome.status,
                error_type=outcome.error_type,
                error_message=outcome.error_message,
                memory_peak=outcome.memory_peak,
                **more,
            )
            yield FileResult(item, outcome.value, outcome.status, outcome.error_type)


class Pool:
    """Workers that outlive the death of one of them."""

    def __init__(self, task: Task, workers: int, *, in_processes: bool) -> None:
        self._task = task
        self._workers = workers
        self._in_processes = in_processes
        self._executor: Executor | None = None
        self._running: dict[Future[Outcome], Any] = {}
        self._ready: SimpleQueue[Future[Outcome]] = SimpleQueue()
        self._suspects: deque[Any] = deque()
        self._is_alone = False
        if in_processes:
            try:
                pickle.dumps(task)
            except Exception as error:  # whatever its own pickling raises
                raise InvalidInputError(f"{task.function!r} cannot go to another process: {error}") from error

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()

    def run(self, items: Iterable[Any]) -> Iterator[tuple[Any, Outcome]]:
        """Yield each item and what became of it, as it is ready."""
        waiting = iter(items)
        while True:
            is_alive = self._fill(waiting)
            if is_alive:
                if not self._running:
                    return
                future = self._ready.get()
                is_alive = not _is_broken(future)
                if is_alive:
                    yield self._running.pop(future), _outcome_of(future)
            if not is_alive:
                yield from self._begin_anew()

    def _fill(self, waiting: Iterator[Any]) -> bool:
        """Give the workers enough to do, and say whether they still live.

        What was begun when a process died is done again with nothing beside it, so that a second death is no
        other item's.
        """
        if self._running and (self._suspects or self._is_alone):
            return True
        self._is_alone = bool(self._suspects)
        if self._suspects:
            return self._give(self._suspects.popleft())
        while len(self._running) < _AHEAD * self._workers:
            try:
                item = next(waiting)
            except StopIteration:
                return True
            if not self._give(item):
                return False
        return True

    def _give(self, item: Any) -> bool:
        if self._executor is None:
            self._executor = self._start()
        try:
            future: Future[Outcome] = self._executor.submit(self._task, item)
        except BrokenExecutor:
            self._suspects.append(item)
            return False
        self._running[future] = item
        future.add_done_callback(self._ready.put)
        return True

    def _begin_anew(self) -> Iterator[tuple[Any, Outcome]]:
        """Make a new pool after a death; yield what was ready all the same, and who died alone."""
        wait(self._running)
        running, self._running, self._ready = self._running, {}, SimpleQueue()
        self._stop()
        for future, item in running.items():
            if not _is_broken(future):
                yield item, _outcome_of(future)
            elif self._is_alone:
                yield item, Outcome(None, 0.0, "error", WORKER_DIED, "its process ended abruptly")
            else:
                self._suspects.append(item)

    def _start(self) -> Executor:
        if not self._in_processes:
            return ThreadPoolExecutor(self._workers, thread_name_prefix="metrics-batch")
        # Not a fork of this process, which may have threads; what is started clean takes no longer for long.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_begin_worker)

    def _stop(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=True, cancel_futures=True)


def _is_broken(future: Future[Outcome]) -> bool:
    return future.cancelled() or isinstance(future.exception(), BrokenExecutor)


def _outcome_of(future: Future[Outcome]) -> Outcome:
    error = future.exception()
    if error is None:
        return future.result()
    # A value that cannot be sent back, or an error that is no Exception.
    return Outcome(None, 0.0, "error", type(error).__name__, str(error))


def _begin_worker() -> None:
    """Leave Ctrl-C to the process that owns the pool, and end with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    owner = multiprocessing.parent_process()
    if owner is not None:
        threading.Thread(target=_end_with, args=[owner], name="metrics-batch-owner", daemon=True).start()


def _end_with(owner: Any) -> None:
    owner.join()
    os._exit(1)
