"""Deadlines cover all steps of an exchange, and a worker's thread is left to a call that misses its own."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from metrics_framework.runtime.deadline import (
    Deadline,
    DeadlineReader,
    Worker,
    connect,
    keeping,
    look_up,
    pause_before_retry,
    seconds_left,
    send,
)
from tests.metrics_framework.runtime.children import PATIENCE, forks, in_a_child

# -- deadlines -----------------------------------------------------------------------------------------------


def test_a_deadline_is_never_later_than_that_of_the_surrounding_work():
    """A client with a long time limit of its own ends with the export that it is a part of."""
    assert seconds_left() is None
    with keeping(Deadline(500)):
        assert 400 < Deadline(6_000).seconds_left <= 500
        assert Deadline(100).seconds_left <= 100
        with keeping(Deadline(200)):
            assert seconds_left() <= 200
        assert seconds_left() > 400
    assert Deadline(6_000).seconds_left > 5_900


@pytest.mark.parametrize(
    ("seconds", "text"), [(30, "30 seconds"), (5, "5 seconds"), (0.1, "0.1 seconds"), (4.987, "5 seconds")]
)
def test_the_text_of_a_deadline_is_its_time_limit(seconds, text):
    """Messages quote it."""
    assert str(Deadline(seconds)) == text


def test_a_retry_that_has_no_time_does_not_pause():
    """Neither after the deadline, nor in a final export."""
    for deadline in (Deadline(100), Deadline(6_000, is_final=True)):
        with keeping(deadline):
            begin = time.monotonic()
            assert not pause_before_retry(200)
            assert time.monotonic() - begin < 100
    assert pause_before_retry(0.001)
    with keeping(Deadline(60)):
        assert pause_before_retry(0.001)


def test_a_pause_ends_when_retries_are_cancelled():
    """A final export does not wait for the retry of an earlier one."""
    deadline, answers = Deadline(60), []

    def retry() -> None:
        with keeping(deadline):
            answers.append(pause_before_retry(30))

    thread = threading.Thread(target=retry)
    thread.start()
    deadline.cancel_retries()
    thread.join(PATIENCE)
    assert answers == [False]


# -- sockets -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_host_with_a_dead_address_is_reached_by_another(monkeypatch):
    """An address that does not answer takes only its share of the time."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(("127.0.0.1", 0), backlog=0) as full,
    ):
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:  # fills the queue of connections, so that the next one gets no answer
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", each.getsockname()) for each in (full, server)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
        with connect("host", 1, Deadline(1.0)) as connection:
            assert connection.getpeername() == server.getsockname()
        for one in waiting:
            one.close()


@pytest.mark.slow
def test_sending_and_reading_end_at_the_deadline():
    """A receiver that takes or sends some bytes from time to time does not extend it."""
    one, other = socket.socketpair()
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.02):
            other.recv(100)
            other.send(b"x")

    thread = threading.Thread(target=trickle)
    thread.start()
    begin = time.monotonic()
    with pytest.raises(TimeoutError):
        send(one, bytes(100_000_000), Deadline(0.2))
    with pytest.raises(TimeoutError):
        DeadlineReader(one, Deadline(0.2)).makefile("rb").read(100_000)
    assert time.monotonic() - begin < PATIENCE
    stop.set()
    one.close()
    thread.join(PATIENCE)
    other.close()


def test_a_lookup_that_hangs_is_shared_and_left_behind(monkeypatch):
    """Callers give up at their own deadlines, and one thread is left, which the last of them can use."""
    go_on, names = threading.Event(), []
    numeric = socket.getaddrinfo

    def hang(host, port, **options):
        if options.get("flags"):
            return numeric(host, port, **options)
        names.append(host)
        assert go_on.wait(PATIENCE)
        return ["address"]

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            look_up("slow.invalid", 80, socket.SOCK_STREAM, Deadline(0.05))
    threading.Timer(0.05, go_on.set).start()
    assert look_up("slow.invalid", 80, socket.SOCK_STREAM, Deadline(PATIENCE)) == ["address"]
    assert names == ["slow.invalid"]
    assert look_up("slow.invalid", 80, socket.SOCK_STREAM, Deadline(PATIENCE)) == ["address"]
    assert names == ["slow.invalid"] * 2


def test_a_lookup_raises_the_error_of_the_resolver(monkeypatch):
    """Also if its thread has raised it, or no thread can be started."""
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            look_up("does-not-exist.invalid", 80, socket.SOCK_STREAM, Deadline(PATIENCE))
        monkeypatch.setattr(threading.Thread, "start", _refuse)


