"""Content negotiation: the format, escaping and compression that the headers of a client ask for.

The rules are those of RFC 9110 and of Prometheus' "Scrape protocol content negotiation". Malformed elements
are ignored, so every header has a result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from metrics_framework.exposition.names import Escaping
from metrics_framework.exposition.text import Format

_ELEMENTS = re.compile(r'(?:[^,"]|"[^"]*"?)+')
_PARAMETERS = re.compile(r'(?:[^;"]|"[^"]*"?)+')
_WEIGHT = re.compile(r"(?:0(?:\.[0-9]*)?|1(?:\.0*)?)")


_ESCAPINGS = {**{one.value: one for one in Escaping}, "allow-utf8": Escaping.ALLOW_UTF_8}
"""Schemes by the parameter ``escaping``; Prometheus' documentation had the second spelling for a time."""


class Representation(NamedTuple):
    """How the metrics are sent.

    Attributes:
        format: The format.
        escaping: How names outside the classic character set are written.
        content_type: The value of the ``Content-Type`` header.
    """

    format: Format
    escaping: Escaping
    content_type: str


class _Offer(NamedTuple):
    format: Format
    media_type: str
    version: str
    is_default: bool
    """Whether the offer also matches elements without a version."""

    def representation(self, element: _Element) -> Representation:
        """Return the answer to an element of an ``Accept`` header that this offer matches."""
        base = f"{self.media_type}; version={self.version}; charset=utf-8"
        if self.version == "0.0.4" or not element.parameters.keys() & {"version", "escaping"}:
            return Representation(self.format, Escaping.UNDERSCORES, base)
        escaping = _ESCAPINGS.get(element.parameters.get("escaping", ""), Escaping.UNDERSCORES)
        return Representation(self.format, escaping, f"{base}; escaping={escaping.value}")


# If a client accepts several equally, it gets the first.
_OFFERS = (
    _Offer(Format.TEXT, "text/plain", "0.0.4", is_default=True),
    _Offer(Format.TEXT, "text/plain", "1.0.0", is_default=False),
    _Offer(Format.OPENMETRICS, "application/openmetrics-text", "1.0.0", is_default=True),
)


def choose_format(accept: str | None) -> Representation:
    """Return the representation that matches an ``Accept`` header best.

    The highest weight wins, then the most specific element. The text format 0.0.4 is the default, also if no
    element matches. Two parameters matter. ``version``: an element without one matches the default version.
    ``escaping``: a scheme of `Escaping`, for versions 1.0.0, by default ``underscores``; it is echoed in the
    content type.

    Args:
        accept: The header; ``None`` if there is none.

    Example:
        >>> choose_format("text/plain;version=1.0.0;escaping=allow-utf-8,text/plain;version=0.0.4;q=0.5")[2]
        'text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8'
    """
    best, chosen = (0.0, 0), Representation(Format.TEXT, Escaping.UNDERSCORES, Format.TEXT.content_type)
    wanted = list(_elements(accept))
    for offer in _OFFERS:
        # The most specific element that matches an offer decides its weight.
        specificity, weight, element = max(
            ((found, one.weight, one) for one in wanted if (found := _specificity(offer, one))),
            key=lambda match: match[:2],
            default=(0, 0.0, None),
        )
        if element is not None and weight > 0 and (weight, specificity) > best:
            best, chosen = (weight, specificity), offer.representation(element)
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
    if version != offer.version and not (version is None and offer.is_default):
        return 0
    if wanted.name == offer.media_type:
        return 3 if version is None else 4
    if wanted.name == f"{offer.media_type.partition('/')[0]}/*":
        return 2
    return 1 if wanted.name == "*/*" else 0
