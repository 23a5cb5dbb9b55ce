"""The labels of many series at once: what does not change of a series' lines is made in one step."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from itertools import chain

from metrics_adapters.prometheus.families import NO_TEXT
from metrics_adapters.prometheus.text import label_pairs, quotable
from metrics_framework.exposition.text import tag_labels

_SPECIAL = re.compile(r'[\\"%]')


class LabelPattern:
    """How series with the same tag names are labelled.

    The texts that it makes are patterns for ``%``: a percent sign in them is doubled.

    Args:
        names: The tag names.
        constants: Tags that every series bears.
        own_labels: Labels that no tag may have the name of.

    Attributes:
        labels: The names of the labels.
        is_simple: Whether every tag is a label of its own, so that different tags are different labels.
    """

    def __init__(
        self, names: Sequence[str], constants: Mapping[str, str], own_labels: Container[str]
    ) -> None:
        slots = {name: f"\0{place}\0" for place, name in enumerate(names)}
        labels = tag_labels({**constants, **slots}, own_labels)
        self.labels = frozenset(labels)
        # A constant tag that a series has as well keeps its place, and may change the order.
        in_order = [text for text in labels.values() if text.startswith("\0")] == list(slots.values())
        texts = all(text and not NO_TEXT.search(text) for text in constants.values())
        self.is_simple = len(labels) == len({*constants, *names}) and in_order and texts
        self._constant = pattern_of(labels)
        line = self._constant.replace("%", "%%")
        for slot in slots.values():
            line = line.replace(slot, "%s")
        self._line = f"{line}\n"
        self._names = len(names)

    def texts(self, tag_values: Sequence[Sequence[str]]) -> list[str] | None:
        """Return the labels of series; ``None`` if a value is empty, or a server cannot read it.

        Args:
            tag_values: The tag values of each series, in the order of the tag names.
        """
        if not self._names:
            return [self._constant] * len(tag_values)
        values = list(chain.from_iterable(tag_values))
        together = "\n".join(values)
        if NO_TEXT.search(together) or "\n\n" in f"\n{together}\n":
            return None
        if _SPECIAL.search(together) or together.count("\n") >= len(values):
            values = [quotable(value).replace("%", "%%") for value in values]
        return (self._line * len(tag_values) % tuple(values)).split("\n")[:-1]


def pattern_of(labels: Mapping[str, str]) -> str:
    """Return labels as a pattern for ``%`` without a place in it."""
    return label_pairs(labels.items()).replace("%", "%%")
