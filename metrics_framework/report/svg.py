"""Vega-Lite specifications as static SVG, drawn by vl-convert (extra ``compare``) without a browser."""

from __future__ import annotations

import re

from metrics_framework.errors import MissingExtraError
from metrics_framework.report.charts import Spec

VEGA_LITE_VERSION = "5.17"
"""The version of Vega-Lite, which every supported version of vl-convert contains."""

_SIZE = re.compile(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"[^>]*>')
_TAG = re.compile(r"<[^>]*>")
_FRAME = re.compile(r'<path class="(?:background|foreground)"[^>]*/>')
_ATTRIBUTE = re.compile(
    r' (?:role|aria-[a-z]+|class|pointer-events|font-family)="[^"]*"| (?:opacity|stroke-width)="1"'
)
_DIGITS = re.compile(r"(\.\d\d)\d+")


def draw(spec: Spec) -> str:
    """Return a chart as an SVG element for a page, which describes it and scales it.

    Args:
        spec: A specification of `metrics_framework.report.charts`, with its data.

    Raises:
        MissingExtraError: If vl-convert is not installed.
    """
    try:
        import vl_convert
    except ModuleNotFoundError as error:
        raise MissingExtraError("drawing charts", "compare") from error
    # Without allowed URLs, a specification cannot load anything.
    drawn: str = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE_VERSION, allowed_base_urls=[])
    return _compact(drawn)


def _compact(drawn: str) -> str:
    """Return the SVG, half as long: the page describes it, and has the font."""
    root = _SIZE.match(drawn)
    if root is None:
        raise AssertionError(f"not an SVG element: {drawn[:80]}")
    width, height = (round(float(size)) for size in root.groups())
    body = _TAG.sub(_compact_tag, _FRAME.sub("", drawn[root.end() :]))
    return f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" aria-hidden="true">{body}'


def _compact_tag(tag: re.Match[str]) -> str:
    return _DIGITS.sub(r"\1", _ATTRIBUTE.sub("", tag[0]))
