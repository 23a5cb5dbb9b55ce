"""Content negotiation: the format and the compression that the headers of a client ask for.

The rules are those of RFC 9110. Malformed elements are ignored, so every header has a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from metrics_framework.exposition.text import Format

_ELEMENTS = re.compile(r'(?:[^,"]|"[^"]*"?)+')
_PARAMETERS = re.compile(r'(?:[^;"]|"[^"]*"?)+')
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]*)?|1(?:\.0*)?)")


class _Offer(NamedTuple):
    format: Format
    media_type: str
    version: str


# If a client accepts both equally, it gets the first.
_OFFERS = (
    _Offer(Format.TEXT, "text/plain", "0.0.4"),
    _Offer(Format.OPENMETRICS, "application/openmetrics-text", "1.0.0"),
)


def choose_format(accept: str | None) -> Format:
    """Return the format that matches an ``Accept`` header best.

    The highest weight wins, then the most specific element. The text format 0.0.4 is the default, also if no
    element matches. The only parameter that matters is ``version``: an element without one matches any
    version.

    Args:
        accept: The header; ``None`` if there is none.

    Example:
        >>> choose_format("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5").name
        'OPENMETRICS'
    """
    best, chosen = (0.0, 0), Format.TEXT
    wanted = list(_elements(accept))
    for offer in _OFFERS:
        # The most specific element that matches an offer decides its weight.
        specificity, weight = max(
            ((_specificity(offer, one), one.weight) for one in wanted if _specificity(offer, one)),
            default=(0, 0.0),
        )
        if weight > 0 and (weight, specificity) > best:
            best, chosen = (weight, specificity), offer.format
    return chosen


def wants_gzip(accept_encoding: str | None) -> bool:
    """Return whether an ``Accept-Encoding`` header prefers gzip to no compression, or accepts both equally.

    Args:
        accept_encoding: The header; ``None`` if there is none.

    Example:
        >>> wants_gzip("gzip, deflate"), wants_gzip("gzip;q=0, *"), wants_gzip("*")
        (True, False, True)
    """
    weights = {one.name: one.weight for one in _elements(accept_encoding)}
    gzip = weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0)))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


class _Element(NamedTuple):
    """One element of a header, in lower case."""

    name: str
    parameters: dict[str, str]
    weight: float


def _elements(header: str | None) -> Iterator[_Element]:
    for text in _ELEMENTS.findall(header or ""):
        name, *rest = [part.strip() for part in _PARAMETERS.findall(text.lower())] or [""]
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip(): value.strip().strip('"') for key, _, value in pairs}
        weight = parameters.pop("q", "1")
        if name and _WEIGHT.fullmatch(weight):
            yield _Element(name, parameters, float(weight))


def _specificity(offer: _Offer, wanted: _Element) -> int:
    """Return how specific the match is, from 1 for ``*/*`` to 4; 0 if the element does not match."""
    version = wanted.parameters.get("version")
    if version not in (None, offer.version):
        return 0
    if wanted.name == offer.media_type:
        return 3 if version is None else 4
    if wanted.name == f"{offer.media_type.partition('/')[0]}/*":
        return 2
    return 1 if wanted.name == "*/*" else 0
