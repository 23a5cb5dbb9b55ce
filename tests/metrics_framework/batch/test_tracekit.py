"""For any records, valid or not, results equal those of tracekit 0.3.1 itself."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metrics_framework import batch as ours
from metrics_framework.batch import BatchMetrics

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venvs" / "peers" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
PEER = Path(__file__).with_name("tracekit_peer.py")

Case = list[list[str]]


def load_replay() -> Any:
    """Return the module that the tracekit process runs too."""
    spec = importlib.util.spec_from_file_location("replay", Path(__file__).with_name("replay.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


REPLAY = load_replay()


class WallClock:
    """A clock with a wall time that the test sets."""

    def __init__(self) -> None:
        self.ns = 0

    def time_ns(self) -> int:
        """Return the time that the test set."""
        return self.ns

    def monotonic_ns(self) -> int:
        """Return a constant, because the test does not use it."""
        return 0


@pytest.fixture(scope="module")
def tracekit() -> Iterator[Callable[[Case], Any]]:
    """Return a function that runs a case in tracekit. Without tracekit, skip; in CI, fail."""
    if not PYTHON.exists():
        missing = f"{PYTHON.relative_to(ROOT)} is missing: `make test` installs it"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    version = [str(PYTHON), "-c", "import sys; print(*sys.version_info[:2])"]
    theirs = subprocess.run(version, capture_output=True, text=True, check=True).stdout.split()
    assert theirs == [str(part) for part in sys.version_info[:2]], "sums of floats differ between versions"
    with subprocess.Popen(
        [str(PYTHON), str(PEER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        stdin, stdout = peer.stdin, peer.stdout

        def ask(case: Case) -> Any:
            stdin.write(json.dumps(case) + "\n")
            return json.loads(stdout.readline())

        yield ask
        stdin.close()


def answers(case: Case, **arguments: Any) -> Any:
    """Return the results of this library, as they are after a round trip through JSON."""
    clock = WallClock()

    def make(batch_id: str) -> BatchMetrics:
        return BatchMetrics(batch_id, clock=clock, **arguments)

    told = REPLAY.replay(ours, make, lambda ns: setattr(clock, "ns", ns), case)
    return json.loads(json.dumps(told))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Disable logging, because thousands of batches finish here."""
    caplog.set_level(logging.CRITICAL)


def literals(*strategies: st.SearchStrategy[Any]) -> st.SearchStrategy[str]:
    """Return expressions for values."""
    return st.one_of(*strategies).map(repr)


STRANGE = st.sampled_from(
    [
        *(
            "nan",
            "inf",
            "-inf",
            "None",
            "True",
            "'text'",
            "b'bytes'",
            "1j",
            "[1]",
            "{'a': (1, 2)}",
            "{(1,): 2}",
        ),
        *("Decimal('0.5')", "Fraction(1, 3)", "Path('a/b')", "10**400", "-1", "1e308", "5e-324", "'\\udcff'"),
    ]
)
DURATIONS = literals(
    st.floats(0, 10), st.floats(0, 1e-3), st.integers(0, 100), st.sampled_from([0.0, 0.0005, 0.5, 1.5])
)
COUNTS = literals(st.integers(0, 10**7))
TEXTS = literals(
    st.text(max_size=8), st.sampled_from(["a,b", 'q"q', "line\r\nline", "größe", "\x00", "", "=1"])
)
STATUSES = st.sampled_from(["'success'"] * 4 + ["'error'", "'skipped'", "'pending'"])


def either(usual: st.SearchStrategy[str], strange: bool) -> st.SearchStrategy[str]:
    """Return a strategy for usual values and, rarely, invalid ones."""
    return st.one_of(usual, usual, usual, usual, STRANGE) if strange else usual


