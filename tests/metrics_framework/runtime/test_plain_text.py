"""Texts from files cannot become markup, and cannot hide or reorder other text."""

from __future__ import annotations

import unicodedata
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics_framework.runtime.plain_text import MAX_CHARACTERS, html, plain

ANY = st.text(st.characters())
"""Any text, also with lone surrogates."""


@given(ANY)
def test_any_text_is_safe_in_html(text: str) -> None:
    """The HTML of any text has no markup, quotes, control, invisible or bidirectional characters."""
    shown = html(text)
    assert not set("<>\"'") & set(shown)
    assert unescape(shown) == plain(text)
    for character in shown:
        assert character in "\u200c\u200d" or unicodedata.category(character) not in {
            "Cc",
            "Cf",
            "Cs",
            "Zl",
            "Zp",
        }
    shown.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), max_size=MAX_CHARACTERS))
def test_ordinary_text_is_unchanged(text: str) -> None:
    """Letters of any script, numbers, punctuation and emojis are shown as they are."""
    assert plain(text) == text


def test_long_text_is_cut() -> None:
    """A megabyte is cut to the limit, which the ellipsis shows."""
    assert plain("a" * 2**20) == "a" * (MAX_CHARACTERS - 1) + "…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("main\u202e", "main\\u202e"),
        ("a\x00\n", "a\\x00\\x0a"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("שלום", "שלום"),
        ("e\u0301", "e\u0301"),
        ("e" + "\u0301" * 5, "e" + "\u0301" * 3 + "\\u0301" * 2),
    ],
)
def test_escapes(text: str, shown: str) -> None:
    """What could change other text is shown by its code; letters and their accents are not."""
    assert plain(text) == shown
