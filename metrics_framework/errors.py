"""Every error that the library raises on purpose.

The tree is drawn by what a caller can do about an error::

    MetricsError                          catch this to catch them all
    ├── InvalidInputError   (ValueError)  a value breaks a rule: pass another value
    │   ├── MetricTypeError               the name is already a metric of another type
    │   ├── ConfigurationError            a configuration key or value is wrong
    │   ├── DistributionsError            a file is not that of a snapshot's distributions
    │   └── SnapshotError                 a document is not a valid v1 snapshot
    │       └── SchemaVersionError        its schema version is not the integer 1
    ├── UnknownNameError    (LookupError) nothing goes by that name: ask for another one
    │   ├── UnknownMetricError            no metric or operation was recorded under it
    │   ├── UnknownTimerError             no running timer has that id
    │   └── UnknownAdapterError           no adapter provides it
    ├── ClosedError         (RuntimeError) the call came too late: the object was shut down
    ├── OutputError         (OSError)     a disk or a server refused: try again, or elsewhere
    │   └── RefusedError                  a server will not have what was sent: send something else
    └── MissingExtraError   (ImportError) an optional dependency is not installed

Adapters translate the errors of the libraries that they stand on into these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


class MetricsError(Exception):
    """The root of the tree."""


class InvalidInputError(MetricsError, ValueError):
    """A value that was passed in breaks a rule; the message quotes it and says what is allowed."""


class MetricTypeError(InvalidInputError):
    """A name was recorded as one type of metric and is now used as another."""


class ConfigurationError(InvalidInputError):
    """A configuration key is unknown, or its value is not allowed."""


class DistributionsError(InvalidInputError):
    """A file is not a valid sidecar, or that of another snapshot."""


class SnapshotError(InvalidInputError):
    """A document or a set of values is not a valid v1 snapshot.

    Attributes:
        violations: Each rule that is broken, as ``"path: what is wrong"``, in the document's order.
    """

    def __init__(self, violations: Sequence[str]) -> None:
        """Keep every violation; the message is one line for each."""
        self.violations = tuple(violations)
        super().__init__("\n".join(self.violations))

    def __reduce__(self) -> tuple[type[SnapshotError], tuple[Sequence[str]]]:
        """Travel between processes with the violations intact."""
        return (type(self), (self.violations,))


class SchemaVersionError(SnapshotError):
    """The document's ``schema_version`` is not the integer 1."""


class UnknownNameError(MetricsError, LookupError):
    """Nothing goes by the name that was asked for; the message lists the nearest known names."""


class UnknownMetricError(UnknownNameError):
    """No metric or operation was recorded under that name."""


class UnknownTimerError(UnknownNameError):
    """No running timer has that id: it was never started, or was stopped already."""


class UnknownAdapterError(UnknownNameError):
    """No installed adapter provides what was asked for."""


class ClosedError(MetricsError, RuntimeError):
    """The object was shut down before this call."""


class OutputError(MetricsError, OSError):
    """Something outside the process (a disk, a server) refused; what was to be written still exists."""


class RefusedError(OutputError):
    """A server answered that it will not have what was sent: the same again would be refused again."""


class MissingExtraError(MetricsError, ImportError):
    """An optional dependency is not installed; the message is the command that installs it."""

    def __init__(self, feature: str, extra: str) -> None:
        """Say which ``extra`` brings what ``feature`` needs."""
        self.feature, self.extra = feature, extra
        super().__init__(f"{feature} needs an optional dependency: pip install 'metrics-framework[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Travel between processes."""
        return (type(self), (self.feature, self.extra))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error message that names what ``name`` was probably meant to be.

    Args:
        name: What was asked for.
        known: What exists.

    Returns:
        A sentence that begins with a space, ready to be appended.
    """
    names = sorted(known)
    if not names:
        return " There are none yet."
    from difflib import get_close_matches  # only an error needs it

    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f" Did you mean {' or '.join(map(repr, close))}?"
    listed = ", ".join(map(repr, names[:10]))
    return f" Known: {listed}{', …' if len(names) > 10 else ''}."
