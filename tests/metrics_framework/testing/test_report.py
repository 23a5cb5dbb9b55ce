"""A failed check says all that a tired person needs, and nothing else."""

from __future__ import annotations

import pytest

from metrics_framework import MetricUnit
from metrics_framework.testing import (
    Expectation,
    MetricsTestSystem,
    counter,
    failure,
    gauge,
    histogram,
    recorded,
    success,
    timer,
)
from metrics_framework.testing.report import MAX_CHANGES


@pytest.fixture
def metrics(clock) -> MetricsTestSystem:
    """Return a system with a past."""
    system = MetricsTestSystem(clock=clock)
    system.collector.record_gauge("queue.depth", 3)
    system.collector.record_counter("orders.cancelled", 4)
    return system


def record(metrics) -> None:
    """Record a little of everything."""
    collector = metrics.collector
    collector.increment("order", {"status": "ok"})
    collector.record_counter("payments", 2, {"status": "failed", "country": "NL"})
    collector.record_gauge("queue.depth", 7)
    collector.record_gauge("temperature", 21.5, {"room": "living room"})
    collector.record_histogram("size", 2.5)
    collector.record_timer("latency", 0.25, MetricUnit.SECONDS)
    metrics.tracker.record_success("db.query")
    metrics.tracker.record_failure("db.query", "TimeoutError")


def message(metrics, *expectations: Expectation, only=False) -> str:
    """Return what a check of `record` that fails has to say."""
    with pytest.raises(AssertionError) as raised, metrics.expect(*expectations, only=only):
        record(metrics)
    return str(raised.value)


def test_a_failed_check_shows_expected_beside_actual_and_all_that_changed(metrics):
    """Every expectation has its line, a reason below it where there is one, and every change is listed."""
    expectations = [
        counter("orders", +3, status="ok"),
        timer("latency", count=1, sum=250),
        gauge("queue.depth", 5),
        histogram("size", count=2),
        success("db.query"),
        failure("db.query", "TimeotError"),
        counter("payments", 2, status="ok", region="eu"),
        counter("orders.cancelled"),
        gauge("pressure", 1),
    ]
    assert message(metrics, *expectations) == (
        """\
metrics: 7 of 9 expectations failed

                                                expected               actual
  ✗  counter    orders{status=ok}               +3                     0
     ↳ No counter 'orders' was recorded. Did you mean 'order' or 'orders.cancelled'?
  ✓  timer      latency                         count +1, sum +250 ms  count +1, sum +250.0 ms
  ✗  gauge      queue.depth                     5                      7
  ✗  histogram  size                            count +2               count +1
  ✓  success    db.query                        +1                     +1
  ✗  failure    db.query TimeotError            +1                     0
     ↳ No 'TimeotError' was recorded. Did you mean 'TimeoutError'?
  ✗  counter    payments{region=eu, status=ok}  +2                     0
     ↳ Recorded with status='failed', not 'ok'; no tag 'region' (its tags: country, status).
  ✗  counter    orders.cancelled                +1                     0
  ✗  gauge      pressure                        1                      none
     ↳ No gauge 'pressure' was recorded. Known: 'queue.depth', 'temperature'.

Everything that changed in the block:

     failure    db.query TimeoutError                +1
     success    db.query                             +1
     timer      latency                              count +1, sum +250.0 ms
     counter    order{status=ok}                     +1
     counter    payments{country=NL, status=failed}  +2
     gauge      queue.depth                          7 (was 3)
     histogram  size                                 count +1, sum +2.5
     gauge      temperature{room='living room'}      21.5 (new)"""
    )


def test_a_surprise_is_marked(metrics):
    """With `only=True` the changes that nobody expected bear the mark of a failure."""
    expectations = [
        counter("order"),
        counter("payments", 2),
        success("db.query"),
        histogram("size"),
        gauge("queue.depth", 7),
    ]
    assert message(metrics, *expectations, only=True) == (
        """\
metrics: 3 changes not expected

                             expected  actual
  ✓  counter    order        +1        +1
  ✓  counter    payments     +2        +2
  ✓  success    db.query     +1        +1
  ✓  histogram  size         count +1  count +1
  ✓  gauge      queue.depth  7         7

Everything that changed in the block:

  ✗  failure    db.query TimeoutError                +1
     success    db.query                             +1
  ✗  timer      latency                              count +1, sum +250.0 ms
     counter    order{status=ok}                     +1
     counter    payments{country=NL, status=failed}  +2
     gauge      queue.depth                          7 (was 3)
     histogram  size                                 count +1, sum +2.5
  ✗  gauge      temperature{room='living room'}      21.5 (new)"""
    )


