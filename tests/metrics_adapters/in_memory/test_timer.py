"""The in-memory timer measures durations, and limits timers that are never stopped."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from metrics_adapters.in_memory import MAX_RUNNING_TIMERS, InMemoryTimer
from metrics_adapters.prometheus import PrometheusCollector
from metrics_framework.clock import ManualClock, utc
from metrics_framework.errors import InvalidInputError, UnknownMetricError, UnknownTimerError
from metrics_framework.recording import Store
from metrics_framework.values import MetricUnit, TimingResult


@pytest.fixture
def timer(clock: ManualClock) -> InMemoryTimer:
    """Return a timer on a store of the test's clock."""
    return InMemoryTimer(Store(clock))


def test_a_timer_measures_the_time_from_start_to_stop(timer, clock):
    """The result has the duration in milliseconds, when it began and when it ended."""
    timer_id = timer.start_timer("git.push", {"branch": "main"})
    clock.advance(0.25)
    result = timer.stop_timer(timer_id)
    assert (result.operation_name, result.duration, result.unit) == (
        "git.push",
        250.0,
        MetricUnit.MILLISECONDS,
    )
    assert result.start_time == datetime(2026, 1, 1, tzinfo=UTC)
    assert result.end_time - result.start_time == timedelta(milliseconds=250)
    assert result.start_time.tzinfo is UTC
    assert (result.success, result.metadata) == (True, {"branch": "main"})


def test_a_real_timer_measures_real_time():
    """On the machine's clock a duration is positive and the times are now."""
    timer = InMemoryTimer()
    before = datetime.now(tz=UTC)
    result = timer.time_operation("operation", lambda: sum(range(1_000)))
    assert 0 < result.duration < 10_000
    assert before - timedelta(seconds=1) <= result.start_time <= result.end_time
    assert result.end_time <= datetime.now(tz=UTC) + timedelta(seconds=1)


def test_setting_the_time_of_day_changes_no_duration(timer, clock):
    """Durations come from the monotonic reading."""
    timer_id = timer.start_timer("operation")
    clock.set_wall(datetime(2000, 1, 1, tzinfo=UTC))
    clock.advance(2)
    result = timer.stop_timer(timer_id)
    assert result.duration == 2_000.0
    assert result.end_time == result.start_time + timedelta(seconds=2)


@pytest.mark.parametrize("success", [True, False])
def test_a_result_has_the_success_of_the_stop(timer, success):
    """The duration is recorded for successes and failures."""
    result = timer.stop_timer(timer.start_timer("operation"), success)
    assert result.success is success
    assert timer.get_timing_stats("operation")["count"] == 1


def test_timers_of_one_operation_overlap(timer, clock):
    """Each start has an id of its own, and may be stopped in any order."""
    first = timer.start_timer("operation", {"number": 1})
    clock.advance(1)
    second = timer.start_timer("operation", {"number": 2})
    clock.advance(1)
    assert first != second
    assert timer.stop_timer(first).duration == 2_000.0
    clock.advance(1)
    result = timer.stop_timer(second)
    assert (result.duration, result.metadata) == (2_000.0, {"number": 2})


@pytest.mark.parametrize("timer_id", ["never#1", "", None])
def test_an_unknown_id_is_an_error(timer, timer_id):
    """The error quotes the id, and nothing is recorded."""
    with pytest.raises(UnknownTimerError) as caught:
        timer.stop_timer(timer_id)
    assert repr(timer_id) in str(caught.value)
    assert timer.store.recorded == 0


def test_a_timer_is_stopped_once(timer):
    """Stopping again is an error and does not count twice."""
    timer_id = timer.start_timer("operation")
    timer.stop_timer(timer_id)
    with pytest.raises(UnknownTimerError, match="stopped already"):
        timer.stop_timer(timer_id)
    assert timer.get_timing_stats("operation")["count"] == 1


def test_timers_of_other_timers_are_unknown(timer):
    """Two timers do not stop each other's operations, also on one store."""
    timer_id = timer.start_timer("operation")
    with pytest.raises(UnknownTimerError):
        InMemoryTimer(timer.store).stop_timer(timer_id)


def test_an_argument_of_the_work_in_place_of_metadata_is_an_error(timer):
    """`time_operation("sort", sorted, items)` raises a clear error before the work."""
    with pytest.raises(InvalidInputError, match=r"^metadata=\[2, 1\] is not a mapping, like"):
        timer.time_operation("sort", sorted, [2, 1])


