"""The message of a failed check, and the table of recorded metrics."""

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
    """Return a system with earlier records."""
    system = MetricsTestSystem(clock=clock)
    system.collector.record_gauge("queue.depth", 3)
    system.collector.record_counter("orders.cancelled", 4)
    return system


def record(metrics) -> None:
    """Record one metric of each kind."""
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
    """Return the message of a check of `record` that fails."""
    with pytest.raises(AssertionError) as raised, metrics.expect(*expectations, only=only):
        record(metrics)
    return str(raised.value)


def test_a_failed_check_shows_expected_beside_actual_and_all_that_changed(metrics):
    """Each expectation has a line, with a reason below it if there is one, and each change is listed."""
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
     ↳ No failure of type 'TimeotError' was recorded. Did you mean 'TimeoutError'?
  ✗  counter    payments{region=eu, status=ok}  +2                     0
     ↳ It was recorded with status='failed', not 'ok'; no tag 'region' (it has: country, status).
  ✗  counter    orders.cancelled                +1                     0
  ✗  gauge      pressure                        1                      none
     ↳ No gauge 'pressure' was recorded. Known: 'queue.depth', 'temperature'.

All changes in the block:

     failure    db.query TimeoutError                +1
     success    db.query                             +1
     timer      latency                              count +1, sum +250.0 ms
     counter    order{status=ok}                     +1
     counter    payments{country=NL, status=failed}  +2
     gauge      queue.depth                          7 (was 3)
     histogram  size                                 count +1, sum +2.5
     gauge      temperature{room='living room'}      21.5 (new)"""
    )


def test_an_unexpected_change_is_marked(metrics):
    """With `only=True`, unexpected changes are marked as failures."""
    expectations = [
        counter("order"),
        counter("payments", 2),
        success("db.query"),
        histogram("size"),
        gauge("queue.depth", 7),
    ]
    assert message(metrics, *expectations, only=True) == (
        """\
metrics: 3 unexpected changes

                             expected  actual
  ✓  counter    order        +1        +1
  ✓  counter    payments     +2        +2
  ✓  success    db.query     +1        +1
  ✓  histogram  size         count +1  count +1
  ✓  gauge      queue.depth  7         7

All changes in the block:

  ✗  failure    db.query TimeoutError                +1
     success    db.query                             +1
  ✗  timer      latency                              count +1, sum +250.0 ms
     counter    order{status=ok}                     +1
     counter    payments{country=NL, status=failed}  +2
     gauge      queue.depth                          7 (was 3)
     histogram  size                                 count +1, sum +2.5
  ✗  gauge      temperature{room='living room'}      21.5 (new)"""
    )


def test_failures_and_unexpected_changes_are_counted_together(metrics):
    """The first line states both numbers."""
    first = message(metrics, counter("order", 2), only=True).splitlines()[0]
    assert first == "metrics: 1 of 1 expectation failed, 7 unexpected changes"


def test_a_block_without_changes_is_reported(metrics):
    """If the block recorded nothing, the message says so."""
    with pytest.raises(AssertionError) as raised, metrics.expect(counter("orders.cancelled")):
        pass
    assert str(raised.value).endswith("\n\nThe block changed no metrics.")


@pytest.mark.parametrize(
    ("expectation", "note"),
    [
        (counter("size"), "'size' was recorded as a histogram, not as a counter."),
        (timer("db.query"), "'db.query' was recorded as a failure and a success, not as a timer."),
        (counter("order", status="lost"), "It was recorded with status='ok', not 'lost'."),
        (counter("order", region="eu"), "It was recorded with no tag 'region' (it has: status)."),
        (histogram("size", unit="kB"), "It was recorded with no tag 'unit'."),
        (failure("db.query", "Refused"), "No failure of type 'Refused' was recorded. Known: 'TimeoutError'."),
    ],
    ids=["type", "operation", "value", "tag", "tags", "error"],
)
def test_a_note_names_the_recorded_series(metrics, expectation, note):
    """A wrong type, tag or error type is named below the expectation."""
    assert f"     ↳ {note}\n" in message(metrics, expectation)


def test_a_note_prefers_a_series_that_changed(metrics):
    """If the expected series exists but another one changed, the note compares their tags."""
    metrics.collector.increment("order", {"status": "lost"})
    text = message(metrics, counter("order", status="lost"))
    assert "↳ It was recorded with status='ok', not 'lost'." in text


def test_a_note_compares_the_closest_series(metrics):
    """Of several changed series, the one with the most tags in common is compared."""

    def pay() -> None:
        for country in ("BE", "NL", "PL"):
            metrics.collector.increment("paid", {"card": country, "country": country, "status": "new"})

    expected = counter("paid", country="NL", card="NL", status="ok")
    with pytest.raises(AssertionError) as raised, metrics.expect(expected):
        pay()
    assert "↳ It was recorded with status='new', not 'ok'." in str(raised.value)


def test_an_operation_that_always_failed_has_no_success_line(metrics):
    """An operation without a success has no line for successes."""
    metrics.tracker.record_failure("render", "KeyError")
    assert "success" not in metrics.recorded()


def test_numbers_alone_need_no_note(metrics):
    """If only the number is wrong, there is no note."""
    assert "↳" not in message(metrics, counter("order", 2), gauge("queue.depth", 2), timer("latency", 0))


def test_control_characters_are_escaped(metrics):
    """Names and tags that could be misread, or contain control characters, are quoted."""
    with pytest.raises(AssertionError) as raised, metrics.expect(only=True):
        metrics.collector.increment("a b", {"k{": "x\ny", "empty": "", "red": "\x1b[31m"})
    assert r"counter  'a b'{empty='', 'k{'='x\ny', red='\x1b[31m'}  +1" in str(raised.value)


def test_a_long_list_is_truncated(metrics):
    """A report lists the first changes and counts the others."""

    def record_many() -> None:
        for number in range(MAX_CHANGES + 5):
            metrics.collector.increment("items", {"number": f"{number:04}"})

    with pytest.raises(AssertionError) as raised, metrics.expect(counter("orders")):
        record_many()
    lines = str(raised.value).splitlines()
    assert lines[-1] == "     … and 5 more"
    assert sum("items{" in line for line in lines) == MAX_CHANGES


def test_resource_gauges_are_not_listed(metrics):
    """The list leaves out the gauges of a resource monitor."""
    with pytest.raises(AssertionError) as raised, metrics.expect(counter("orders")):
        metrics.collector.record_gauge("process.memory.usage", 5)
    assert "process.memory" not in str(raised.value)


def test_recorded_is_a_sorted_table(metrics):
    """`recorded` returns a sorted table with a line per series, for a system and for an aggregator."""
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
    assert MetricsTestSystem().recorded() == "no metrics were recorded"
