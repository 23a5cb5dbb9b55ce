"""Both engines return the same numbers for the same calls."""

from __future__ import annotations

import importlib
import math
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.metrics_framework.recording.conftest import ENGINES
from tests.metrics_framework.recording.test_engine import KINDS, Rig

INTEGERS = st.integers(-(2**65), 2**65) | st.sampled_from([2**62, 2**63 - 1, -(2**63), 0, 1])
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.integers(-100, 100) | st.floats(-1e3, 1e3) | FLOATS | INTEGERS
BOUNDS = st.lists(st.integers(-50, 50).map(float), max_size=4, unique=True).map(
    lambda some: tuple(sorted(some))
)
SERIES = st.integers(0, 2)
ACTIONS = st.one_of(
    st.tuples(st.just("counter"), SERIES, NUMBERS.map(abs)),
    st.tuples(st.sampled_from(["set", "increment", "decrement"]), SERIES, NUMBERS),
    st.tuples(st.just("histogram"), SERIES, NUMBERS),
    st.tuples(st.just("timer"), SERIES, st.floats(0, 1e6), st.booleans()),
    st.tuples(st.just("burst"), SERIES, st.integers(1, 700)),
    st.tuples(st.just("outcome"), SERIES, st.sampled_from([None, "a", "b", "c", "d"])),
    st.tuples(st.just("remove"), st.sampled_from(list(KINDS)), SERIES),
    st.tuples(st.just("count_by"), BOUNDS, st.booleans()),
    st.tuples(st.just("law"), st.sampled_from(["latest", "sum", "min", "max"])),
    st.tuples(st.just("allow"), st.booleans()),
    st.tuples(st.just("drop"), st.sampled_from(list(KINDS)), SERIES),
    st.tuples(st.just("commit"), st.sampled_from(list(KINDS))),
    st.tuples(st.just("reset")),
    st.tuples(st.just("read")),
    st.tuples(st.just("advance"), st.sampled_from([0.1, 0.5, 1, 3, 16, 40, -0.3, -2])),
)


