"""The course of a metric: a time window cut into stretches, each of which is a window of its own.

Stretches lie on absolute multiples of their width, a power of two of seconds, as slots do: whoever asks a
second later gets the same ones, and those of two metrics that are asked for together line up. A slot is never
split. Where slots had to become wider with age than the step, stretches are as wide as slots of that age may
be, whether or not this metric has such slots.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import reduce
from typing import Any, NamedTuple, TypeVar

from metrics_framework.recording import kinds, sums
from metrics_framework.recording.metric import Metric
from metrics_framework.recording.traces import CounterTrace, OutcomeTrace, Trace, per_second
from metrics_framework.recording.windows import COARSENESS, SLOT_NS, Window, Windows

T = TypeVar("T", bound=Trace)


class Stretch(NamedTuple):
    """A part of a time window.

    Attributes:
        start: Where it starts, in UTC, to the millisecond.
        end: Where it ends; a record at that moment belongs to the next one.
        summary: What was recorded in it, with the keys that the summary of a window has.
    """

    start: datetime
    end: datetime
    summary: dict[str, Any]


def history(metric: Metric, window_ns: int | None, points: int) -> list[Stretch]:
    """Return the course of a metric; see `metrics_framework.recording.Store.history`."""
    clock, start_ns, nothing = metric.commons.clock, metric.commons.start_ns, metric.kind.nothing
    streams: list[Windows[Any]] = [ledger.read(lambda windows: windows) for ledger in metric.ledgers]
    now, wall = clock.monotonic_ns(), clock.time_ns()
    if points > 1:
        stretches = cut(streams, window_ns, points, start_ns, now, nothing)
    else:
        stretches = [
            reduce(Window.join, (stream.since(window_ns, start_ns, now, nothing) for stream in streams))
        ]
    summaries = _summaries(metric, streams, stretches)
    return [
        Stretch(_wall_time(each.start_ns, now, wall), _wall_time(each.end_ns, now, wall), summary)
        for each, summary in zip(stretches, summaries, strict=True)
    ]


def cut(
    streams: Sequence[Windows[T]], window_ns: int | None, points: int, start_ns: int, now_ns: int, nothing: T
) -> list[Window[T]]:
    """Cut a time window of some streams, taken together, into stretches.

    Args:
        streams: The streams, at least one.
        window_ns: How far back; ``None`` is since ``start_ns``. Nothing is known of what is older than the
            retention, so that no stretch reaches beyond it.
        points: How many stretches there may be: 2 or more.
        start_ns: The moment before which nothing can have been recorded.
        now_ns: Now.
        nothing: What a stretch without records holds.

    Returns:
        Stretches without gaps between them, the oldest first and the last up to now. The first is the one
        that holds the older edge of the window, or the first record of all.
    """
    forgotten = max(stream.kept_from_ns for stream in streams)
    # What one stream forgot may be a part of a single slot of another, which is not split either.
    torn = (end for stream in streams for start, end, _ in stream.slots() if start < forgotten < end)
    forgotten = max(torn, default=forgotten)
    begin = max(start_ns, forgotten)
    edge = begin if window_ns is None else max(now_ns - window_ns, begin)
    starts = _starts(edge, now_ns, points)
    before: T | None = None
    traces: dict[int, T] = {}
    for stream in streams:
        passed = stream.earlier
        for slot_start, _, trace in stream.slots():
            index = bisect_right(starts, slot_start) - 1
            if index < 0 or slot_start < forgotten:
                passed = trace
            else:
                traces[index] = traces.get(index, nothing).merge(trace)
        before = passed if before is None else before
    stretches: list[Window[T]] = []
    for index, (start, end) in enumerate(zip(starts, [*starts[1:], now_ns], strict=True)):
        recorded = traces.get(index)
        if recorded is not None or before is not None:
            stretches.append(
                Window(nothing if recorded is None else recorded, max(start, begin), end, before)
            )
        before = before if recorded is None else recorded
    return stretches


def _starts(edge_ns: int, now_ns: int, points: int) -> list[int]:
    """Return where stretches start, the oldest first; they depend on nothing but the time."""
    step = SLOT_NS
    while step * (points - 1) < now_ns - edge_ns:  # one less, as both ends may lie within a stretch
        step *= 2
    starts = [now_ns - now_ns % step]
    while starts[-1] > edge_ns:
        end, width = starts[-1], step
        while end % (2 * width) == 0 and now_ns - end >= 2 * width * COARSENESS:
            width *= 2
        starts.append(end - width)
    return starts[::-1]


def _summaries(
    metric: Metric, streams: Sequence[Windows[Any]], stretches: Sequence[Window[Any]]
) -> Iterable[dict[str, Any]]:
    if metric.kind is kinds.COUNTER:
        return _with_totals(streams, stretches)
    if metric.kind is kinds.OUTCOMES:
        return (_outcomes(stretch.trace, stretch.seconds) for stretch in stretches)
    return map(metric.kind.summarize, stretches)


def _outcomes(trace: OutcomeTrace, seconds: float) -> dict[str, Any]:
    return {
        "count": trace.records,
        "seconds": seconds,
        "rate": per_second(trace.records, seconds),
        "successes": trace.successes,
        "failures": trace.failures,
        "success_rate": trace.success_rate,
    }


def _wall_time(moment_ns: int, now_ns: int, wall_ns: int) -> datetime:
    """Return a moment of the monotonic clock in UTC, to the millisecond.

    Two clocks cannot be read at once: rounded, the same moment is the same in the next answer.
    """
    return datetime.fromtimestamp(round((wall_ns - (now_ns - moment_ns)) / 1e6) / 1e3, tz=UTC)


def _with_totals(
    streams: Sequence[Windows[CounterTrace]], stretches: Sequence[Window[CounterTrace]]
) -> Iterator[dict[str, Any]]:
    """Give each stretch the ``total`` of the counter at its end, counted since the start."""
    total = sums.ZERO
    for stream in streams:
        since_start = stream.since(None, 0, 0, CounterTrace()).trace
        total = sums.merge(total, (since_start.total, since_start.compensation))
    for stretch in stretches:
        total = sums.merge(total, (-stretch.trace.total, -stretch.trace.compensation))
    for stretch in stretches:
        total = sums.merge(total, (stretch.trace.total, stretch.trace.compensation))
        yield {**stretch.trace.summary(stretch.seconds), "total": sums.value_of(total)}
