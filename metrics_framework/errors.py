"""All errors that the library raises.

The tree is organized by how a caller can respond::

    MetricsError                          catches all of them
    ├── InvalidInputError   (ValueError)  a value is invalid: pass another value
    │   ├── MetricTypeError               the name is already a metric of another type
    │   ├── ConfigurationError            a configuration key or value is wrong
    │   ├── DistributionsError            a file is not a valid sidecar of a snapshot
    │   └── SnapshotError                 a document is not a valid v1 snapshot
    │       └── SchemaVersionError        its schema version is not the integer 1
    ├── UnknownNameError    (LookupError) the name does not exist: use another name
    │   ├── UnknownMetricError            no metric or operation has the name
    │   ├── UnknownTimerError             no running timer has the id
    │   └── UnknownAdapterError           no adapter has the name
    ├── ClosedError         (RuntimeError) the object is already shut down
    ├── OutputError         (OSError)     a disk or a server failed: try again
    │   └── RefusedError                  the server rejects this data: do not retry
    └── MissingExtraError   (ImportError) an optional dependency is not installed

Adapters translate the errors of the libraries that they use into these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_MISSPELLED = 200
"""The length up to which a name is compared with similar ones."""


class MetricsError(Exception):
    """The root of the tree."""


class InvalidInputError(MetricsError, ValueError):
    """An argument is invalid. The message quotes the value and names a valid one."""


class MetricTypeError(InvalidInputError):
    """A name was recorded as one type of metric and is now used as another."""


class ConfigurationError(InvalidInputError):
    """A configuration key is unknown, or its value is not allowed."""


class DistributionsError(InvalidInputError):
    """A file is not a valid sidecar, or belongs to another snapshot."""


class SnapshotError(InvalidInputError):
    """A document or a set of values is not a valid v1 snapshot.

    Attributes:
        violations: Each violation as ``"path: fault"``, in the order of the document.
    """

    def __init__(self, violations: Sequence[str]) -> None:
        """Store all violations; the message has one line for each."""
        self.violations = tuple(violations)
        super().__init__("\n".join(self.violations))

    def __reduce__(self) -> tuple[type[SnapshotError], tuple[Sequence[str]]]:
        """Pickle the error with its violations."""
        return (type(self), (self.violations,))


class SchemaVersionError(SnapshotError):
    """The document's ``schema_version`` is not the integer 1."""


class UnknownNameError(MetricsError, LookupError):
    """A name does not exist. The message lists similar names."""


class UnknownMetricError(UnknownNameError):
    """No metric or operation was recorded under the name."""


class UnknownTimerError(UnknownNameError):
    """No running timer has the id: it was never started, or is already stopped."""


class UnknownAdapterError(UnknownNameError):
    """No installed adapter has the name."""


class ClosedError(MetricsError, RuntimeError):
    """The object was shut down before this call."""


class OutputError(MetricsError, OSError):
    """A disk or a server failed. The data still exists and can be written again."""


class RefusedError(OutputError):
    """A server rejected the data, and would reject it again."""


class MissingExtraError(MetricsError, ImportError):
    """An optional dependency is not installed. The message contains the command that installs it."""

    def __init__(self, feature: str, extra: str = "", package: str = "") -> None:
        """Name the ``extra`` that ``feature`` needs, or the ``package`` if no extra has it."""
        self.feature, self.extra, self.package = feature, extra, package
        requirement = f"'metrics-framework[{extra}]'" if extra else package
        super().__init__(f"{feature} needs an optional dependency: pip install {requirement}")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        """Pickle the error."""
        return (type(self), (self.feature, self.extra, self.package))


def reason_of(error: Exception) -> str:
    """Return why a call of the system failed, without the number and the path that an `OSError` adds."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a suggestion for a name that does not exist, to append to an error message.

    Args:
        name: The unknown name.
        known: All known names.

    Returns:
        A sentence that begins with a space.
    """
    names = sorted(known)
    if not names:
        return " There are none yet."
    from difflib import get_close_matches  # slow to import

    # The time is quadratic in the length of the name.
    close = get_close_matches(name, names, n=3, cutoff=0.5) if len(name) <= MAX_MISSPELLED else []
    if close:
        return f" Did you mean {' or '.join(map(repr, close))}?"
    listed = ", ".join(map(repr, names[:10]))
    return f" Known: {listed}{', …' if len(names) > 10 else ''}."
