"""Failures of parts of someone else's are isolated, and logged once until the part works again."""

from __future__ import annotations

import pytest

from metrics_framework.log import Isolation


def test_what_works_is_passed_through(caplog):
    """The answer is that of the work, and nothing is said."""
    assert Isolation().call("not read", lambda: 3) == 3
    assert caplog.records == []


def test_a_failure_is_logged_once_until_it_works_again(caplog):
    """Each kind of failure, told apart by its details, is said at its first time and after a success."""
    isolation = Isolation()

    def fail() -> None:
        raise ValueError("broken")

    for _ in range(3):
        assert isolation.call("not read", fail, part="a") is None
    assert len(caplog.records) == 1
    assert "broken" in caplog.text
    isolation.call("not read", fail, part="b")
    assert len(caplog.records) == 2
    isolation.call("not read", lambda: 1, part="a")
    isolation.call("not read", fail, part="b")
    isolation.call("not read", fail, part="a")
    assert len(caplog.records) == 3


def test_what_ends_the_program_is_not_held_up():
    """An interrupt is no failure of a part."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Isolation().call("not read", interrupt)
