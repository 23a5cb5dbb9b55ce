"""The two text formats of Prometheus: 0.0.4 and OpenMetrics 1.0."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum


class Format(Enum):
    """A text format, by its content type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

    @property
    def content_type(self) -> str:
        """What ``Content-Type`` says of it."""
        return self.value

    @property
    def end(self) -> bytes:
        """What the text ends in."""
        return b"# EOF\n" if self is Format.OPENMETRICS else b""

    def header(self, name: str, type_: str, help: str, unit: str) -> str:
        """Return the lines before the samples of a family.

        Args:
            name: As OpenMetrics has it: a counter's is without ``_total``.
            type_: ``counter``, ``gauge`` or ``histogram``.
            help: What it is; may be empty.
            unit: The base unit that the name ends in, or empty.
        """
        if self is Format.TEXT:
            name = f"{name}_total" if type_ == "counter" else name
            lines = [f"# HELP {name} {_escaped(help)}" if help else "", f"# TYPE {name} {type_}"]
        else:
            lines = [
                f"# TYPE {name} {type_}",
                f"# UNIT {name} {unit}" if unit else "",
                f"# HELP {name} {quotable(help)}" if help else "",
            ]
        return "".join(f"{line}\n" for line in lines if line)


def label_pairs(labels: Iterable[tuple[str, str]]) -> str:
    r"""Return labels as they stand between braces.

    Example:
        >>> label_pairs([("route", "/"), ("quoted", 'a "b"')])
        'route="/",quoted="a \\"b\\""'
    """
    return ",".join([f'{name}="{quotable(text)}"' for name, text in labels])


_SPECIAL = re.compile(r'[\\\n"]')


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def quotable(text: str) -> str:
    """Return a text as it stands between quotation marks."""
    return _escaped(text).replace('"', r"\"") if _SPECIAL.search(text) else text
