"""The error tree equals its drawing, and errors can be pickled."""

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
    """Parse the drawing in the module's docstring: the name of each class and of its bases."""
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
    """Return an error of a class with a message."""
    if issubclass(kind, SnapshotError):
        return kind(["metrics.throughput: is negative", "metrics.memory_mb: is NaN"])
    return MissingExtraError("the web page", "web") if kind is MissingExtraError else kind("what happened")


def test_the_drawing_is_the_class_hierarchy():
    """Every class of the module is in the drawing, below its actual bases."""
    assert drawn() == {kind.__name__: tuple(base.__name__ for base in kind.__bases__) for kind in ALL}
    assert len(ALL) > 10


@pytest.mark.parametrize("kind", ALL)
def test_one_root_catches_everything(kind):
    """`except MetricsError` catches every error of the library."""
    with pytest.raises(MetricsError):
        raise make(kind)


@pytest.mark.parametrize(
    ("kind", "builtin"), [(name, bases[1]) for name, bases in drawn().items() if len(bases) == 2]
)
def test_code_that_knows_only_builtins_catches_them_too(kind, builtin):
    """Each branch is also the expected builtin exception, for code that does not import the library."""
    with pytest.raises(getattr(builtins, builtin)):
        raise make(getattr(errors, kind))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("travel", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_errors_can_be_pickled(kind, travel):
    """An error of a worker process has the same type and message in its parent."""
    error = make(kind)
    arrived = travel(error)
    assert type(arrived) is kind
    assert str(arrived) == str(error)
    assert str(arrived)


@pytest.mark.parametrize("kind", [SnapshotError, SchemaVersionError])
def test_a_snapshot_error_keeps_every_violation(kind):
    """Each violation is an item, also after pickling, and a line of the message."""
    error = pickle.loads(pickle.dumps(kind(["a: is missing", "b: is negative"])))
    assert error.violations == ("a: is missing", "b: is negative")
    assert str(error) == "a: is missing\nb: is negative"


def test_a_missing_extra_names_the_command_that_installs_it():
    """The command can be pasted into a shell."""
    assert "pip install 'metrics-framework[web]'" in str(MissingExtraError("the web page", "web"))
    without_extra = pickle.loads(pickle.dumps(MissingExtraError("the client", package="httpx")))
    assert str(without_extra) == "the client needs an optional dependency: pip install httpx"


@pytest.mark.slow
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
    """The message is not quoted, unlike that of a `KeyError`."""
    assert str(UnknownMetricError("no metric 'x'")) == "no metric 'x'"


def test_nearest_suggests_similar_names():
    """Only names that are similar to a misspelled one are suggested."""
    assert nearest("http.request", ["http.requests", "disk.free"]) == " Did you mean 'http.requests'?"


def test_nearest_lists_known_names_if_none_is_similar():
    """The first ten known names are listed in order."""
    assert nearest("zzz", ["b", "a"]) == " Known: 'a', 'b'."
    many = nearest("zzz", [f"name{number:02}" for number in range(11)])
    assert "'name09', …" in many
    assert "name10" not in many


def test_nearest_states_that_no_name_exists():
    """Without known names the message says so and suggests none."""
    assert nearest("a", []) == " There are none yet."


def test_a_branch_does_not_catch_its_neighbours():
    """An error about an invalid value is not an error about an unknown name."""
    assert not issubclass(ConfigurationError, LookupError)
    assert not issubclass(UnknownMetricError, ValueError)