@st.composite
def steps(draw: st.DrawFn, strange: bool) -> list[str]:
    """Draw one call."""
    method = draw(
        st.sampled_from(["clock", "start", "finish", *["record_file"] * 6, "record_error", "record_skip"])
    )
    if method == "clock":
        moments = st.integers(1_500_000_000 * 10**9, 2_000_000_000 * 10**9)
        return [method, repr(draw(st.one_of(moments, st.integers(0, 10**10)) if strange else moments))]
    if method in ("start", "finish"):
        return [method]

    def value(usual: st.SearchStrategy[str]) -> str:
        return draw(either(usual, strange))

    if method == "record_error":
        return [method, value(TEXTS), value(TEXTS), value(TEXTS), value(DURATIONS)]
    if method == "record_skip":
        return [method, value(TEXTS), value(TEXTS)]
    given_keys = {
        "duration": value(DURATIONS),
        "samples": value(COUNTS),
        "measurements": value(COUNTS),
        "status": value(STATUSES),
        "error_type": value(literals(st.sampled_from(["ValueError", "OSError", "", None]))),
        "error_message": value(TEXTS),
        "memory_peak": value(COUNTS),
    }
    optional = [key for key in given_keys if key != "duration" or strange]
    left_out = draw(st.sets(st.sampled_from(optional)))
    keywords = ", ".join(f"{key!r}: {text}" for key, text in given_keys.items() if key not in left_out)
    return [method, value(TEXTS), f"{{{keywords}}}"]


INFINITE_FAULT = ["AttributeError", "'float' object has no attribute 'numerator'"]
"""The error of tracekit's summary if a duration is infinite, from the module `statistics`."""

VALID = st.lists(steps(strange=False), max_size=30)
ANY = st.lists(steps(strange=True), max_size=12)


@settings(max_examples=80)
@given(case=VALID)
@example(case=[])
@example(case=[["clock", "10**18"], ["start"], ["finish"]])
def test_valid_batches_equal_those_of_tracekit(tracekit: Callable[[Case], Any], case: Case) -> None:
    """Summaries, details, JSON and CSV are equal, to the last byte and digit."""
    mine, theirs = answers(case), tracekit(case)
    _compare_infinite(mine, theirs)
    assert mine == theirs


@settings(max_examples=120)
@given(case=ANY)
def test_invalid_values_raise_the_same_errors(tracekit: Callable[[Case], Any], case: Case) -> None:
    """If tracekit raises, the same call raises an error of the same type and message."""
    mine, theirs = answers(case), tracekit(case)
    for export in (-2, -1):
        if mine[export][0] == theirs[export][0] == "error":
            # Of two values that cannot be written, either may be the first one to fail.
            mine[export] = theirs[export]
    for number, (kind, *answer) in enumerate(theirs):
        if kind == "error" and answer == INFINITE_FAULT:  # this library answers
            mine[number] = theirs[number]
    _compare_infinite(mine, theirs)
    assert mine == theirs


def _compare_infinite(mine: Any, theirs: Any) -> None:
    """Compare the JSON exports if that of tracekit is not JSON: numbers that JSON does not have are null."""
    if mine[-2] != theirs[-2] and mine[-2][0] == theirs[-2][0] == "answer":
        assert any(constant in theirs[-2][1] for constant in ("NaN", "Infinity"))
        assert json.loads(mine[-2][1]) == _parsed(theirs[-2][1])
        mine[-2] = theirs[-2]


def _parsed(exported: str) -> Any:
    return json.loads(exported, parse_constant=lambda _: None)


@settings(max_examples=50)
@given(case=VALID, in_memory=st.integers(0, 5))
def test_rows_on_disk_are_exported_the_same(
    tracekit: Callable[[Case], Any], case: Case, in_memory: int
) -> None:
    """The CSV and the counts of rows on disk equal those of rows in memory."""
    mine, theirs = answers(case, in_memory=in_memory), tracekit(case)
    assert mine[-1] == theirs[-1]
    assert mine[-5] == theirs[-5]
    kind, exported = mine[-2]
    assert (kind, theirs[-2][0]) == ("answer", "answer")
    mine_json, theirs_json = json.loads(exported), _parsed(theirs[-2][1])
    assert mine_json["files"] == theirs_json["files"]
    approximate = {"median_per_file_seconds"}
    for key, value in theirs_json["summary"]["timing"].items():
        if key not in approximate:
            assert mine_json["summary"]["timing"][key] == pytest.approx(value, abs=0.001 + 1e-9)
    del mine_json["summary"]["timing"], theirs_json["summary"]["timing"]
    for key, value in theirs_json["summary"].pop("throughput").items():
        assert mine_json["summary"]["throughput"][key] == pytest.approx(value, rel=1e-9, abs=1)
    del mine_json["summary"]["throughput"]
    assert mine_json["summary"] == theirs_json["summary"]
