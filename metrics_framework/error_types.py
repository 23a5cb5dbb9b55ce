"""Error types, the names under which failures are counted, and the rule that decides what is a failure."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from metrics_framework.errors import InvalidInputError
from metrics_framework.validation import OBJECT_ERRORS, safe_repr

CANCELLED = "cancelled"
"""The error type of a cancellation, on asyncio and trio."""

ErrorClasses = type[BaseException] | Iterable[type[BaseException]]
"""One class of exceptions, or several."""


def error_type_of(error: BaseException) -> str:
    """Return the error type of an exception: the name of its class without the module, or `CANCELLED`.

    The error type of an exception group is that of its members if they share one, else that of the group.
    """
    if not isinstance(error, BaseExceptionGroup):
        return CANCELLED if is_cancelled(error) else class_error_type(type(error))
    return _shared_type(error, _leaves(error))


# A metaclass may override the attribute.
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__


def class_error_type(kind: type[BaseException]) -> str:
    """Return the error type of a class of exceptions: its name, or that of a base if it has an empty name."""
    return _name_of(kind) or next(filter(None, map(_name_of, kind.__mro__)))


def is_cancelled(error: BaseException) -> bool:
    """Return whether an exception is a cancellation of asyncio or trio."""
    if isinstance(error, Exception):
        return False
    for module, name in (("asyncio", "CancelledError"), ("trio", "Cancelled")):
        # A module that is not imported has raised nothing, and importing asyncio is slow.
        kind = getattr(sys.modules.get(module), name, None)
        if kind is not None and isinstance(error, kind):
            return True
    return False


class NotCounted(Enum):
    """The type of `NOT_COUNTED`."""

    NOT_COUNTED = "not counted"


NOT_COUNTED: Final = NotCounted.NOT_COUNTED
"""The outcome of an operation that is neither a success nor a failure, such as a cancelled one."""


class FailureRule:
    """Decides whether an operation that ends with an exception has failed.

    By default these exceptions are not failures: `SystemExit` with the code 0 or ``None`` and `GeneratorExit`
    are successes, and a cancellation is not counted. All others are failures. For an exception group, its
    members decide.

    Args:
        ignore: Exceptions that are successes.
        failures: Exceptions that are failures. They take precedence over those to ignore.
        fallback: The rule for all other exceptions.

    Raises:
        InvalidInputError: If an argument is not a class of exceptions, or several.
    """

    def __init__(
        self, ignore: ErrorClasses = (), failures: ErrorClasses = (), fallback: FailureRule | None = None
    ) -> None:
        self._failures = checked_classes("failures", failures)
        self._ignore = checked_classes("ignore", ignore)
        self._fallback = fallback
        self._is_default: bool = not (
            self._failures or self._ignore or (fallback and not fallback._is_default)
        )

    def outcome(self, error: BaseException) -> str | NotCounted | None:
        """Return the error type of a failure; ``None`` for a success, or `NOT_COUNTED`."""
        try:
            return self._outcome(error)
        except OBJECT_ERRORS:  # a class of exceptions may override isinstance
            return error_type_of(error)

    def _outcome(self, error: BaseException) -> str | NotCounted | None:
        if not isinstance(error, BaseExceptionGroup):
            if self._is_default and isinstance(error, Exception):  # the usual case
                return class_error_type(type(error))
            outcome = self._is_failure(error)
            if outcome is True:
                return error_type_of(error)
            return None if outcome is False else outcome
        outcomes = [(leaf, self._is_failure(leaf)) for leaf in _leaves(error)]
        failed = [leaf for leaf, outcome in outcomes if outcome is True]
        if failed:
            return _shared_type(error, failed)
        return next((outcome for _, outcome in outcomes if outcome is NOT_COUNTED), None)

    def _is_failure(self, error: BaseException) -> bool | NotCounted:
        if isinstance(error, self._failures):
            return True
        if isinstance(error, self._ignore):
            return False
        if self._fallback is not None:
            return self._fallback._is_failure(error)
        if isinstance(error, Exception):
            return True
        if isinstance(error, SystemExit):
            return not (error.code is None or (isinstance(error.code, int) and error.code == 0))
        if isinstance(error, GeneratorExit):
            return False
        return NOT_COUNTED if is_cancelled(error) else True


def checked_classes(what: str, classes: object) -> tuple[type[BaseException], ...]:
    """Return classes of exceptions as a tuple.

    Raises:
        InvalidInputError: If it is not a class of exceptions, or several.
    """
    many = [classes] if isinstance(classes, type | str) or not isinstance(classes, Iterable) else classes
    checked = []
    for each in many:
        if not isinstance(each, type) or not issubclass(each, BaseException):
            raise InvalidInputError(
                f"{what}={safe_repr(classes)}: {safe_repr(each)} is not a class of exceptions: pass classes,"
                f" such as {what}=(LookupError,)"
            )
        checked.append(each)
    return tuple(checked)


def _shared_type(error: BaseException, leaves: Iterable[BaseException]) -> str:
    types = set(map(error_type_of, leaves))
    if len(types) > 1:  # the failure of a sibling has cancelled the others
        types.discard(CANCELLED)
    return types.pop() if len(types) == 1 else class_error_type(type(error))


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for member in error.exceptions for leaf in _leaves(member)]
    return [error]


DEFAULT_RULE = FailureRule()
"""The rule without exceptions to ignore."""