def test_failures_and_surprises_are_said_together(metrics):
    """Both isolation are in the first line."""
    first = message(metrics, counter("order", 2), only=True).splitlines()[0]
    assert first == "metrics: 1 of 1 expectation failed, 7 changes not expected"


def test_silence_is_said(metrics):
    """Where nothing was recorded in the block, the message says so."""
    with pytest.raises(AssertionError) as raised, metrics.expect(counter("orders.cancelled")):
        pass
    assert str(raised.value).endswith("\n\nNothing changed in the block.")


@pytest.mark.parametrize(
    ("expectation", "note"),
    [
        (counter("size"), "'size' was recorded as histogram, not as counter."),
        (timer("db.query"), "'db.query' was recorded as failure and success, not as timer."),
        (counter("order", status="lost"), "Recorded with status='ok', not 'lost'."),
        (counter("order", region="eu"), "Recorded with no tag 'region' (its tags: status)."),
        (histogram("size", unit="kB"), "Recorded with no tag 'unit'."),
        (failure("db.query", "Refused"), "No 'Refused' was recorded. Known: 'TimeoutError'."),
    ],
    ids=["type", "operation", "value", "tag", "tags", "error"],
)
def test_a_note_says_what_was_recorded_instead(metrics, expectation, note):
    """A wrong type, tag, or error type is named below the expectation."""
    assert f"     ↳ {note}\n" in message(metrics, expectation)


def test_a_series_that_stood_still_is_told_from_the_one_that_moved(metrics):
    """Where the expected series exists but another one moved, the note compares their tags."""
    metrics.collector.increment("order", {"status": "lost"})
    text = message(metrics, counter("order", status="lost"))
    assert "↳ Recorded with status='ok', not 'lost'." in text


def test_the_note_is_about_the_nearest_series(metrics):
    """Of several series that moved, the one with the most tags in common is compared."""

    def pay() -> None:
        for country in ("BE", "NL", "PL"):
            metrics.collector.increment("paid", {"card": country, "country": country, "status": "new"})

    expected = counter("paid", country="NL", card="NL", status="ok")
    with pytest.raises(AssertionError) as raised, metrics.expect(expected):
        pay()
    assert "↳ Recorded with status='new', not 'ok'." in str(raised.value)


def test_what_only_failed_has_no_successes(metrics):
    """An operation without a success is not listed with none."""
    metrics.tracker.record_failure("render", "KeyError")
    assert "success" not in metrics.recorded()


def test_numbers_alone_need_no_note(metrics):
    """Where the series is right and only its number is wrong, the table says it all."""
    assert "↳" not in message(metrics, counter("order", 2), gauge("queue.depth", 2), timer("latency", 0))


def test_nothing_steers_the_terminal(metrics):
    """Names and tags that would be mistaken for something else are quoted."""
    with pytest.raises(AssertionError) as raised, metrics.expect(only=True):
        metrics.collector.increment("a b", {"k{": "x\ny", "empty": "", "red": "\x1b[31m"})
    assert r"counter  'a b'{empty='', 'k{'='x\ny', red='\x1b[31m'}  +1" in str(raised.value)


def test_a_flood_is_cut(metrics):
    """Of very many changes, the first ones are listed and the others counted."""

    def flood() -> None:
        for number in range(MAX_CHANGES + 5):
            metrics.collector.increment("items", {"number": f"{number:04}"})

    with pytest.raises(AssertionError) as raised, metrics.expect(counter("orders")):
        flood()
    lines = str(raised.value).splitlines()
    assert lines[-1] == "     … and 5 more"
    assert sum("items{" in line for line in lines) == MAX_CHANGES


def test_a_machines_readings_are_not_listed(metrics):
    """The gauges of a resource monitor explain nothing, so the list leaves them out."""
    with pytest.raises(AssertionError) as raised, metrics.expect(counter("orders")):
        metrics.collector.record_gauge("process.memory.usage", 5)
    assert "process.memory" not in str(raised.value)


def test_everything_recorded_can_be_printed(metrics):
    """`recorded` is a sorted table with a line for each series, also of a mere aggregator."""
    record(metrics)
    assert metrics.recorded() == (
        """\
failure    db.query TimeoutError                1
success    db.query                             1
timer      latency                              count 1, sum 250.0 ms
counter    order{status=ok}                     1
counter    orders.cancelled                     4
counter    payments{country=NL, status=failed}  2
gauge      queue.depth                          7
histogram  size                                 count 1, sum 2.5
gauge      temperature{room='living room'}      21.5"""
    )
    assert recorded(metrics.aggregator) == metrics.recorded()
    assert MetricsTestSystem().recorded() == "nothing was recorded"
