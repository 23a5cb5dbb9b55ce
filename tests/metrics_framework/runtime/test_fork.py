"""The after-fork hook resets objects and modules in a real forked child, phase by phase."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from metrics_framework.runtime import fork
from metrics_framework.runtime.fork import ForkOrder, reset_after_fork, run_after_fork
from tests.metrics_framework.runtime.children import PATIENCE, forks, in_a_child

pytestmark = forks
calls: list[str] = []


class Part:
    """An object that lists the phases in which it was reset."""

    def __init__(self, name: str, *orders: ForkOrder) -> None:
        """Register one method for each phase."""
        self.name = name
        for order in orders:
            method = {ForkOrder.LOCKS: Part.lock, ForkOrder.STATE: Part.empty, ForkOrder.THREADS: Part.start}
            reset_after_fork(self, method[order], order)

    def lock(self) -> None:
        """List the first phase."""
        calls.append(f"{self.name} locks")

    def empty(self) -> None:
        """List the second phase."""
        calls.append(f"{self.name} state")

    def start(self) -> None:
        """List the third phase."""
        calls.append(f"{self.name} threads")


@pytest.fixture(autouse=True)
def functions(monkeypatch):
    """Forget the calls and functions of other tests."""
    calls.clear()
    monkeypatch.setattr(fork, "_FUNCTIONS", {order: [] for order in ForkOrder})


def test_phases_run_in_order_for_all_objects():
    """Locks come before state, and state before threads; within a phase the oldest object is first."""
    every = [ForkOrder.THREADS, ForkOrder.STATE, ForkOrder.LOCKS]
    parts = [Part("a", *every), Part("b", *every)]
    phases = [f"{name} {phase}" for phase in ("locks", "state", "threads") for name in "ab"]
    assert in_a_child(lambda: calls) == str(phases)
    assert calls == []  # nothing runs in the parent
    assert len(parts) == 2


def test_a_grandchild_is_reset_too():
    """Each generation runs the hook once, on the objects that it inherited."""
    part = Part("a", ForkOrder.STATE)

    def child() -> str:
        return f"{calls} {in_a_child(lambda: calls)}"

    assert in_a_child(child) == "['a state'] ['a state', 'a state']"
    assert part.name == "a"


def test_an_object_is_referenced_weakly():
    """An object without other references is collected, and not reset."""
    part = Part("a", *ForkOrder)
    del part
    gc.collect()
    assert in_a_child(lambda: calls) == "[]"


def test_registering_again_replaces_the_method():
    """An object has one method for each phase."""
    part = Part("a", ForkOrder.STATE)
    reset_after_fork(part, Part.lock, ForkOrder.STATE)
    assert in_a_child(lambda: calls) == "['a locks']"


def test_functions_of_modules_run_before_the_objects_of_their_phase():
    """A function is called in its phase, before methods of objects."""
    part = Part("a", ForkOrder.LOCKS, ForkOrder.STATE)
    run_after_fork(lambda: calls.append("module"), ForkOrder.STATE)
    assert in_a_child(lambda: calls) == "['a locks', 'module', 'a state']"
    assert part.name == "a"


@pytest.mark.slow
def test_one_failure_does_not_keep_the_others_from_running():
    """Python reports the first error on standard error, and the child continues with all other resets."""
    code = """
import os
from metrics_framework.runtime.fork import ForkOrder, run_after_fork
def fail():
    raise RuntimeError("not emptied")
run_after_fork(fail, ForkOrder.LOCKS)
run_after_fork(lambda: print("state", flush=True), ForkOrder.STATE)
run_after_fork(lambda: print("threads", flush=True), ForkOrder.THREADS)
if os.fork() == 0:
    print("goes on", flush=True)
    os._exit(0)
os.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.split("\n") == ["state", "threads", "goes on", ""]
    assert done.stderr.count("RuntimeError: not emptied") == 1


@pytest.mark.slow
def test_threads_can_use_executors_at_once():
    """The last phase runs after the hook of `concurrent.futures`, even if that is imported later."""
    code = """
import os, sys, threading
from metrics_framework.runtime.fork import ForkOrder, run_after_fork
assert not {"logging", "concurrent.futures"} & set(sys.modules)
def start():
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    if thread.is_alive():
        print("hangs", flush=True)
def work():
    with ThreadPoolExecutor(1) as pool:
        print(pool.submit(int).result(10), flush=True)
run_after_fork(start, ForkOrder.THREADS)
from concurrent.futures import ThreadPoolExecutor
if os.fork() == 0:
    os._exit(0)
os.wait()
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("0\n", "")


@pytest.mark.slow
def test_objects_may_register_while_a_child_is_made():
    """Threads of the parent that create objects during the fork harm neither process."""
    stop = threading.Event()

    def create() -> None:
        while not stop.is_set():
            Part("passing", *ForkOrder)

    with ThreadPoolExecutor(2) as pool:
        creating = [pool.submit(create) for _ in range(2)]
        part = Part("a", *ForkOrder)
        try:
            answers = [in_a_child(lambda: [call for call in calls if call[0] == "a"]) for _ in range(30)]
        finally:
            stop.set()
        assert [each.result(PATIENCE) for each in creating] == [None, None]
    assert answers == [str(["a locks", "a state", "a threads"])] * 30
    assert part.name == "a"
