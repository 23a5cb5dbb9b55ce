"""Work in turns lets others go on, and only where it was asked for."""

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
    """Return the pauses that are made from here on, which are due at once and take no time."""
    pauses = []
    monkeypatch.setattr(cooperative, "_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(cooperative.time, "sleep", pauses.append)
    return pauses


def test_a_thread_of_the_application_is_never_paused(slept):
    """Who calls the library on the spot waits for nothing but the work."""
    yield_gil()
    assert slept == []


def test_inside_a_block_each_turn_ends_in_a_pause(slept):
    """Blocks nest, and after them there are no pauses any more."""
    with cooperatively():
        yield_gil()
        with cooperatively():
            yield_gil()
        yield_gil()
    yield_gil()
    assert len(slept) == 3
    assert min(slept) > 0


def test_a_block_is_one_threads_own(slept):
    """What another thread does meanwhile is not paused."""
    with cooperatively():
        thread = threading.Thread(target=yield_gil)
        thread.start()
        thread.join()
    assert slept == []


def test_a_turn_has_its_time(monkeypatch):
    """No pause is made before it is due."""
    monkeypatch.setattr(cooperative, "_SLICE_SECONDS", PATIENCE)
    pace = TimeSlice()
    assert not pace.is_due()
    monkeypatch.setattr(cooperative, "_SLICE_SECONDS", 0.0)
    pace.begin()
    assert pace.is_due()


def test_background_work_is_done_in_turns(slept):
    """What a thread of the library does at an interval is paused."""
    done = threading.Event()

    def work():
        yield_gil()
        done.set()

    background = Background(work, 3_600.0, "test work")
    assert done.wait(PATIENCE)
    background.stop()
    assert len(slept) == 1


def test_another_thread_goes_on_beside_work_in_turns():
    """A thread that waits for something again and again, as an event loop does, gets on much further."""

    def waits() -> int:
        """Return how often another thread could wait while this one computes for a while."""
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
