"""The fan-out forwards each record to all members, and isolates their failures."""

from __future__ import annotations

import logging
from unittest.mock import sentinel

import pytest

from metrics_adapters.fan_out import FanOutCollector
from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector
from metrics_adapters.null import NullCollector, NullTimer
from metrics_framework import MetricsSystem
from metrics_framework.errors import InvalidInputError, MetricTypeError, OutputError
from metrics_framework.plugins import load_adapter
from metrics_framework.protocols import MetricCollector
from metrics_framework.values import MetricUnit


class Member:
    """A third-party collector that lists its calls, and can fail."""

    def __init__(self, name="member", error=None) -> None:
        self.name, self.error, self.calls = name, error, []

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def _take(self, *call) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def record_counter(self, name, value=1, tags=None):
        """List the call."""
        self._take("counter", name, value, tags)

    def record_gauge(self, name, value, tags=None):
        """List the call."""
        self._take("gauge", name, value, tags)

    def record_histogram(self, name, value, tags=None):
        """List the call."""
        self._take("histogram", name, value, tags)

    def record_timer(self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None):
        """List the call."""
        self._take("timer", name, duration, unit, tags)

    def increment(self, name, tags=None):
        """List the call."""
        self._take("increment", name, tags)

    def decrement(self, name, tags=None):
        """List the call."""
        self._take("decrement", name, tags)


TAGS = {"branch": "main"}
CALLS = {
    "record_counter": ("counter", "x", 3, TAGS),
    "record_gauge": ("gauge", "x", -3, TAGS),
    "record_histogram": ("histogram", "x", 2.5, TAGS),
    "record_timer": ("timer", "x", 0.25, MetricUnit.SECONDS, TAGS),
    "increment": ("increment", "x", TAGS),
    "decrement": ("decrement", "x", TAGS),
}


def errors(caplog) -> list[str]:
    """Return the error messages of the log."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]


def test_a_fan_out_is_a_collector():
    """It fulfils the Protocol, and is in the table of adapters."""
    assert isinstance(FanOutCollector(), MetricCollector)
    assert load_adapter("fan_out") is FanOutCollector


@pytest.mark.parametrize("method", CALLS)
def test_every_member_gets_every_record(method):
    """Each kind of record reaches each member once, with all of its arguments, in the members' order."""
    first, second, third = Member(), Member(), Member()
    fan_out = FanOutCollector(first, second, third)
    assert getattr(fan_out, method)(*CALLS[method][1:]) is None
    assert first.calls == second.calls == third.calls == [CALLS[method]]
    assert fan_out.faults == {}


def test_defaults_are_those_of_the_protocol():
    """Missing arguments are passed with the defaults of the Protocol."""
    member = Member()
    fan_out = FanOutCollector(member)
    fan_out.record_counter("x")
    fan_out.record_gauge("x", value=1)
    fan_out.record_histogram("x", value=1)
    fan_out.record_timer("x", duration=1.0)
    fan_out.increment(name="x")
    fan_out.decrement("x")
    assert member.calls == [
        ("counter", "x", 1, None),
        ("gauge", "x", 1, None),
        ("histogram", "x", 1, None),
        ("timer", "x", 1.0, MetricUnit.MILLISECONDS, None),
        ("increment", "x", None),
        ("decrement", "x", None),
    ]


def test_a_fan_out_may_have_no_members():
    """It accepts all records."""
    FanOutCollector().record_counter("x", -1)


@pytest.mark.parametrize("method", CALLS)
def test_a_failing_member_affects_no_other(method, caplog):
    """The other members get the record, and the application sees no exception."""
    first, broken, last = Member(), Member("broken", ConnectionError("away")), Member()
    fan_out = FanOutCollector(first, broken, last)
    getattr(fan_out, method)(*CALLS[method][1:])
    assert first.calls == broken.calls == last.calls == [CALLS[method]]
    assert fan_out.faults == {1: 1}
    (message,) = errors(caplog)
    assert "a collector failed" in message
    assert "<broken>" in message
    assert "ConnectionError" in message
    assert "away" in message


def test_faults_are_all_counted_and_logged_once_for_each_member(caplog):
    """Each member has its own count and one line in the log."""
    first, well, third = (
        Member("one", OSError("disk")),
        Member(),
        Member("three", OutputError("full")),
    )
    fan_out = FanOutCollector(first, well, third)
    for number in range(100):
        first.error = OSError(number) if number % 2 else None
        fan_out.record_counter("x", number)
    assert len(first.calls) == len(well.calls) == len(third.calls) == 100
    assert fan_out.faults == {0: 50, 2: 100}
    assert fan_out.faults[1] == 0
    messages = errors(caplog)
    assert len(messages) == 2
    assert sum("<one>" in message for message in messages) == 1
    assert sum("<three>" in message for message in messages) == 1


