"""An error type is one word, however the event loop wraps the exception."""

from __future__ import annotations

import asyncio

import pytest

from metrics_framework import MetricsSystem
from metrics_framework.error_types import FailureRule, error_type_of

CANCELLED = asyncio.CancelledError()


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (KeyError("k"), "KeyError"),
        (CANCELLED, "cancelled"),
        (BaseExceptionGroup("", [CANCELLED, CANCELLED]), "cancelled"),
        (ExceptionGroup("", [KeyError()]), "KeyError"),
        (ExceptionGroup("", [ExceptionGroup("", [KeyError()]), KeyError()]), "KeyError"),
        (BaseExceptionGroup("", [CANCELLED, KeyError()]), "KeyError"),
        (ExceptionGroup("", [KeyError(), OSError()]), "ExceptionGroup"),
    ],
)
def test_an_exception_has_one_error_type(error, word):
    """A group has the type that its members share. Failures take precedence over cancellations."""
    assert error_type_of(error) == word


class Hostile(type):
    """A metaclass whose classes have no readable name."""

    @property
    def __name__(cls):
        """Raise."""
        raise RuntimeError


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (type("", (KeyError,), {}), "KeyError"),
        (type("", (type("", (OSError,), {}),), {}), "OSError"),
        (type("", (BaseException,), {}), "BaseException"),
        (Hostile("Named", (ValueError,), {}), "Named"),
    ],
    ids=["without a name", "twice without a name", "a base exception", "a hidden name"],
)
def test_every_class_of_exceptions_has_an_error_type(kind, word):
    """Without a name it is that of the nearest base, and a metaclass cannot hide it."""
    error = kind()
    assert error_type_of(error) == word
    assert FailureRule().outcome(error) == word
    assert FailureRule(ignore=(ZeroDivisionError,)).outcome(error) == word
    assert FailureRule().outcome(BaseExceptionGroup("", [error, error])) == word
    metrics = MetricsSystem()
    with pytest.raises(kind), metrics.measure("work"):
        raise error
    with metrics.measure("work") as work:
        work.error_type = kind
    assert metrics.tracker.get_failure_breakdown("work") == {word: 2}
    assert metrics.timer.get_timing_stats("work")["count"] == 2
