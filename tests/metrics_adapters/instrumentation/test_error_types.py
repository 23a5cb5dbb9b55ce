"""How work ended is one word, however the event loop wraps it."""

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
def test_an_end_has_one_word(error, word):
    """Groups are what their members have in common; who fails is named before who was cancelled for it."""
    assert error_type_of(error) == word
