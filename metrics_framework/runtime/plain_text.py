"""Texts from files, made safe to show: escaped, cut, and without characters that change other text."""

from __future__ import annotations

import unicodedata
from html import escape

MAX_CHARACTERS = 120
"""Longer names, tags and notes are cut."""

_MAX_MARKS = 3  # combining characters on one letter
_JOINERS = "\u200c\u200d"  # several scripts and emojis need them
_ESCAPED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def plain(text: str, most: int = MAX_CHARACTERS) -> str:
    r"""Return a text with visible escapes in place of control, invisible and bidirectional characters.

    Args:
        text: Any text, such as a tag from a file.
        most: The largest number of characters. A longer text ends with an ellipsis.

    Example:
        >>> plain("main\u202e\x00"), plain("a" * 9, 4)
        ('main\\u202e\\x00', 'aaa…')
    """
    cut = text if len(text) <= most else text[: most - 1] + "…"
    if cut.isascii() and cut.isprintable():
        return cut
    shown, marks = [], 0
    for character in cut:
        category = unicodedata.category(character)
        marks = marks + 1 if category[0] == "M" else 0
        if (category in _ESCAPED and character not in _JOINERS) or marks > _MAX_MARKS:
            character = _escape(character)
        shown.append(character)
    return "".join(shown)


def _escape(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"


def html(text: str, most: int = MAX_CHARACTERS) -> str:
    """Return a text as HTML, for an element or an attribute in quotes; see `plain`.

    Example:
        >>> html('<b>"&')
        '&lt;b&gt;&quot;&amp;'
    """
    return escape(plain(text, most))
