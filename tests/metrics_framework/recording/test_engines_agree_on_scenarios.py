"""Both engines play the same scenarios through the public API, and give the same answers.

The engine is chosen when the library is imported, so each plays the scenarios in a process of its own.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from metrics_framework import recording

ROOT = Path(__file__).parents[3]
SCENARIO = "tests.metrics_framework.recording.scenario"
ENGINES = {"pure": {"METRICS_FRAMEWORK_PURE": "1"}, "compiled": {"METRICS_FRAMEWORK_COMPILED": "1"}}


class Worker:
    """A process that plays scenarios on one engine.

    Args:
        engine: ``pure`` or ``compiled``.
    """

    def __init__(self, engine: str) -> None:
        chosen = {"METRICS_FRAMEWORK_PURE", "METRICS_FRAMEWORK_COMPILED"}
        environment = {name: value for name, value in os.environ.items() if name not in chosen}
        self._process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", SCENARIO],
            cwd=ROOT,
            env={**environment, **ENGINES[engine]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = self.receive()
        assert found == engine

    def send(self, scenario: Any) -> None:
        """Send a scenario to the process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(scenario) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Return the answers."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise AssertionError(f"the process of an engine ended with {self._process.wait()}")
        return json.loads(line)

    def end(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


Play = Callable[[Any], tuple[Any, Any]]


@pytest.fixture(scope="module")
def play() -> Iterator[Play]:
    """Return a function that plays a scenario on both engines; after a crash, both processes restart."""
    try:
        importlib.import_module(f"{recording.__name__}._core")
    except ImportError as error:
        if os.environ.get("METRICS_FRAMEWORK_COMPILED") == "1":
            raise
        pytest.skip(f"the compiled engine is not built (`make build` builds it): {error}")
    workers: list[Worker] = []

    def both(scenario: Any) -> tuple[Any, Any]:
        try:
            if not workers:
                workers.extend(map(Worker, ENGINES))
            for worker in workers:
                worker.send(scenario)
            pure, compiled = [worker.receive() for worker in workers]
        except BaseException:  # otherwise its answer would be read as that of the next scenario
            for worker in workers:
                worker.end()
            workers.clear()
            raise
        return pure, compiled

    yield both
    for worker in workers:
        worker.end()


# -- comparison --------------------------------------------------------------------------------------------

RELATIVE = 1e-9
TINY = RELATIVE * sys.float_info.min
"""Subnormal floats have few digits: for them, this is a rounding error."""

LEVELED = {"avg", "mean", "stddev", "integral"}
"""Numbers that are as exact as the largest values that they are made of."""

SUMMED = {"sum", "rate", "value", "total"}
"""Numbers that are as exact as the sum of magnitudes."""

CLAMPED = {"avg", "mean", "p50", "p90", "p95", "p99", "quantiles"}
"""Numbers that lie between the extremes. They are integers only if they are cut to one that is an integer."""


def difference(
    one: Any, other: Any, near: float = 0.0, path: str = "", is_clamped: bool = False
) -> str | None:
    """Return where two answers differ; ``None`` if they agree.

    Args:
        one: An answer.
        other: The other engine's.
        near: How far two floats may be apart, however small they are.
        path: The place of the answers in larger ones.
        is_clamped: Whether a float and an integer may be the same.
    """
    if is_clamped and {type(one), type(other)} == {int, float}:
        one, other = float(one), float(other)
    if type(one) is not type(other):
        return f"{path}: {one!r} != {other!r}"
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return f"{path}: {sorted(one)} != {sorted(other)}"
        clamped = CLAMPED | {"value"} if {"p95", "metadata"} & one.keys() else CLAMPED
        for key in one:
            # The sum of the counted values is a part of the reading whose summary has their magnitudes.
            error = (
                _error("sum", one["summary"]) if key == "buckets" and "summary" in one else _error(key, one)
            )
            found = difference(
                one[key],
                other[key],
                max(near, error),
                f"{path}.{key}",
                is_clamped or key.rpartition("/")[2] in clamped,
            )
            if found:
                return found
        return None
    if isinstance(one, list):
        if len(one) != len(other):
            return f"{path}: {len(one)} items != {len(other)}: {one!r} != {other!r}"
        parts = (
            difference(mine, theirs, near, f"{path}[{place}]", is_clamped)
            for place, (mine, theirs) in enumerate(zip(one, other, strict=True))
        )
        return next((part for part in parts if part), None)
    if isinstance(one, float):
        is_close = math.isclose(one, other, rel_tol=RELATIVE, abs_tol=near) or (one != one and other != other)
        return None if is_close else f"{path}: {one!r} != {other!r}"
    return None if one == other else f"{path}: {one!r} != {other!r}"


def _error(key: str, summary: dict[str, Any]) -> float:
    """Return the allowed error of a number in a summary, whose true value may be much smaller."""
    # A snapshot has no extremes, but quantiles: of less than a hundred values, the last one is the largest.
    prefix, slash, statistic = key.rpartition("/")
    names = (f"{prefix}{slash}{name}" for name in ("min", "max", "p99"))
    extremes = [summary[name] for name in names if isinstance(summary.get(name), int | float)]
    size = min(max(map(abs, extremes), default=0.0), sys.float_info.max)
    if statistic == "integral":
        return size * RELATIVE * max(summary["last_ns"] - summary["first_ns"], 1)
    if statistic in LEVELED:
        return size * RELATIVE
    return size * summary["count"] * 1e-12 if key in SUMMED and "count" in summary else 0.0


def check(play: Play, scenario: Any) -> None:
    """Check that both engines give the same answers."""
    pure, compiled = play(scenario)
    assert len(pure) == len(compiled)
    smallest = 1e-9 if scenario["numbers"] == "signed" else TINY
    for (call, one), (_, other) in zip(pure, compiled, strict=True):
        near = smallest
        if call.startswith("history") and "intervals" in one:  # earlier totals are later ones less sums
            totals = [interval["summary"].get("total", 0) for interval in one["intervals"]]
            near = max(near, 1e-12 * min(max(totals, default=0), sys.float_info.max))
        found = difference(one, other, near)
        assert found is None, f"{call}: pure {found} compiled"


# -- scenarios ---------------------------------------------------------------------------------------------

SMALL = st.integers(0, 20) | st.sampled_from([0.0, 0.1, 0.25, 1.0, 3.3, 100.0]) | st.floats(1e-3, 1e6)
SIGNED = SMALL | st.integers(-100, 100) | st.floats(-1e6, 1e6).map(lambda value: round(value * 1024) / 1024)
WILD = SMALL | st.sampled_from(
    [
        2**53 - 1, 2**53 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**300,
        1e308, 1.7976931348623157e308, 1e-300, 5e-324, 2.0**40, 2.0**-40, 1e18,
    ]
)  # fmt: skip
WILD_SIGNED = WILD | st.sampled_from(
    [-1, -0.5, -(2**53) - 1, -(2**63), -(2**63) - 1, -(2**64), -1e308, -1e-300]
)
NUMBERS = {"signed": SIGNED, "wild": WILD, "wild and signed": WILD_SIGNED}
ODD = st.sampled_from([True, False, None, "x", math.nan, math.inf, -math.inf, -1]) | st.sampled_from(
    ["decimal", "fraction", "huge", "int enum", "half", "list", "stubborn"]
).map(lambda name: {"special": name})

KINDS = ("counter", "gauge", "histogram", "timer")
NAMES = {
    "counter": st.sampled_from(["c", "c.bytes", "shared"]),
    "gauge": st.sampled_from(["g", "g_percent", "shared"]),
    "histogram": st.sampled_from(["h", "h.bytes", "h_seconds"]),
    "timer": st.sampled_from(["t", "t.ms"]),
    "operation": st.sampled_from(["o", "o.p", "shared"]),
}
ODD_NAMES = st.sampled_from(
    ["", "naïve.ünï", "a-b/c d", "c.bytes_total", "new1", "new2", None, 7, {"special": "text enum"}]
)
TAG_NAMES = st.sampled_from(["a", "b", "route"])
TAG_VALUES = st.sampled_from(["1", "2", "3", "", "__other__", 'ü\n"\\'])
TAGS = st.none() | st.dictionaries(TAG_NAMES, TAG_VALUES, max_size=3).map(
    lambda tags: [list(pair) for pair in tags.items()]
)
ODD_TAGS = st.sampled_from([7, "ab", [[1, "x"]], [["", "x"]], [["a", {"special": "stubborn"}]]]) | st.lists(
    st.tuples(
        TAG_NAMES | st.just({"special": "text enum"}),
        st.sampled_from([1, True, 1.0, None, {"special": "text enum"}, {"special": "int enum"}]),
    ).map(list),
    min_size=1,
    max_size=2,
)
PAUSES = st.sampled_from([0.001, 0.5, 1, 5, 15.9, 16, 17, 59, 300, 301, 4_000, 90_000, 40 * 86_400.0, 3e8])
SECONDS = st.sampled_from([None, 0.5, 1, 16, 60, 300, 3_600, 86_400, 30 * 86_400, 0, -1, 31 * 86_400])
BUCKETS = st.sampled_from([[], [1.0], [0.5, 1, 10], [-1.0, 0.0, 1.0], [1, 1], [math.inf], ["x"]])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "unit": st.sampled_from(["SECONDS", "BYTES", "MILLISECONDS", "PERCENT", None, "parsecs"]),
        "help": st.sampled_from(["", 'a "help"\nof two lines']),
        "merge": st.sampled_from(["latest", "sum", "min", "max", "product"]),
        "buckets": BUCKETS,
        "window_by": st.sampled_from([[], ["a"], ["a", "b"], "a"]),
        "expires": st.sampled_from([True, False, "no"]),
    },
)