def test_a_collector_may_be_a_member_twice():
    """Faults are counted by index, so it has two counts."""
    member = Member(error=ValueError("no"))
    fan_out = FanOutCollector(member, member)
    fan_out.increment("x")
    assert fan_out.faults == {0: 1, 1: 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupt_is_not_a_fault(error):
    """Ctrl-C inside a member ends the program."""
    fan_out = FanOutCollector(Member(error=error))
    with pytest.raises(type(error)):
        fan_out.increment("x")
    assert fan_out.faults == {}


# -- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 1, 2])
def test_bad_input_is_raised_after_all_members_got_it(place, caplog):
    """A member that refuses input does not keep it from the others."""
    members, error = [Member(), Member(), Member()], InvalidInputError("no such value")
    members[place].error = error
    fan_out = FanOutCollector(*members)
    with pytest.raises(InvalidInputError) as caught:
        fan_out.record_counter("x", 3, TAGS)
    assert caught.value is error
    assert [member.calls for member in members] == [[CALLS["record_counter"]]] * 3
    assert fan_out.faults == {}
    assert errors(caplog) == []


def test_the_first_refusal_is_raised():
    """If several members refuse, the first error is raised. Other faults are counted."""
    first, second = InvalidInputError("first"), MetricTypeError("second")
    fan_out = FanOutCollector(
        Member(error=OSError("away")), Member(error=first), Member(error=second), Member(error=ValueError())
    )
    with pytest.raises(InvalidInputError) as caught:
        fan_out.increment("x")
    assert caught.value is first
    assert fan_out.faults == {0: 1, 3: 1}


def test_in_memory_collectors_refuse_bad_input():
    """The error of an in-memory member reaches the application, and valid numbers are recorded."""
    ours, theirs = InMemoryCollector(), Member()
    fan_out = FanOutCollector(ours, theirs)
    fan_out.record_counter("hits", 2)
    with pytest.raises(InvalidInputError, match="'hits' cannot record -1"):
        fan_out.record_counter("hits", -1)
    with pytest.raises(MetricTypeError):
        fan_out.record_gauge("hits", 1)
    assert ours.store.summary("hits")["total"] == 2
    assert len(theirs.calls) == 3


# -- members -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("member", [None, 3, "in_memory.collector", NullTimer(), [Member()], sentinel.other])
def test_a_member_must_be_a_collector(member):
    """The constructor refuses an object that lacks a method."""
    for members in ((member,), (Member(), member)):
        with pytest.raises(InvalidInputError, match="is not a MetricCollector") as caught:
            FanOutCollector(*members)
        assert repr(member) in str(caught.value)


def test_a_fan_out_may_be_a_member():
    """Fan-outs nest: a fault is counted by the inner one, and a refusal is raised."""
    inner, broken = Member(), Member(error=OSError("away"))
    nested = FanOutCollector(inner, broken)
    outer = FanOutCollector(nested, NullCollector())
    outer.increment("x")
    assert (nested.faults, outer.faults) == ({1: 1}, {})
    inner.error = InvalidInputError("no")
    with pytest.raises(InvalidInputError, match="no"):
        outer.increment("x")


def test_a_system_records_through_it():
    """It records into the store of the system and into a third-party collector."""
    ours, theirs = InMemoryCollector(), Member()
    metrics = MetricsSystem(
        collector=FanOutCollector(ours, theirs), aggregator=InMemoryAggregator(ours.store)
    )
    metrics.collector.record_counter("hits", 3)
    assert metrics.aggregator.get_metric_summary("hits")["total"] == 3
    assert theirs.calls == [("counter", "hits", 3, None)]


# -- re-entrancy -------------------------------------------------------------------------------------------


class Echo(Member):
    """A collector that records its own calls through the fan-out that it is a member of."""

    fan_out = None

    def _take(self, *call) -> None:
        super()._take(*call)
        if not call[1].startswith("echo."):
            self.fan_out.increment(f"echo.{call[1]}")


def test_a_member_may_record_through_the_fan_out():
    """A nested record reaches every member, and the outer one continues."""
    first, echo, last = Member(), Echo(), Member()
    echo.fan_out = FanOutCollector(first, echo, last)
    echo.fan_out.record_gauge("x", 1)
    gauge, echoed = ("gauge", "x", 1, None), ("increment", "echo.x", None)
    assert first.calls == echo.calls == [gauge, echoed]
    assert last.calls == [echoed, gauge]
    assert echo.fan_out.faults == {}


def test_a_log_handler_may_record_through_the_fan_out():
    """Counting log lines does not recurse through the line about a fault."""
    broken, well = Member("broken", OSError("away")), Member()
    fan_out = FanOutCollector(broken, well)

    class Counting(logging.Handler):
        def emit(self, record):
            fan_out.increment("log.lines")

    handler, logger = Counting(), logging.getLogger("metrics_framework")
    logger.addHandler(handler)
    try:
        fan_out.record_gauge("x", 1)
    finally:
        logger.removeHandler(handler)
    assert fan_out.faults == {0: 2}
    assert well.calls == [("increment", "log.lines", None), ("gauge", "x", 1, None)]


@pytest.mark.parametrize("member", [Member, InMemoryCollector, NullCollector])
def test_a_class_is_not_a_collector(member):
    """The constructor refuses a class."""
    with pytest.raises(InvalidInputError) as caught:
        FanOutCollector(Member(), member)
    assert member.__name__ in str(caught.value)


class Meddler(Member):
    """A collector that changes its tags."""

    def _take(self, *call) -> None:
        super()._take(*call)
        call[-1]["branch"] = "changed"
        call[-1]["more"] = "1"


@pytest.mark.parametrize("method", CALLS)
def test_each_member_gets_its_own_tags(method):
    """A member that changes its tags affects neither the caller nor other members."""
    first, last, tags = Meddler(), Member(), {"branch": "main"}
    getattr(FanOutCollector(first, last), method)(*CALLS[method][1:-1], tags)
    assert tags == {"branch": "main"}
    assert last.calls == [CALLS[method]]


class Unprintable(Member):
    """A collector whose `repr` fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


@pytest.mark.parametrize("method", CALLS)
def test_a_failing_member_without_a_repr_is_isolated(method, caplog):
    """Its fault is counted and logged."""
    broken, well = Unprintable(error=OSError("away")), Member()
    fan_out = FanOutCollector(broken, well)
    for _ in range(2):
        getattr(fan_out, method)(*CALLS[method][1:])
    assert well.calls == [CALLS[method]] * 2
    assert fan_out.faults == {0: 2}
    (message,) = errors(caplog)
    assert "away" in message
