"""An error type is one word, however the event loop wraps the exception."""

from __future__ import annotations

import asyncio

import pytest

from metrics_adapters.instrumentation.error_types import error_type_of

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