def named(kind: str) -> Any:
    """Return a strategy of names, mostly of one kind."""
    return st.one_of(*[NAMES[kind]] * 20, ODD_NAMES, *NAMES.values())


def step(what: str, *arguments: Any) -> Any:
    """Return a strategy of calls of one method of `scenario.ScenarioPlayer`."""
    return st.tuples(st.just(what), *arguments).map(list)


def steps(numbers: Any) -> Any:
    """Return a strategy of the calls of a scenario."""
    values = st.one_of(*[numbers] * 9, ODD)
    tags = st.one_of(*[TAGS] * 9, ODD_TAGS)
    scopes = st.sampled_from([0, 0, 0, 1])
    texts = {kind: named(kind).filter(lambda name: isinstance(name, str)) for kind in NAMES}
    spent = st.sampled_from([0.0, 0.1, 20])
    records = [step("record", scopes, st.just(kind), named(kind), values, tags) for kind in KINDS]
    binds = [step("bind", scopes, st.just(kind), named(kind), tags) for kind in KINDS]
    uses = [step("use", st.integers(0, 5), st.integers(0, 2), values)] * 4
    steps_up_and_down = step(
        "step", scopes, st.sampled_from(["increment", "decrement"]), named("gauge"), tags
    )
    waits = step("advance", PAUSES)
    operations = st.one_of(
        step("start", named("operation")),
        step("stop", st.integers(0, 3), st.booleans()),
        step("time_operation", named("operation"), spent, st.booleans()),
        step("track", named("operation"), st.sampled_from([None, None, "E1", "E2", "E3", "E4", "", 7])),
        step(
            "measure",
            named("operation"),
            tags,
            spent,
            st.sampled_from([None, None, "E1", "E2", "E3", {"special": "text enum"}]),
        ),
    )
    crowds = st.one_of(
        step(
            "burst",
            st.sampled_from(KINDS),
            texts["histogram"],
            TAGS,
            st.integers(0, 99),
            st.sampled_from([3, 127, 128, 129, 600]),
            st.sampled_from([0, 0, 0.2, 7]),
        ),
        step(
            "spread",
            st.sampled_from(KINDS),
            texts["counter"],
            st.sampled_from(["a", "user"]),
            st.integers(0, 9),
            st.sampled_from([2, 9, 30]),
        ),
        step(
            "traffic",
            st.integers(0, 999),
            st.sampled_from([10, 50, 200]),
            st.sampled_from([0, 0.2, 1, 7, 40, 500]),
            st.lists(values, max_size=5),
        ),
    )
    rare = st.one_of(
        *(step("describe", named(kind), CHANGES) for kind in ("histogram", "gauge", "operation")),
        *(step("remove", named(kind), tags) for kind in ("counter", "gauge", "histogram")),
        step("set_default_buckets", BUCKETS | st.just("by_unit")),
        step("subscribe", st.sampled_from([1, 10, 1_000])),
        step("unsubscribe"),
        step("reset"),
        step("set_wall", st.sampled_from(["2026-02-03T04:05:06+00:00", "2025-01-01T00:00:00+00:00"])),
        step("record_unit", named("timer"), values, st.sampled_from(["SECONDS", "BYTES", "x"]), tags),
    )
    reads = st.one_of(
        *(step("summary", named(kind), SECONDS, tags) for kind in KINDS),
        step("timing", named("operation"), SECONDS, tags),
        step("outcomes", named("operation"), SECONDS, tags),
        step("history", named("counter"), SECONDS, st.sampled_from([0, 1, 2, 7, 100])),
        step("by_tag", tags),
        step("expose", st.sampled_from(["TEXT", "OPENMETRICS"])),
        st.sampled_from(["readings", "drain", "counts", "distributions", "collect"]).map(lambda read: [read]),
        step("top", st.sampled_from(["COUNTER", "TIMER", "RATE"]), st.integers(1, 3)),
    )
    each = st.one_of(
        *records * 2,
        *binds,
        *uses,
        steps_up_and_down,
        waits,
        waits,
        operations,
        operations,
        crowds,
        rare,
        reads,
    )
    # Lists of lists are longer than lists, and shrink as well.
    return st.lists(st.lists(each, max_size=20), max_size=20).map(lambda parts: [*chain.from_iterable(parts)])


