"""Runs a case on a `BatchMetrics` of this library or of tracekit, and returns all results.

A case is a list of steps, each ``[method, *arguments]`` with Python expressions as arguments; ``clock`` sets
the time. This module also runs in tracekit's interpreter, which does not have this library.
"""

from __future__ import annotations

import decimal
import fractions
import pathlib
import tempfile
from collections.abc import Callable
from functools import partial
from typing import Any

NAMES = {
    "Decimal": decimal.Decimal,
    "Fraction": fractions.Fraction,
    "Path": pathlib.PurePosixPath,
    "nan": float("nan"),
    "inf": float("inf"),
}


def replay(module: Any, make: Callable[[str], Any], set_clock: Callable[[int], None], case: Any) -> list[Any]:
    """Return the result of each step and of each query at the end."""
    batch = make("the batch")
    told = []
    for method, *arguments in case:
        values = [eval(argument, dict(NAMES)) for argument in arguments]
        if method == "clock":
            set_clock(values[0])
            continue
        keywords = values.pop() if values and isinstance(values[-1], dict) else {}
        told.append(tell(partial(getattr(batch, method), *values, **keywords)))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "out")
        told += [
            tell(lambda: repr(batch.summary())),
            tell(lambda: repr(batch.summary().to_dict())),
            tell(lambda: repr(batch.get_file_metrics())),
            tell(lambda: repr(module.get_batch_stats("the batch", batch))),
            tell(lambda: repr(module.get_batch_stats("another", batch))),
            tell(lambda: exported(batch.export_json, path)),
            tell(lambda: exported(batch.export_csv, path)),
        ]
    return told


def exported(export: Callable[[Any], None], path: pathlib.Path) -> str | None:
    """Return the bytes of an export as text, or ``None`` if it writes no file."""
    try:
        export(path)
        return path.read_bytes().decode("latin-1") if path.exists() else None
    finally:
        path.unlink(missing_ok=True)


def tell(ask: Callable[[], Any]) -> list[Any]:
    """Return the result, or the builtin type and the message of the error."""
    try:
        return ["answer", ask()]
    except Exception as error:  # noqa: BLE001 - whatever it raises is the answer
        own = next(kind for kind in type(error).__mro__ if kind.__module__ == "builtins")
        return ["error", own.__name__, str(error)]