def test_metadata_is_that_of_the_start(timer):
    """Changes to the dict of the caller do not affect the result, and vice versa."""
    metadata = {"branch": "main"}
    timer_id = timer.start_timer("operation", metadata)
    metadata["branch"] = "other"
    result = timer.stop_timer(timer_id)
    assert result.metadata == {"branch": "main"}
    result.metadata["more"] = 1
    assert metadata == {"branch": "other"}


# -- time_operation --------------------------------------------------------------------------------------


def test_the_result_of_a_call_has_its_return_value(timer, clock):
    """The result has the duration, the metadata, and the returned object itself under `result`."""
    returned, metadata = object(), {"rows": 3}

    def work() -> object:
        clock.advance(1.5)
        return returned

    result = timer.time_operation("data.processing", work, metadata)
    assert (result.operation_name, result.duration, result.success) == ("data.processing", 1_500.0, True)
    assert result.metadata == {"rows": 3, "result": returned}
    assert metadata == {"rows": 3}
    assert timer.get_timing_stats("data.processing")["max"] == 1_500.0


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_a_call_that_raises_is_timed_and_its_exception_propagates(timer, clock, error):
    """The caller gets the same exception, and the duration is recorded."""

    def fail() -> None:
        clock.advance(0.5)
        raise error

    with pytest.raises(type(error)) as caught:
        timer.time_operation("operation", fail)
    assert caught.value is error
    assert caught.value.__context__ is None
    stats = timer.get_timing_stats("operation")
    assert (stats["count"], stats["max"]) == (1, 500.0)


def test_timings_nest(timer, clock):
    """An operation may time its own parts."""

    def outer() -> None:
        clock.advance(1)
        timer.time_operation("inner", lambda: clock.advance(2))

    assert timer.time_operation("outer", outer).duration == 3_000.0
    assert timer.get_timing_stats("inner")["max"] == 2_000.0


# -- statistics ------------------------------------------------------------------------------------------


def test_statistics_are_in_milliseconds(timer, clock):
    """Statistics cover all durations, and the rate is per second since the start."""
    for seconds in (1, 2, 3, 4):
        timer.time_operation("operation", lambda seconds=seconds: clock.advance(seconds))
    stats = timer.get_timing_stats("operation")
    assert stats.pop("stddev") == pytest.approx(1_118.034, abs=0.001)
    assert stats == {
        "count": 4,
        "seconds": 10.0,
        "sum": 10_000.0,
        "rate": 0.4,
        "avg": 2_500.0,
        "min": 1_000.0,
        "max": 4_000.0,
        "p50": 2_000.0,
        "p90": 4_000.0,
        "p95": 4_000.0,
        "p99": 4_000.0,
        "failures": 0,
    }


def test_an_operation_without_a_result_is_unknown(timer):
    """It has no statistics. The error suggests a similar operation."""
    timer.time_operation("git.clone", lambda: None)
    timer.start_timer("git.clones")
    with pytest.raises(UnknownMetricError, match=r"'git.clones'.*Did you mean 'git.clone'"):
        timer.get_timing_stats("git.clones")


def test_a_timer_does_not_track_outcomes(timer):
    """Timing feeds the timer alone."""
    timer.stop_timer(timer.start_timer("operation"), success=False)
    assert timer.store.outcome_readings() == []


@pytest.mark.parametrize("name", ["", None, 3])
def test_an_operation_has_a_name(timer, name):
    """A name that is not a string is refused before the call."""
    called = []
    with pytest.raises(InvalidInputError, match="operation name"):
        timer.time_operation(name, lambda: called.append(1))
    with pytest.raises(InvalidInputError, match="operation name"):
        timer.start_timer(name)
    assert called == []


# -- bounds ----------------------------------------------------------------------------------------------


def test_timers_that_are_never_stopped_are_bounded(timer):
    """Beyond ten thousand running timers the oldest is abandoned and counted."""
    ids = [timer.start_timer("operation") for _ in range(MAX_RUNNING_TIMERS)]
    assert timer.abandoned == 0
    newest = timer.start_timer("operation")
    assert timer.abandoned == 1
    with pytest.raises(UnknownTimerError, match="given up"):
        timer.stop_timer(ids[0])
    for timer_id in (ids[1], ids[-1], newest):
        assert timer.stop_timer(timer_id).success


def test_a_timed_call_is_never_abandoned(timer, clock):
    """A call that starts ten thousand timers without a stop is still timed."""

    def forgetful() -> str:
        for _ in range(MAX_RUNNING_TIMERS + 1):
            timer.start_timer("forgotten")
        clock.advance(1)
        return "done"

    result = timer.time_operation("operation", forgetful)
    assert (result.duration, result.metadata["result"]) == (1_000.0, "done")


