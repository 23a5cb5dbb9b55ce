"""The checks of arguments: names, tags, numbers, durations, time-outs, counts, ports and paths.

Each error states the value, what is wrong with it, and what to pass instead.
"""

from __future__ import annotations

import ipaddress
import math
import operator
import re
import threading
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, SupportsFloat, TypeGuard

from metrics_framework.errors import InvalidInputError
from metrics_framework.values import MetricUnit, to_milliseconds

if TYPE_CHECKING:
    from typing_extensions import TypeIs

OBJECT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    ReferenceError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What a method of a foreign object, such as ``__str__``, raises if the object is at fault.

Not `Exception`: a signal handler or a worker's time limit may raise in the middle of the method, and that
must reach the application. Only the class tells the two apart. Time limits are direct subclasses of
`Exception` or `BaseException` (Celery, RQ) or an `OSError` (`TimeoutError`), so these pass through. The price
is that such an error of the object itself passes through as well.
"""

MAX_QUOTED_CHARACTERS = 1_000
"""How many characters of a value an error quotes."""


def plain_metadata(metadata: object) -> dict[str, Any]:
    """Return a copy of metadata; an empty dict for ``None``.

    Raises:
        InvalidInputError: If it is not a mapping.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping):
        raise InvalidInputError(f"metadata={safe_repr(metadata)} is not a mapping, like {{'user': 'ann'}}")
    return dict(metadata)


def plain_tags(tags: object) -> dict[str, str]:
    """Return tags as a dict of strings, sorted by tag name: the same for the same series in any order.

    Args:
        tags: Tag to value, or ``None`` for no tags. A value that is not a string is converted by `str`; one
            of a subclass of `str`, such as an enumeration's member, counts as the characters of the string.

    Raises:
        InvalidInputError: If ``tags`` is not a mapping, a tag's name is not a non-empty string, or a value
            cannot be converted.
    """
    if tags is None:
        return {}
    if not isinstance(tags, Mapping):
        raise InvalidInputError(
            f"tags={safe_repr(tags)} is not a mapping of tag to value, like {{'branch': 'main'}}"
        )
    plain: dict[str, str] = {}
    for key, value in tags.items():
        if not isinstance(key, str) or not key:
            raise InvalidInputError(f"tag name {safe_repr(key)} is not a non-empty string")
        try:
            # Not str(): an enumeration's member is equal to its value, and equal tags are the same series.
            plain[str.__str__(key)] = str.__str__(value) if isinstance(value, str) else str(value)
        except OBJECT_ERRORS as error:
            raise InvalidInputError(
                f"the value of tag {safe_repr(key)} cannot be converted to a string: {safe_repr(error)}"
            ) from error
    return dict(sorted(plain.items()))


