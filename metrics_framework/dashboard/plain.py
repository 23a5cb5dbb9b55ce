"""What a dashboard is made of: numbers and strings that every reader of JSON takes."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

LARGEST = sys.float_info.max


def number(value: Any) -> int | float | None:
    """Return a number that JSON can hold: what is larger than the largest float becomes that.

    Returns:
        ``None`` for what is no number.
    """
    if value.__class__ is float and -LARGEST <= value <= LARGEST:
        return value  # by far the most frequent
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    try:
        converted = float(value)
    except OverflowError:  # an integer
        converted = math.inf if value > 0 else -math.inf
    except (TypeError, ValueError):
        return None
    if math.isnan(converted):
        return None
    if math.isinf(converted):
        return math.copysign(LARGEST, converted)
    return int(value) if isinstance(value, int) else converted


def text(value: object) -> str:
    """Return a string that can be encoded: a lone surrogate becomes a question mark."""
    return str(value).encode("utf-8", "replace").decode("utf-8")


def labels(tags: object) -> dict[str, str]:
    """Return tags as strings."""
    return {text(key): text(value) for key, value in tags.items()} if isinstance(tags, Mapping) else {}


def mapping(value: object) -> Mapping[str, Any]:
    """Return what a foreign part gave as metadata, or nothing."""
    return value if isinstance(value, Mapping) else {}