def test_threads_may_time_concurrently():
    """Timers of several threads get different ids and all are recorded."""
    timer, ids, lock = InMemoryTimer(), set(), threading.Lock()

    def work() -> None:
        for _ in range(500):
            timer_id = timer.start_timer("operation")
            with lock:
                assert timer_id not in ids
                ids.add(timer_id)
            timer.stop_timer(timer_id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == timer.get_timing_stats("operation")["count"] == 2_000


@pytest.mark.parametrize("name", ["", None, 3, ["a"]])
def test_a_bad_name_is_not_an_error_if_errors_are_logged(clock, name):
    """With `on_error="log"` a bad name still gets an id that stops with a duration; nothing is recorded."""
    timer = InMemoryTimer(Store(clock, on_error="log"))
    timer_id = timer.start_timer(name, {"branch": "main"})
    clock.advance(2)
    result = timer.stop_timer(timer_id)
    assert (result.duration, result.success, result.metadata) == (2_000.0, True, {"branch": "main"})
    assert timer.time_operation(name, lambda: "done").metadata["result"] == "done"
    with pytest.raises(ZeroDivisionError):
        timer.time_operation(name, lambda: 1 / 0)
    assert (timer.store.rejected, timer.store.recorded) == (3, 0)
    with pytest.raises(UnknownTimerError):
        timer.stop_timer(timer_id)


def test_every_abandoned_timer_is_counted(timer):
    """`abandoned` counts them all, and the number of running timers is limited."""
    ids = [timer.start_timer("operation") for _ in range(MAX_RUNNING_TIMERS + 500)]
    assert timer.abandoned == 500
    for timer_id in ids[:500]:
        with pytest.raises(UnknownTimerError):
            timer.stop_timer(timer_id)
    for timer_id in ids[500:]:
        timer.stop_timer(timer_id)
    assert timer.abandoned == 500
    assert timer.get_timing_stats("operation")["count"] == MAX_RUNNING_TIMERS


# -- results ---------------------------------------------------------------------------------------------


@pytest.fixture
def timed(timer, clock) -> Callable[[], tuple[TimingResult, TimingResult]]:
    """Return a function that creates a pending result, and an equal one from values."""

    def make() -> tuple[TimingResult, TimingResult]:
        timer_id = timer.start_timer("operation", {"branch": ["main"]})
        begin = utc(clock)
        clock.advance(1.25)
        fresh = timer.stop_timer(timer_id, success=False)
        end = utc(clock)
        clock.advance(1_000)
        plain = TimingResult(
            "operation", 1_250.0, MetricUnit.MILLISECONDS, begin, end, False, {"branch": ["main"]}
        )
        return fresh, plain

    return make


def test_a_result_is_equal_to_one_that_was_constructed(timed):
    """A comparison fills the fields of a pending result."""
    fresh, plain = timed()
    assert type(fresh) is TimingResult
    assert fresh == plain
    fresh, plain = timed()
    assert plain == fresh
    assert vars(fresh) == vars(plain)
    fresh, plain = timed()
    plain.end_time += timedelta(microseconds=1)
    assert fresh != plain


@pytest.mark.parametrize(
    "look",
    [
        repr,
        lambda result: copy.copy(result).start_time,
        lambda result: copy.copy(result).end_time,
        copy.copy,
        copy.deepcopy,
        lambda result: pickle.loads(pickle.dumps(result)),
        dataclasses.asdict,
        dataclasses.astuple,
        lambda result: dataclasses.replace(result, success=True),
        lambda result: dataclasses.replace(result, start_time=datetime(2000, 1, 1, tzinfo=UTC)),
        lambda result: dataclasses.replace(result, end_time=datetime(2000, 1, 1, tzinfo=UTC)),
        lambda result: (result.start_time, result.end_time),
        lambda result: (result.end_time, result.start_time),
        lambda result: (hasattr(result, "start_time"), hasattr(result, "nothing")),
        lambda result: [getattr(result, field.name) for field in dataclasses.fields(result)],
    ],
)
def test_a_result_is_used_as_any_dataclass_is(timed, look):
    """Printing, copying, pickling and replacing a pending result work like those of a finished one."""
    fresh, plain = timed()
    assert look(fresh) == look(plain)
    assert fresh == plain


def test_a_result_keeps_the_time_at_which_it_ended(timer, clock):
    """The datetimes are those of the timing, in UTC and exact, also if they are read later."""
    clock.set_wall(datetime(2026, 5, 17, 12, 30, 15, 123_456, tzinfo=UTC))
    timer_id = timer.start_timer("operation")
    clock.advance(0.000_789)
    result = timer.stop_timer(timer_id)
    clock.advance(86_400)
    assert result.end_time == datetime(2026, 5, 17, 12, 30, 15, 124_245, tzinfo=UTC)
    assert result.start_time == datetime(2026, 5, 17, 12, 30, 15, 123_456, tzinfo=UTC)
    assert result.start_time.tzinfo is result.end_time.tzinfo is UTC
    assert result.end_time is result.end_time


def test_timing_an_operation_abandons_no_running_timer(timer):
    """This holds for the largest number of running timers."""
    ids = [timer.start_timer("operation") for _ in range(MAX_RUNNING_TIMERS)]
    timer.time_operation("operation", lambda: None)
    assert timer.abandoned == 0
    assert timer.stop_timer(ids[0]).success


def test_an_operation_that_is_not_callable_is_an_error():
    """Nothing is recorded, and the error says to pass a function."""
    timer = InMemoryTimer()
    with pytest.raises(InvalidInputError, match="operation=3 is not callable: pass a function"):
        timer.time_operation("x", 3)  # type: ignore[arg-type]
    with pytest.raises(UnknownMetricError):
        timer.get_timing_stats("x")


# -- work that is not done at its return -------------------------------------------------------------------


async def load() -> int:
    """Do nothing, later."""
    return 1


def rows():
    """Yield nothing, later."""
    yield 1


async def pages():
    """Yield nothing, later."""
    yield 1


class Called:
    """An object that is called like a coroutine function."""

    async def __call__(self) -> int:
        """Do nothing, later."""
        return 1


@pytest.mark.parametrize(
    ("operation", "remedy"),
    [
        (load, "async with metrics.measure('op')"),
        (functools.partial(load), "async with metrics.measure('op')"),
        (lambda: load(), "async with metrics.measure('op')"),
        (Called(), "async with metrics.measure('op')"),
        (rows, "or with metrics.measure('op')"),
        (functools.partial(rows), "or with metrics.measure('op')"),
        (pages, "async with metrics.measure('op')"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_work_that_is_not_done_at_its_return_is_refused(timer, operation, remedy):
    """A coroutine or generator function would be timed without its work: the error names `measure`."""
    with pytest.raises(
        InvalidInputError, match=r"which time_operation does not run: use @metrics.measure"
    ) as error:
        timer.time_operation("op", operation)
    assert remedy in str(error.value)
    with pytest.raises(UnknownMetricError):
        timer.get_timing_stats("op")


def test_a_function_may_return_a_generator(timer):
    """It has done its work, and its result is passed on."""
    generator = rows()
    assert timer.time_operation("op", lambda: generator).metadata["result"] is generator


# -- outcomes ----------------------------------------------------------------------------------------------


def test_failures_are_counted_among_the_durations(timer, clock):
    """`failures` counts what `stop_timer` and `time_operation` report, in the window of the durations."""

    def fail(error: BaseException) -> None:
        with pytest.raises(type(error)):
            timer.time_operation("op", functools.partial(_raise, error))

    for success in (True, False, False):
        timer.stop_timer(timer.start_timer("op"), success)
    fail(ValueError())
    fail(SystemExit(1))
    fail(SystemExit(0))
    stats = timer.get_timing_stats("op")
    assert (stats["count"], stats["failures"]) == (6, 4)
    clock.advance(3600)
    timer.stop_timer(timer.start_timer("op"), success=False)
    stats = timer.get_timing_stats("op", time_window=timedelta(minutes=5))
    assert (stats["count"], stats["failures"]) == (1, 1)
    clock.advance(3600)
    stats = timer.get_timing_stats("op", time_window=timedelta(minutes=5))
    assert (stats["count"], stats["failures"]) == (0, 0)


def _raise(error: BaseException) -> None:
    raise error


def test_an_operation_that_cannot_be_recorded_is_called_all_the_same():
    """A name clash is counted and logged; the result, or the own error, reaches the caller."""
    collector = PrometheusCollector(CollectorRegistry())
    collector.record_timer("op.duration", 5)
    timer = InMemoryTimer(collector.store)
    assert timer.time_operation("op", lambda: "receipt").metadata["result"] == "receipt"
    with pytest.raises(KeyError, match="declined") as caught:
        timer.time_operation("op", functools.partial(_raise, KeyError("declined")))
    assert caught.value.__context__ is None
    assert collector.store.rejected == 2