class ActionPlayer:
    """Plays actions on one engine.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Any) -> None:
        self.rig = Rig(engine)
        self.rig.advance(50)
        self.many = {kind: [self.rig.series(kind, one=one) for one in "abc"] for kind in KINDS}
        self.log = self.rig.core.subscribe(20)
        self.published: list[Any] = []
        self.rig.core.publish_recent = lambda series: self.published.append(series.values)

    def play(self, action: tuple[Any, ...]) -> Any:
        """Play one action, and return the comparable part of the result."""
        what, *arguments = action
        rig = self.rig
        if what in KINDS:
            number, *values = arguments
            series = self.many[what][number]
            method = {"counter": "add", "histogram": "observe", "timer": "elapse", "outcome": "finish"}[what]
            getattr(series, method)(*values)
        elif what in ("set", "increment", "decrement"):
            getattr(self.many["gauge"][arguments[0]], what)(arguments[1])
        elif what == "burst":
            number, records = arguments
            for value in range(records):
                self.many["histogram"][number].observe(value * 1.5 - 100)
                self.many["counter"][number].add(value)
        elif what == "remove":
            kind, number = arguments
            return plain(rig.remove(self.many[kind][number]))
        elif what == "count_by":
            for kind in ("histogram", "timer"):
                rig.slots[kind].count_by(arguments[0], seed=arguments[1])
        elif what == "law":
            rig.slots["gauge"].law = arguments[0]
        elif what == "allow":
            rig.core.allows_recent = arguments[0]
        elif what == "drop":
            self.many[arguments[0]][arguments[1]].drop_recent()
        elif what == "commit":
            windows, closed, _ = rig.slots[arguments[0]].peek()
            return rig.slots[arguments[0]].commit(windows, (windows, len(closed)), len(closed))
        elif what == "reset":
            rig.core.reset()
        elif what == "read":
            return self.everything()
        else:
            rig.advance(arguments[0])
        return None

    def everything(self) -> Any:
        """Return all that can be read."""
        rig = self.rig
        lost, logged = self.log.drain()
        return {
            "records": rig.core.records,
            "series": {kind: [self._series(series) for series in many] for kind, many in self.many.items()},
            "slots": {kind: slot_of(slot) for kind, slot in rig.slots.items()},
            "bounds": rig.slots["histogram"].bounds,
            "published": [slot.kind for slot in rig.published],
            "recent": list(self.published),
            "log": (lost, [(entry[0].values, *map(exact, entry[1:])) for entry in logged]),
            "values": list(map(exact, rig.engine.read_values(self.many["counter"] + self.many["gauge"]))),
            "readmitted": [series.values for series in rig.metric.readmitted],
        }

    @staticmethod
    def _series(series: Any) -> Any:
        counted = series.counted() if hasattr(series, "counted") else None
        return (
            series.is_live,
            series.created_ns,
            plain(series.state()),
            None if counted is None else (counted[1], exact(counted[2])),
            None if series.recent is None else (slot_of(series.recent), series.recent_from_ns),
            series.recent_missed,
        )


def slot_of(slot: Any) -> Any:
    """Return the comparable attributes of a slot."""
    windows, closed, opened = slot.peek()
    parts = (*closed, *([] if opened is None else [opened]))
    return windows, len(closed), [(start, plain(aggregate)) for start, aggregate in parts]


def exact(number: Any) -> Any:
    """Return a number that is compared exactly if it is an integer, and approximately if it is a float."""
    return near(number) if isinstance(number, float) else number


def near(number: float, scale: float = 0.0) -> Any:
    """Return an approximation that equals a float within rounding."""
    if not math.isfinite(number):
        return str(number)
    return pytest.approx(number, rel=1e-9, abs=1e-9 * scale)


def plain(aggregate: Any) -> Any:
    """Return the comparable attributes of an aggregate."""
    if aggregate is None or not aggregate.records:
        return None if aggregate is None else "no records"
    if hasattr(aggregate, "endings"):
        return dict(aggregate.endings)
    if hasattr(aggregate, "is_exact"):
        return aggregate.records, exact(aggregate.value)
    if hasattr(aggregate, "integral"):
        low, high = float(aggregate.min), float(aggregate.max)
        span = aggregate.last_ns - aggregate.first_ns
        scale = min(max(abs(low), abs(high)), 1e300) * span
        fields = ("records", "last", "min", "max", "first")
        times = (aggregate.first_ns, aggregate.last_ns, aggregate.is_stepped)
        return (
            *(exact(getattr(aggregate, field)) for field in fields),
            *times,
            near(aggregate.integral, scale),
        )
    scale, negative, zeros, positive = aggregate.buckets
    magnitude = max(abs(float(aggregate.min)), abs(float(aggregate.max)))
    return (
        aggregate.count,
        exact(aggregate.min),
        exact(aggregate.max),
        aggregate.failures,
        (scale, dict(negative.items()), zeros, dict(positive.items())),
        [exact(quantile) for quantile in aggregate.quantiles(0.5, 0.9, 0.99)],
        near(aggregate.mean, magnitude),
        near(aggregate.stddev, magnitude),
    )


def types_of(aggregate: Any) -> Any:
    """Return whether the numbers of an aggregate are integers."""
    fields = ("value", "last", "min", "max", "first", "sum")
    return [type(getattr(aggregate, field)) for field in fields if hasattr(aggregate, field)]


@pytest.fixture(scope="module")
def engines() -> list[Any]:
    """Return both engines; see the fixture ``engine``."""
    try:
        return [importlib.import_module(name) for name in ENGINES.values()]
    except ImportError as error:
        if os.environ.get("METRICS_FRAMEWORK_COMPILED") == "1":
            raise
        pytest.skip(f"the compiled engine is not built (`make build` builds it): {error}")


@settings(max_examples=300)
@given(actions=st.lists(ACTIONS, max_size=60))
def test_engines_agree(engines, actions):
    """After any records, removals, commits and resets both engines have the same numbers."""
    players = [ActionPlayer(engine) for engine in engines]
    for action in [*actions, ("read",)]:
        one, other = (player.play(action) for player in players)
        assert one == other, action
    for kind in KINDS:
        for one, other in zip(*(player.many[kind] for player in players), strict=True):
            if one.state() is not None:
                assert types_of(one.state()) == types_of(other.state())
