"""What removed series had recorded, for exporters of increments."""

from __future__ import annotations

import contextlib
import os
from datetime import timedelta

import pytest

from metrics_adapters.in_memory import InMemoryCollector
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Store, removals
from tests.metrics_framework.recording.test_interruptions import (
    MANY,
    STEP,
    AtEvent,
    RecordInterrupted,
    in_a_thread,
)


def total(tracked, store):
    """Return the total of the counter over its removals, read as an exporter reads it."""
    with tracked.exporting() as removed:
        gone = sum(final.value for final in removed.values())
        return gone + sum(reading.summary["sum"] for reading in store.readings())


class Trial:
    """A counter of 7, two series of which are removed."""

    def __init__(self):
        self.store = Store(ManualClock(), expire_after=timedelta(seconds=100))
        self.collector = InMemoryCollector(self.store)
        self.tracked = self.store.track_removed(lambda series, aggregate: False)
        for user, number in (("a", 1), ("b", 2), ("c", 4)):
            self.collector.record_counter("orders", number, {"user": user})

    def remove(self, user):
        """Remove a series."""
        self.store.remove("orders", {"user": user})


def test_removed_series_are_kept_until_an_export_succeeds():
    """A failed export keeps what was removed before it and in it."""
    trial = Trial()
    trial.remove("a")
    with contextlib.suppress(OSError), trial.tracked.exporting() as removed:
        assert [final.value for final in removed.values()] == [1]
        trial.remove("b")
        raise OSError
    with trial.tracked.exporting() as removed:
        assert {key[2]: final.value for key, final in removed.items()} == {("a",): 1, ("b",): 2}
    with trial.tracked.exporting() as removed:
        assert removed == {}


def test_a_series_that_is_removed_repeatedly_is_one():
    """The final aggregates of one series are merged, also over bound instruments and names."""
    trial = Trial()
    for _ in range(3):
        trial.collector.record_counter("orders", 5, {"user": "a"})
        trial.store.remove("orders")
    with trial.tracked.exporting() as removed:
        assert {key[2]: final.value for key, final in removed.items()} == {("a",): 16, ("b",): 2, ("c",): 4}


def test_gauges_are_not_kept():
    """The last value of a removed gauge has no meaning for a receiver of increments."""
    trial = Trial()
    trial.collector.record_gauge("level", 3)
    trial.store.remove("level")
    with trial.tracked.exporting() as removed:
        assert removed == {}


def test_expiry_comes_before_an_export():
    """Idle series are removed first, so that the last export of a process has them."""
    trial = Trial()
    trial.store.clock.advance(200)
    with trial.tracked.exporting() as removed:
        assert sum(final.value for final in removed.values()) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_has_nothing_of_its_parent():
    """What its parent has removed is exported by the parent alone."""
    trial = Trial()
    trial.remove("a")
    child = os.fork()
    if child == 0:
        trial.collector.record_counter("orders", 9, {"user": "z"})
        trial.remove("z")
        with trial.tracked.exporting() as removed:
            os._exit(sum(final.value for final in removed.values()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert total(trial.tracked, trial.store) == 7


@pytest.mark.heavy
def test_exceptions_at_any_bytecode_of_a_removal_lose_nothing(monkeypatch):
    """Two handlers that raise in a row, in a removal and in the next one, lose and double nothing."""
    monkeypatch.setattr(removals, "MAX_UNMERGED_REMOVALS", 1)

    def raise_it():
        raise RecordInterrupted

    for number in range(1, MANY, STEP):
        trial = Trial()
        where = ""
        for user in ("a", "b"):
            event = AtEvent(number, raise_it)
            with contextlib.suppress(RecordInterrupted), event:
                trial.remove(user)
            where = event.where or where
        assert in_a_thread(lambda trial=trial: total(trial.tracked, trial.store)) == 7, where
        if not where:
            return
