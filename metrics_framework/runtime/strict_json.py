r"""Strict JSON (RFC 8259) of any value.

JSON has no NaN and no infinity, its keys are strings, and strict parsers reject a lone surrogate. A value
that JSON cannot represent is written as follows:

- ``null`` for NaN, infinities, integers that Python refuses to print, and data that contains itself or is
  nested too deeply;
- its escape, such as ``\ud800``, as plain text for a lone surrogate;
- a number for an object that converts to one, such as a ``Decimal``, and `str` for any other object and key.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

MAX_DEPTH = 100
"""How deeply data may be nested. Deeper data is ``null``, because parsers limit the depth too."""


_CONSTANTS = {None: "null", True: "true", False: "false"}


def json_encoder(
    *, indent: int | None = None, separators: tuple[str, str] | None = None, sort_keys: bool = False
) -> Callable[[Any], str]:
    """Return a function that encodes a value as JSON, in ASCII, and never raises for a value.

    Args:
        indent: The spaces of each level; one line by default.
        separators: Between items, and between a key and its value, as in `json.dumps`.
        sort_keys: Whether to sort keys.
    """
    encode = json.JSONEncoder(
        indent=indent, separators=separators, sort_keys=sort_keys, allow_nan=False
    ).encode

    def encode_any(value: Any) -> str:
        try:
            text = encode(value)
        except (TypeError, ValueError, RecursionError):
            return encode(to_json_data(value))
        # Surrogates are escaped, also in pairs, which are valid.
        return encode(to_json_data(value)) if "\\ud" in text else text

    return encode_any


to_json_text = json_encoder()
"""Encode a value as JSON in one line."""

to_indented_json = json_encoder(indent=2)
"""Encode a value as JSON over several lines."""


def to_finite(value: Any) -> Any:
    """Return a value with ``None`` in place of NaN and infinities in it, and otherwise unchanged.

    For formats that keep everything else as the json module writes it.
    """
    if isinstance(value, dict):
        return {_to_finite_key(key): to_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_finite_key(key: Any) -> Any:
    if not isinstance(key, float) or math.isfinite(key):
        return key
    return "NaN" if key != key else "Infinity" if key > 0 else "-Infinity"  # as the json module writes it


def to_json_data(value: Any) -> Any:
    """Return a value as dicts, lists, strings, finite numbers, booleans and ``None``."""
    return _to_data(value, ())


def _to_data(value: Any, parents: tuple[int, ...]) -> Any:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return _without_lone_surrogates(value)
    if isinstance(value, Mapping | list | tuple):
        if id(value) in parents or len(parents) >= MAX_DEPTH:
            return None
        parents = (*parents, id(value))
        if isinstance(value, Mapping):
            return {_to_key(key): _to_data(item, parents) for key, item in value.items()}
        return [_to_data(item, parents) for item in value]
    number = _to_number(value)
    return _to_text(value) if number is NotImplemented else number


def _to_number(value: Any) -> Any:
    """Return a finite number, ``None`` if it is not finite, or `NotImplemented` if it is not a number."""
    try:
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else None
        if hasattr(type(value), "__index__"):
            number = operator.index(value)
            str(number)  # raises for thousands of digits
            return int(number)
        if hasattr(type(value), "__float__"):
            return _to_number(float(value))
    except Exception:  # noqa: BLE001 - an array has these methods too, and any object may raise anything
        return None if isinstance(value, int | float) else NotImplemented
    return NotImplemented


def _to_key(key: Any) -> str:
    if isinstance(key, str):
        return _without_lone_surrogates(key)
    return _CONSTANTS[key] if key is None or isinstance(key, bool) else _to_text(_to_finite_key(key))


def _to_text(value: Any) -> str:
    try:
        return _without_lone_surrogates(str(value))
    except Exception:  # noqa: BLE001 - `__str__` may raise anything
        return f"<{type(value).__name__}>"


def _without_lone_surrogates(text: str) -> str:
    if text.isascii():
        return text
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")  # joins pairs
    return joined.encode("utf-8", "backslashreplace").decode("utf-8")
