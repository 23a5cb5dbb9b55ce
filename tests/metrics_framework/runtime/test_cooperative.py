"""Cooperative threads yield the GIL after each time slice; other threads do not."""

from __future__ import annotations

import select
import threading
import time

import pytest

from metrics_framework.runtime import cooperative
from metrics_framework.runtime.background import Background
from metrics_framework.runtime.cooperative import TimeSlice, cooperatively, yield_gil

PATIENCE = 20.0


@pytest.fixture
def slept(monkeypatch):
    """Return the pauses from now on. Time slices are empty, and pauses take no time."""
    pauses = []
    monkeypatch.setattr(cooperative, "_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(cooperative.time, "sleep", pauses.append)
    return pauses


def test_a_thread_of_the_application_is_never_paused(slept):
    """A direct call of the library does not sleep."""
    yield_gil()
    assert slept == []


def test_inside_a_block_each_time_slice_ends_with_a_pause(slept):
    """Blocks nest, and there are no pauses after the outer one."""
    with cooperatively():
        yield_gil()
        with cooperatively():
            yield_gil()
        yield_gil()
    yield_gil()
    assert len(slept) == 3
    assert min(slept) > 0


def test_a_block_affects_its_thread_only(slept):
    """Another thread is not paused."""
    with cooperatively():
        thread = threading.Thread(target=yield_gil)
        thread.start()
        thread.join()
    assert slept == []


def test_there_is_no_pause_before_the_end_of_a_time_slice(monkeypatch):
    """`is_due` measures the time since `begin`."""
    monkeypatch.setattr(cooperative, "_SLICE_SECONDS", PATIENCE)
    pace = TimeSlice()
    assert not pace.is_due()
    monkeypatch.setattr(cooperative, "_SLICE_SECONDS", 0.0)
    pace.begin()
    assert pace.is_due()


def test_background_work_is_cooperative(slept):
    """The work of a `Background` yields the GIL."""
    done = threading.Event()

    def work():
        yield_gil()
        done.set()

    background = Background(work, 3_600.0, "test work")
    assert done.wait(PATIENCE)
    background.stop()
    assert len(slept) == 1


@pytest.mark.slow
def test_another_thread_runs_beside_a_cooperative_thread():
    """A thread that waits repeatedly, like an event loop, makes much more progress."""

    def waits() -> int:
        """Return how often another thread could wait while this one computes."""
        count, stop = 0, False

        def wait():
            nonlocal count
            while not stop:
                select.select([], [], [], 0.0005)
                count += 1

        thread = threading.Thread(target=wait)
        thread.start()
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            sum(range(500))
            yield_gil()
        stop = True
        thread.join()
        return count

    alone = waits()
    with cooperatively():
        beside = waits()
    assert beside > 2 * alone
