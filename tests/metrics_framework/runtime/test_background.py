"""Background work runs until it is stopped, and leaves no thread behind."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from metrics_framework.runtime.background import Background
from tests.metrics_framework.runtime.children import PATIENCE, forks, in_a_child

NEVER = 3_600.0


class Worker:
    """Work that records its calls and their threads."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.done = threading.Semaphore(0)
        self.threads: list[threading.Thread] = []

    def work(self) -> None:
        """Fail a number of times, then succeed."""
        self.threads.append(threading.current_thread())
        self.done.release()
        if self.failures:
            self.failures -= 1
            raise OSError("out of order")

    def wait(self, times: int = 1) -> None:
        """Wait for a number of calls."""
        for _ in range(times):
            assert self.done.acquire(timeout=PATIENCE)


@pytest.fixture
def begin():
    """Return a function that starts background work, which is stopped at the end of the test."""
    begun = []

    def begin(work: Callable[[], object], interval: float) -> Background:
        begun.append(Background(work, interval, "test work"))
        return begun[-1]

    yield begin
    for background in begun:
        background.stop()


def threads() -> list[threading.Thread]:
    """Return the threads of these tests."""
    return [thread for thread in threading.enumerate() if thread.name == "metrics-test-work"]


def ended(thread: threading.Thread) -> bool:
    """Wait for a thread to end."""
    thread.join(PATIENCE)
    return not thread.is_alive()


# -- starting and stopping -----------------------------------------------------------------------------------


def test_work_runs_at_once_and_at_each_interval(begin):
    """The first call does not wait for the interval."""
    once, often = Worker(), Worker()
    begin(once.work, NEVER)
    once.wait()
    begin(often.work, 0.001)
    often.wait(10)
    assert len(once.threads) == 1
    assert {thread.name for thread in often.threads} == {"metrics-test-work"}


def test_a_stop_waits_for_the_call_that_runs():
    """After `stop` returns, no call is running."""
    working, go_on, finished = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        working.set()
        go_on.wait(PATIENCE)
        finished.set()

    background = Background(work, NEVER, "test work")
    assert working.wait(PATIENCE)
    with ThreadPoolExecutor(1) as other:
        stopping = other.submit(background.stop)
        while not background.stopped:
            time.sleep(0)
        go_on.set()
        stopping.result(PATIENCE)
        assert finished.is_set()
    assert threads() == []


def test_many_threads_may_stop_at_once_and_again():
    """Each stop returns after the end of the thread."""
    worker = Worker()
    background = Background(worker.work, 0.001, "test work")
    worker.wait(3)
    with ThreadPoolExecutor(8) as others:
        for stopping in [others.submit(background.stop) for _ in range(16)]:
            stopping.result(PATIENCE)
    background.stop()
    assert threads() == []


def test_the_work_may_stop_itself():
    """A stop inside the work does not wait for itself, and no call follows."""
    ready, calls = threading.Event(), []

    def work() -> None:
        ready.wait(PATIENCE)
        background.stop()
        background.stop()
        calls.append(threading.current_thread())

    background = Background(work, 0.001, "test work")
    ready.set()
    assert ended(background._thread)
    assert len(calls) == 1


def test_a_signal_handler_may_stop_it():
    """A stop in a handler that interrupts a stop ends both."""
    worker = Worker()
    background = Background(worker.work, NEVER, "test work")
    before = signal.signal(signal.SIGINT, lambda *_: background.stop())
    try:
        signal.raise_signal(signal.SIGINT)
        background.stop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert threads() == []