SETUPS = st.fixed_dictionaries(
    {
        "begin": st.sampled_from([0, 0.5, 1_000.25, 1.7e9]),
        "retention": st.sampled_from([*[30 * 86_400] * 9, 100]),
        "on_error": st.sampled_from(["log", "raise"]),
        "budgets": st.just({})
        | st.fixed_dictionaries(
            {},
            optional={
                "series_per_name": st.sampled_from([1, 5, 20]),
                "series": st.sampled_from([4, 30]),
                "names": st.sampled_from([1, 4]),
                "error_types": st.sampled_from([1, 2]),
            },
        ),
        "expire_after": st.sampled_from([None, None, 10, 300]),
        "tags": st.sampled_from([{}, {}, {"service": "shop", "a": "1"}]),
        "rules": st.lists(
            st.sampled_from(
                [
                    {"names": "h*", "buckets": [1.0, 5.0]},
                    {"names": "c.*", "rename": "renamed.{name}"},
                    {"names": "*", "drop_tags": ["route"]},
                    {"names": "t*", "deny": True},
                    {"names": "g", "max_series": 2},
                ]
            ),
            max_size=2,
        ),
        "default_buckets": st.sampled_from([[], [], [0.01, 1.0], "by_unit"]),
        "is_exposed": st.booleans(),
    }
)
SCENARIOS = st.sampled_from(sorted(NUMBERS)).flatmap(
    lambda numbers: st.fixed_dictionaries(
        {"numbers": st.just(numbers), "setup": SETUPS, "steps": steps(NUMBERS[numbers])}
    )
)


def examine(play: Play, examples: int) -> None:
    """Check a number of scenarios."""

    @settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    )
    @given(SCENARIOS)
    def agree(scenario: Any) -> None:
        check(play, scenario)

    agree()


@pytest.mark.heavy
def test_engines_agree_on_everything(play):
    """Each summary, state, text and error of one engine equals that of the other."""
    examine(play, 60)


@pytest.mark.soak
@pytest.mark.timeout(7_200)
def test_engines_agree_on_thousands_of_scenarios(play, soak):
    """Ten thousand scenarios, each with all reads at its end."""
    examine(play, soak(10_000))
