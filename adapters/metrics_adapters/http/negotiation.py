"""What a client takes: the format and the compression that its headers ask for.

The rules are those of RFC 9110 ("Content Negotiation"). An element that is broken, or whose weight is, counts
for nothing; whatever a header says, there is an answer.
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


# Where a client likes both as much, it is the first one.
_OFFERS = (
    _Offer(Format.TEXT, "text/plain", "0.0.4"),
    _Offer(Format.OPENMETRICS, "application/openmetrics-text", "1.0.0"),
)


def choose_format(accept: str | None) -> Format:
    """Return the format that suits an ``Accept`` header best.

    The highest weight wins, then what is named most exactly; the text format 0.0.4 where nothing decides and
    where nothing suits. Of parameters only ``version`` matters: one that is not offered does not suit, and
    none suits any.

    Args:
        accept: The header; ``None`` where there is none.

    Example:
        >>> choose_format("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5").name
        'OPENMETRICS'
    """
    best, chosen = (0.0, 0), Format.TEXT
    wanted = list(_elements(accept))
    for offer in _OFFERS:
        # Of all that suit an offer the most exact one says its weight.
        exactness, weight = max(
            ((_exactness(offer, one), one.weight) for one in wanted if _exactness(offer, one)),
            default=(0, 0.0),
        )
        if weight > 0 and (weight, exactness) > best:
            best, chosen = (weight, exactness), offer.format
    return chosen


def wants_gzip(accept_encoding: str | None) -> bool:
    """Return whether an ``Accept-Encoding`` header asks for gzip at least as much as for no compression.

    Args:
        accept_encoding: The header; ``None`` where there is none.

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


def _exactness(offer: _Offer, wanted: _Element) -> int:
    """Return how exactly an offer is named, from 1 for ``*/*`` to 4; 0 where it does not suit."""
    version = wanted.parameters.get("version")
    if version not in (None, offer.version):
        return 0
    if wanted.name == offer.media_type:
        return 3 if version is None else 4
    if wanted.name == f"{offer.media_type.partition('/')[0]}/*":
        return 2
    return 1 if wanted.name == "*/*" else 0