def _refuse(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@forks
def test_a_child_does_not_wait_for_a_lookup_of_its_parent(monkeypatch):
    """The thread of the lookup exists in the parent only."""
    go_on = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", partial(_resolve, go_on))
    with pytest.raises(TimeoutError):
        look_up("slow.invalid", 80, socket.SOCK_STREAM, Deadline(0.05))

    def child() -> object:
        go_on.set()
        return look_up("slow.invalid", 80, socket.SOCK_STREAM, Deadline(PATIENCE))

    assert in_a_child(child) == "['address']"
    go_on.set()


def _resolve(go_on: threading.Event, host: str, port: int, **options: object) -> list[str]:
    if options.get("flags"):
        raise OSError("not numeric")
    go_on.wait(PATIENCE)
    return ["address"]


# -- workers -------------------------------------------------------------------------------------------------


def test_a_worker_makes_calls_one_after_another():
    """A call has the error of its function, and no error ends the thread."""
    worker, done = Worker("test worker"), []

    def fail() -> None:
        raise SystemExit(3)

    failed = worker.submit(fail, Deadline(PATIENCE))
    assert failed.wait(PATIENCE)
    call = worker.submit(lambda: done.append(threading.current_thread()), Deadline(PATIENCE))
    assert asyncio.run(call.wait_async(PATIENCE))
    assert (type(failed.error), failed.has_succeeded, call.has_succeeded) == (SystemExit, False, True)
    assert (done[0].name, done[0].daemon) == ("test worker", True)
    assert not worker.is_busy
    worker.stop()
    done[0].join(PATIENCE)
    assert not done[0].is_alive()


def test_a_stopped_worker_makes_later_calls():
    """In the same thread if that has not ended yet, otherwise in a new one."""
    worker = Worker("test worker")
    for _ in range(50):
        worker.stop()
        assert worker.submit(lambda: None, Deadline(PATIENCE)).wait(PATIENCE)
    threads: list[threading.Thread] = []
    for _ in range(2):
        assert worker.submit(lambda: threads.append(threading.current_thread()), Deadline(PATIENCE)).wait(
            PATIENCE
        )
    assert threads[0] is threads[1], "the call after a stop has started the worker again"
    worker.stop()
    threads[0].join(PATIENCE)
    threads.clear()
    for _ in range(2):
        assert worker.submit(lambda: threads.append(threading.current_thread()), Deadline(PATIENCE)).wait(
            PATIENCE
        )
        worker.stop()
        threads[-1].join(PATIENCE)
    assert threads[0] is not threads[1]
    assert not any(thread.is_alive() for thread in threads)


def test_the_thread_of_a_worker_ends_with_it():
    """Also while nothing was ever called, and after a call that hung has returned."""
    ended, go_on = threading.Semaphore(0), threading.Event()
    worker = Worker("test worker", at_end=ended.release)
    del worker
    gc.collect()
    assert ended.acquire(timeout=PATIENCE)
    worker = Worker("test worker", at_end=ended.release)
    call = worker.submit(lambda: go_on.wait(PATIENCE), Deadline(0.01))
    assert not call.wait(0.05)
    del worker
    go_on.set()
    assert call.wait(PATIENCE)
    gc.collect()
    assert ended.acquire(timeout=PATIENCE)


@forks
def test_a_child_starts_its_own_thread():
    """A call that hangs in the parent does not exist in the child."""
    worker, go_on = Worker("test worker"), threading.Event()
    stuck = worker.submit(lambda: go_on.wait(PATIENCE), Deadline(PATIENCE))
    while worker.running is not stuck:
        time.sleep(0.001)

    def child() -> object:
        found: list[int] = []
        call = worker.submit(lambda: found.append(os.getpid()), Deadline(PATIENCE))
        return call.wait(PATIENCE), found == [os.getpid()]

    assert in_a_child(child) == "(True, True)"
    go_on.set()
    assert stuck.wait(PATIENCE)
    worker.stop()


@pytest.mark.slow
def test_a_worker_makes_calls_at_the_exit():
    """An exiting interpreter starts no threads from Python 3.12 on; the thread of the worker runs already."""
    code = (
        "import atexit, time\n"
        "from metrics_framework.runtime.deadline import Deadline, Worker\n"
        "worker, stuck = Worker('good'), Worker('stuck')\n"
        "def work():\n"
        "    calls = [each.submit(what, Deadline(0.2)) for each, what in ((worker, print), (stuck, hang))]\n"
        "    print([call.wait(0.2) for call in calls])\n"
        "def hang(): time.sleep(3600)\n"
        "atexit.register(work)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n[True, False]\n", "")