@pytest.mark.slow
def test_it_does_not_keep_the_interpreter_from_exiting():
    """A program that never stops its background work exits, also during a call."""
    code = (
        "import time\nfrom metrics_framework.runtime.background import Background\n"
        "running = [Background(lambda: time.sleep(3600), 1, 'a'), Background(int, 3600, 'b')]\n"
        "print('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_the_work_is_kept_until_it_is_stopped(begin):
    """An object whose method is called has no other reference, and is garbage after the stop."""
    worker = Worker()
    gone = weakref.ref(worker)
    background = begin(worker.work, 0.001)
    del worker
    gc.collect()
    gone().wait(5)
    background.stop()
    background._work = None
    gc.collect()
    assert gone() is None


# -- failures ------------------------------------------------------------------------------------------------


def test_consecutive_failures_are_logged_once(begin, caplog):
    """Failing work is called again. A failure after a success is logged again."""
    worker = Worker(failures=5)
    begin(worker.work, 0.001)
    worker.wait(10)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "test work failed" in caplog.text
    assert "out of order" in caplog.text
    worker.failures = 3
    worker.wait(10)
    assert len(caplog.records) == 2


# -- forks ---------------------------------------------------------------------------------------------------


@forks
def test_it_continues_in_a_child(begin):
    """A child and a grandchild have a thread of their own, and can stop it."""
    worker = Worker()
    background = begin(worker.work, 0.005)
    worker.wait()

    def child() -> object:
        worker.done, worker.threads = threading.Semaphore(0), []
        worker.wait(3)
        below = in_a_child(child) if os.getppid() == parent else "and below"
        background.stop()
        return f"{len(set(worker.threads))} thread, {len(threads())} left, {below}"

    parent = os.getpid()
    assert in_a_child(child) == "1 thread, 0 left, 1 thread, 0 left, and below"
    worker.threads.clear()
    while worker.done.acquire(blocking=False):
        pass
    worker.wait(3)
    assert set(worker.threads) == {background._thread}


@pytest.mark.slow
@forks
def test_it_may_end_in_a_child():
    """With `in_child=False` it is stopped in a child and continues in the parent."""
    worker = Worker()
    background = Background(worker.work, 0.005, "test work", in_child=False)
    worker.wait()

    def child() -> object:
        worker.threads.clear()
        time.sleep(0.3)
        background.stop()
        return background.stopped, threads(), worker.threads

    assert in_a_child(child) == "(True, [], [])"
    assert not background.stopped
    worker.wait(3)
    background.stop()


@pytest.mark.slow
@forks
def test_stopped_work_stays_stopped_in_a_child():
    """The child has no thread, and a stop does nothing."""
    worker = Worker()
    background = Background(worker.work, NEVER, "test work")
    background.stop()
    worker.threads.clear()
    assert (
        in_a_child(lambda: [time.sleep(0.3), background.stop(), threads(), worker.threads][1:])
        == "[None, [], []]"
    )


@forks
def test_a_child_made_during_a_call_does_not_wait_for_it(begin):
    """A call that runs in the parent at the fork does not exist in the child, which calls at once."""
    parent, go_on = os.getpid(), threading.Event()
    calls = Worker()

    def work() -> None:
        calls.work()
        if os.getpid() == parent:
            go_on.wait(PATIENCE)

    background = begin(work, NEVER)
    calls.wait()

    def child() -> object:
        calls.wait()
        return background.stop()

    assert in_a_child(child) == "None"
    go_on.set()


@pytest.mark.slow
@forks
def test_a_child_can_log_at_once():
    """The thread of a child logs although a thread of the parent held the lock of a handler at the fork."""
    code = """
import os, sys, threading
from metrics_framework.runtime.fork import ForkOrder, run_after_fork
run_after_fork(int, ForkOrder.STATE)
assert "logging" not in sys.modules
from metrics_framework.log import log_event
from metrics_framework.runtime.background import Background

def work():
    log_event("warning", "at work", child=os.getpid() != parent)
    worked.release()

parent, worked, held = os.getpid(), threading.Semaphore(0), threading.Event()
running = Background(work, 3600, "a")
assert worked.acquire(timeout=20)
import logging
handler = logging.StreamHandler(sys.stdout)
logging.getLogger().addHandler(handler)

def hold():
    with handler.lock:
        held.set()
        threading.Event().wait(60)

threading.Thread(target=hold, daemon=True).start()
held.wait()
for _ in range(20):
    child = os.fork()
    if child == 0:
        os._exit(0 if worked.acquire(timeout=20) else 1)
    print(os.waitpid(child, 0)[1], flush=True)
os._exit(0)  # an ordinary exit would wait for the lock of the handler
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.stdout.splitlines() == ["event='at work' child=True", "0"] * 20, done.stderr


@pytest.mark.slow
@forks
def test_work_that_forks_has_one_thread_in_its_child():
    """The thread that forked continues in the child, and no second one starts."""
    calls, answers = [], []

    def work() -> None:
        calls.append(threading.current_thread())
        if len(calls) == 1:
            answers.append(in_a_child(lambda: (time.sleep(0.3), len(calls), threading.active_count())[1:]))
            done.set()

    done = threading.Event()
    background = Background(work, NEVER, "test work")
    assert done.wait(PATIENCE)
    background.stop()
    assert answers == ["(1, 1)"]


@pytest.mark.slow
@forks
def test_it_does_not_keep_a_child_from_exiting():
    """The thread of a child does not keep it alive."""
    code = (
        "import os, time\nfrom metrics_framework.runtime.background import Background\n"
        "running = Background(int, 0.001, 'a')\n"
        "child = os.fork()\n"
        "if child:\n    print(os.waitpid(child, 0)[1])\nelse:\n    time.sleep(0.2)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")