def check_name(name: object, what: str = "metric name") -> str:
    """Return ``name`` if it is a non-empty string.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not isinstance(name, str) or not name:
        raise InvalidInputError(f"{what} {safe_repr(name)} is not a non-empty string")
    return str.__str__(name)


def plain_number(name: str, value: object, *, signed: bool, boolean: bool = False) -> int | float:
    """Return ``value`` as a finite ``int`` or ``float``, not negative unless ``signed``.

    Integers of any size are numbers as long as a float can hold their magnitude. Objects that behave like
    numbers (numpy's, `decimal.Decimal`, `fractions.Fraction`) are converted.

    Args:
        name: The metric's name, for the error.
        value: The value.
        signed: Whether it may be negative.
        boolean: Whether ``True`` and ``False`` are the numbers 1 and 0.

    Raises:
        InvalidInputError: If it is anything else.
    """
    number = int(value) if boolean and isinstance(value, bool) else _converted(value)
    if number is None:
        raise InvalidInputError(f"{name!r} cannot record {safe_repr(value)}: pass an int or a float")
    try:
        finite = math.isfinite(number)
    except OverflowError:
        finite = False
    if not finite:
        raise InvalidInputError(f"{name!r} cannot record {safe_repr(value)}: pass a finite number")
    if number < 0 and not signed:
        raise InvalidInputError(
            f"{name!r} cannot record {safe_repr(value)}: a counter or a duration cannot be negative;"
            " pass zero or more"
        )
    return number


def milliseconds(name: str, duration: int | float, unit: MetricUnit) -> float:
    """Convert a finite duration to milliseconds.

    Raises:
        InvalidInputError: If the unit does not measure time, or the result is beyond the largest float.
    """
    result = to_milliseconds(duration, unit)
    if not math.isfinite(result):
        raise InvalidInputError(f"{name!r} cannot record {duration!r} {unit.value}: pass a shorter duration")
    return result


def check_seconds(what: str, seconds: object) -> float:
    """Return ``seconds`` if it is a positive number that a thread can wait, at most `threading.TIMEOUT_MAX`.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not _is_number(seconds) or not 0 < seconds <= threading.TIMEOUT_MAX:  # false for NaN
        raise InvalidInputError(
            f"{what}={safe_repr(seconds)} is not a positive number of seconds: pass a number above 0, up to"
            f" {threading.TIMEOUT_MAX:.0f}"
        )
    return seconds


def check_duration(what: str, duration: object) -> timedelta:
    """Return ``duration`` if it is a positive `timedelta`.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not isinstance(duration, timedelta) or duration <= timedelta(0):
        example = f"seconds={safe_repr(duration)}" if _is_number(duration) and duration > 0 else "minutes=5"
        raise InvalidInputError(
            f"{what}={safe_repr(duration)} is not a positive duration: pass a timedelta such as"
            f" timedelta({example})"
        )
    return duration


def check_count(what: str, count: object, least: int = 1) -> int:
    """Return ``count`` if it is an integer of ``least`` or more.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < least:
        raise InvalidInputError(
            f"{what}={safe_repr(count)} is not a whole number of {least} or more: pass an int"
        )
    return count


def check_range(what: str, number: object, most: float) -> float:
    """Return ``number`` if it is a number from 0 to ``most``.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not _is_number(number) or not 0 <= number <= most:
        raise InvalidInputError(
            f"{what}={safe_repr(number)} is not a number from 0 to {most}: pass an int or a float"
        )
    return number


def check_positive(what: str, number: object) -> float:
    """Return ``number`` if it is a number above 0; infinity is one.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not _is_number(number) or not number > 0:
        raise InvalidInputError(
            f"{what}={safe_repr(number)} is not a positive number: pass an int or a float above 0"
        )
    return number


def check_choice(what: str, value: object, choices: Iterable[str]) -> None:
    """Check that ``value`` is one of a few strings.

    Raises:
        InvalidInputError: If it is not.
    """
    *known, last = choices
    if value not in (*known, last):
        allowed = f"{', '.join(map(repr, known))} or {last!r}"
        raise InvalidInputError(f"{what}={safe_repr(value)} is unknown: pass {allowed}")


def check_port(what: str, port: object) -> int:
    """Return ``port`` if it is an integer from 0 to 65535.

    Raises:
        InvalidInputError: If it is anything else.
    """
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65_535:
        raise InvalidInputError(f"{what}={safe_repr(port)} is not a port: pass an int from 0 to 65535")
    return port


def check_url_path(what: str, path: object) -> str:
    """Return ``path`` if it is a path that a URL can have: it begins with a slash, and may end with one.

    Raises:
        InvalidInputError: If it is anything else, has control characters, or a segment that is empty, ``.``
            or ``..``, which clients and proxies remove.
    """
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidInputError(
            f"{what}={safe_repr(path)} does not begin with a slash: pass a path such as '/metrics'"
        )
    segments = path.removesuffix("/").split("/")[1:]
    if any(each in ("", ".", "..") for each in segments) or re.search(r"[\x00-\x1f\x7f-\x9f]", path):
        raise InvalidInputError(
            f"{what}={safe_repr(path)} has an empty segment, '.', '..' or a control character: pass a path"
            " such as '/metrics'"
        )
    return path


def is_loopback(host: str) -> bool:
    """Return whether a host is ``localhost`` or a loopback address. Any other name may have any address.

    Example:
        >>> is_loopback("LOCALHOST"), is_loopback("127.0.0.2"), is_loopback("localhost.example")
        (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def safe_repr(value: object) -> str:
    """Return ``repr(value)`` for a message, or the name of its type if `repr` raises.

    A URL in it becomes ``***``, because any part of it may be a secret, and a long text is cut, except in an
    exception, whose message is already suitable.
    """
    try:
        text = repr(value)
    except OBJECT_ERRORS:  # also an integer of thousands of digits
        return f"<{type(value).__name__}>"
    if isinstance(value, BaseException):
        return text
    if isinstance(value, str) and _is_like_url(text):
        return "'***'"
    if "://" in text or "@" in text:
        words = re.split(r"([\s'\",]+)", text)
        text = "".join("***" if _is_like_url(word) else word for word in words)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…"


def _is_like_url(text: str) -> bool:
    return "://" in text or (":" in text and "@" in text)


def word_repr(value: object) -> str:
    """Return `safe_repr` of a name for a message, or ``***`` if it is another text, which may be a URL."""
    is_text = isinstance(value, str) and not re.fullmatch(r"[\w. -]{,40}", value)
    return "***" if is_text else safe_repr(value)


def is_finite_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a finite number. Booleans and integers beyond the largest float are not."""
    try:
        return _is_number(value) and math.isfinite(value)
    except OverflowError:
        return False


def _is_number(value: object) -> TypeIs[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _converted(value: object) -> int | float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        pass
    if isinstance(value, SupportsFloat):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return None
    return None
