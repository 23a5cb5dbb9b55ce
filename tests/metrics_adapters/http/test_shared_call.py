"""A call is made once for all who wait for it, and holds nobody up for longer than it is worth."""

from __future__ import annotations

import pytest

from metrics_adapters.http.shared_call import SharedCall, in_thread

PATIENCE = 20.0


def test_who_comes_while_a_call_runs_shares_it():
    """Two begin one call; when it has ended, the next one begins another."""
    shared, started = SharedCall(PATIENCE), []
    first, second = shared.call(started.append), shared.call(started.append)
    assert first is second
    assert first.future is started[0]
    started[0].set_result("done")
    assert [first.outcome(), second.outcome()] == ["done", "done"]
    assert shared.call(started.append) is not first
    assert len(started) == 2


def test_a_call_is_worth_waiting_for_so_long():
    """The seconds count from its begin, whoever asks; after them it has no outcome yet."""
    call = SharedCall(PATIENCE).call(lambda future: None)
    assert PATIENCE - 5 < call.seconds_left() <= PATIENCE
    late = SharedCall(0).call(lambda future: None)
    assert late.seconds_left() == 0
    with pytest.raises(TimeoutError, match="too long"):
        late.outcome()


@pytest.mark.parametrize("error", [ZeroDivisionError("by nought"), SystemExit(3)])
def test_what_a_thread_raises_is_the_outcome(error):
    """Whatever it is, those who wait are told."""

    def work():
        raise error

    call = SharedCall(PATIENCE).call(in_thread(work))
    assert call.future.exception(PATIENCE) is error
    with pytest.raises(type(error)):
        call.outcome()


def test_a_call_that_cannot_begin_has_failed():
    """Where there is no thread to be had, nobody waits for it, and the next one tries again."""
    shared = SharedCall(PATIENCE)

    def refuse(future):
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="new thread"):
        shared.call(refuse).outcome()
    assert shared.call(in_thread(lambda: "done")).future.result(PATIENCE) == "done"


def test_in_a_child_nobody_waits_for_the_parent():
    """A call that was under way when the process forked is forgotten."""
    shared, started = SharedCall(PATIENCE), []
    first = shared.call(started.append)
    shared.begin_anew()
    assert shared.call(started.append) is not first
