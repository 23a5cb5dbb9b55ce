"""The error tree is the one that is drawn, and its errors are fit to travel."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re
import subprocess
import sys

import pytest

from metrics_framework import errors
from metrics_framework.errors import (
    ConfigurationError,
    MetricsError,
    MissingExtraError,
    SchemaVersionError,
    SnapshotError,
    UnknownMetricError,
    nearest,
)

ALL = [
    value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, BaseException)
]

BRANCH = re.compile(r"^(?P<indent>[ │]*)(?:[├└]── )?(?P<name>\w+Error)\s+(?:\((?P<builtin>\w+)\) )?\s*\S")


def drawn() -> dict[str, tuple[str, ...]]:
    """Read the drawing in the module's docstring: each class' name and the names of its bases."""
    bases: dict[str, tuple[str, ...]] = {}
    above: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        found = BRANCH.match(line.removeprefix("    "))
        if found is None:
            continue
        depth = len(found["indent"]) // 4 + 1 if "── " in line else 0
        above[depth] = found["name"]
        parent = above[depth - 1] if depth else "Exception"
        bases[found["name"]] = (parent, found["builtin"]) if found["builtin"] else (parent,)
    return bases


def make(kind: type[Exception]) -> Exception:
    """Return an error of a kind with some message."""
    if issubclass(kind, SnapshotError):
        return kind(["metrics.throughput: is negative", "metrics.memory_mb: is NaN"])
    return MissingExtraError("the web page", "web") if kind is MissingExtraError else kind("what happened")


def test_the_drawing_is_the_class_hierarchy():
    """Every class of the module is in the drawing, below the bases that it really has."""
    assert drawn() == {kind.__name__: tuple(base.__name__ for base in kind.__bases__) for kind in ALL}
    assert len(ALL) > 10


@pytest.mark.parametrize("kind", ALL)
def test_one_root_catches_everything(kind):
    """Whoever catches `MetricsError` catches every error that the library raises on purpose."""
    with pytest.raises(MetricsError):
        raise make(kind)


@pytest.mark.parametrize(
    ("kind", "builtin"), [(name, bases[1]) for name, bases in drawn().items() if len(bases) == 2]
)
def test_code_that_knows_only_builtins_catches_them_too(kind, builtin):
    """Each branch is also the builtin that one would expect, for code that does not import the library."""
    with pytest.raises(getattr(builtins, builtin)):
        raise make(getattr(errors, kind))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("travel", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_cross_process_borders_whole(kind, travel):
    """An error that a worker process raises arrives as the same type with the same message."""
    error = make(kind)
    arrived = travel(error)
    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert str(arrived)


@pytest.mark.parametrize("kind", [SnapshotError, SchemaVersionError])
def test_a_snapshot_error_keeps_every_violation(kind):
    """Each violation can be read on its own, also after a journey, and is a line of the message."""
    error = pickle.loads(pickle.dumps(kind(["a: is missing", "b: is negative"])))
    assert error.violations == ("a: is missing", "b: is negative")
    assert str(error) == "a: is missing\nb: is negative"


def test_a_missing_extra_says_the_command_that_installs_it():
    """The message of a missing dependency can be pasted into a shell."""
    assert "pip install 'metrics-framework[web]'" in str(MissingExtraError("the web page", "web"))
    without_extra = pickle.loads(pickle.dumps(MissingExtraError("the client", package="httpx")))
    assert str(without_extra) == "the client needs an optional dependency: pip install httpx"


@pytest.mark.parametrize(
    ("package", "code", "requirement"),
    [
        ("pytest", "import metrics_framework.testing.plugin", "'metrics-framework[testing]'"),
        ("pytest", "import metrics_framework.testing.conformance", "'metrics-framework[testing]'"),
        ("fastapi", "import metrics_adapters.instrumentation.fastapi", "fastapi"),
        ("httpx", "import metrics_adapters.instrumentation.httpx", "httpx"),
        ("httpx", "from metrics_adapters.asgi import measured_transport", "httpx"),
    ],
)
def test_an_import_without_its_package_says_what_to_install(package, code, requirement):
    """A module whose dependency is missing names the extra, or the package if no extra has it."""
    command = [sys.executable, "-c", f"import sys; sys.modules[{package!r}] = None; {code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert "MissingExtraError: " in last
    assert last.endswith(f"needs an optional dependency: pip install {requirement}")


def test_a_lookup_error_shows_its_message_as_it_is():
    """An unknown name's message is not quoted, as that of a `KeyError` would be."""
    assert str(UnknownMetricError("no metric 'x'")) == "no metric 'x'"


def test_nearest_names_what_was_probably_meant():
    """A misspelled name is answered with the names that are like it, and no others."""
    assert nearest("http.request", ["http.requests", "disk.free"]) == " Did you mean 'http.requests'?"


def test_nearest_lists_what_exists_where_nothing_is_alike():
    """Without anything alike the first ten known names are listed in order."""
    assert nearest("zzz", ["b", "a"]) == " Known: 'a', 'b'."
    many = nearest("zzz", [f"name{number:02}" for number in range(11)])
    assert "'name09', …" in many
    assert "name10" not in many


def test_nearest_says_when_there_is_nothing():
    """Where nothing exists yet the message says so instead of suggesting nothing."""
    assert nearest("a", []) == " There are none yet."


def test_a_branch_does_not_catch_its_neighbours():
    """An error that another value would repair is not mistaken for a name that does not exist."""
    assert not issubclass(ConfigurationError, LookupError)
    assert not issubclass(UnknownMetricError, ValueError)
