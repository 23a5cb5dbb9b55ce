"""What names a series, and which input is refused before it reaches one."""

from __future__ import annotations

import math
from collections.abc import Mapping

from metrics_framework.errors import InvalidInputError

Tags = tuple[tuple[str, str], ...]
"""A series' tags as a key: pairs sorted by tag name, so that the order they were given in is no matter."""


def tag_key(tags: Mapping[str, object] | None) -> Tags:
    """Turn tags into a key.

    Args:
        tags: Tag to value; a value that is no string is converted by `str`.

    Raises:
        InvalidInputError: If ``tags`` is no mapping, or a tag's name is not a non-empty string.
    """
    if not tags:
        return ()
    if not isinstance(tags, Mapping):
        raise InvalidInputError(f"tags={tags!r} is not a mapping of tag to value, like {{'branch': 'main'}}")
    for key in tags:
        if not isinstance(key, str) or not key:
            raise InvalidInputError(f"tag name {key!r} is not a non-empty string")
    return tuple(sorted((key, str(value)) for key, value in tags.items()))


def check_name(name: object, what: str = "metric name") -> str:
    """Return ``name`` if it is a non-empty string.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"{what} {name!r} is not a non-empty string")
    return name


def check_number(name: str, value: object, *, signed: bool) -> int | float:
    """Return ``value`` if it is a finite number, and not negative unless ``signed``.

    Integers of any size are numbers as long as a float can hold their magnitude.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidInputError(f"{name!r} cannot record {value!r}: pass an int or a float")
    try:
        finite = math.isfinite(value)
    except OverflowError:
        finite = False
    if not finite:
        raise InvalidInputError(f"{name!r} cannot record {value!r}: pass a finite number")
    if value < 0 and not signed:
        raise InvalidInputError(f"{name!r} cannot record {value!r}: it only grows; pass zero or more")
    return value
