"""Plays scenarios: lists of records, reads and other calls of the public API, as JSON.

`ScenarioPlayer` plays one in this process, with its engine. Run as a script, the module reads a scenario
from each line of its input. It answers with a line of what every call returned or raised, and of all that can
be read in the end.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from functools import cache
from itertools import groupby
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from metrics_adapters.in_memory import InMemoryAggregator, InMemoryCollector, InMemoryTimer, InMemoryTracker
from metrics_adapters.prometheus import Exposition, Format, PrometheusCollector
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock
from metrics_framework.recording import Budgets, Rule, Store
from metrics_framework.recording import store as store_module
from metrics_framework.recording.engine import ENGINE
from metrics_framework.snapshots import provenance
from metrics_framework.values import MetricType, MetricUnit

WINDOWS = (1, 16, 60, 300, 3_600, 30 * 86_400)
"""The windows that everything is read for in the end, in seconds."""

METHODS = ("add", "set", "increment", "decrement", "observe", "time")
"""The ways to record into a bound series."""


class Number(IntEnum):
    """A subclass of ``int``."""

    THREE = 3


class Word(StrEnum):
    """A subclass of ``str``."""

    ROUTE = "/route"


class Half(float):
    """A subclass of ``float``."""


class Stubborn:
    """An object that cannot be converted to a string."""

    def __str__(self) -> str:
        raise RuntimeError("no")

    def __repr__(self) -> str:
        return "stubborn"


SPECIALS: dict[str, Any] = {
    "decimal": Decimal("2.5"),
    "fraction": Fraction(1, 3),
    "huge": 10**400,
    "int enum": Number.THREE,
    "text enum": Word.ROUTE,
    "half": Half(0.5),
    "stubborn": Stubborn(),
    "list": [1],
    "bytes": b"a",
}
"""Values that JSON does not have."""


def revived(value: Any) -> Any:
    """Return an argument of a scenario; ``{"special": …}`` is one of `SPECIALS`."""
    return SPECIALS[value["special"]] if isinstance(value, dict) else value


def revived_tags(tags: Any) -> Any:
    """Return the tags of a scenario, which are a list of pairs, so that a name may be any value."""
    return {revived(name): revived(value) for name, value in tags} if isinstance(tags, list) else tags


def plain(value: Any) -> Any:
    """Return a result as a JSON value."""
    if value is None or (isinstance(value, bool | int | float | str) and not isinstance(value, Enum)):
        return value
    if hasattr(value, "quantiles"):
        return _plain_distribution(value)
    if hasattr(value, "is_exact"):
        # Of a mixture of integers and floats, the engine in pure Python does not know whether all of the
        # integers together leave 64 bits.
        is_exact = value.is_exact if isinstance(value.value, int) else None
        return {"records": value.records, "value": value.value, "is_exact": is_exact}
    if hasattr(value, "integral"):
        names = ("records", "last", "min", "max", "first", "first_ns", "last_ns", "integral", "is_stepped")
        return {name: getattr(value, name) for name in names}
    if hasattr(value, "endings"):
        return {"records": value.records, "endings": plain(value.endings), "rate": value.success_rate}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, datetime | timedelta):
        return str(value)
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    return [plain(item) for item in value]


def _plain_distribution(distribution: Any) -> dict[str, Any]:
    state = distribution.state
    _, negative, zeros, positive = distribution.buckets
    return {
        "count": distribution.count,
        "records": distribution.records,
        "failures": distribution.failures,
        "min": distribution.min,
        "max": distribution.max,
        "sum": distribution.sum,
        "avg": distribution.mean,
        "stddev": distribution.stddev,
        "relative_error": distribution.relative_error,
        "scale": distribution.scale,
        "exact": None if state.exact is None else sorted(state.exact),
        "negative": [list(item) for item in negative.items()],
        "zeros": zeros,
        "positive": [list(item) for item in positive.items()],
        "quantiles": distribution.quantiles(0.001, 0.1, 0.5, 0.9, 0.999, 1.0) if distribution.count else None,
    }


def parsed(text: str, format: str) -> Any:
    """Return an exported text as data, so that its numbers can be compared as numbers."""
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        for row in rows:
            row.update({column: json.loads(row[column]) for column in ("value", "tags", "metadata")})
        return rows
    if format == "jsonl":
        return [json.loads(line) for line in text.splitlines()]
    if format == "prometheus":
        return parsed_exposition(text)
    return json.loads(text)


def parsed_exposition(text: str) -> list[Any]:
    """Return the families of a Prometheus text: comments, and samples in the order of their labels.

    A sample is its series, its value, and the spelling of that if it is an integer.
    """
    families: list[Any] = []
    for is_comment, lines in groupby(text.splitlines(), lambda line: line.startswith("#")):
        samples = [line.rpartition(" ") for line in lines]
        families += (
            ["".join(sample) for sample in samples]
            if is_comment
            else [
                sorted(
                    [series, float(value), value if value.isdigit() else "float"]
                    for series, _, value in samples
                )
            ]
        )
    return families


class ScenarioPlayer:
    """Plays a scenario on a store and all of its views.

    Args:
        setup: Arguments of the store; times are in seconds.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.clock = ManualClock()
        self.clock.advance(setup["begin"])
        expire_after = setup["expire_after"]
        self.store = store = Store(
            self.clock,
            timedelta(seconds=setup["retention"]),
            on_error=setup["on_error"],
            budgets=Budgets(**setup["budgets"]),
            expire_after=None if expire_after is None else timedelta(seconds=expire_after),
            tags=setup["tags"],
            rules=[Rule(**rule) for rule in setup["rules"]],
            default_buckets=setup["default_buckets"],
        )
        self.registry = CollectorRegistry()
        if setup["is_exposed"]:
            PrometheusCollector(self.registry, store)
        self.collector = InMemoryCollector(store)
        self.timer, self.tracker = InMemoryTimer(store), InMemoryTracker(store)
        self.aggregator = InMemoryAggregator(store)
        self.system = MetricsSystem(
            collector=self.collector, timer=self.timer, tracker=self.tracker, aggregator=self.aggregator
        )
        self.scopes = [self.collector, self.collector.with_tags({"zone": "eu", "a": "scope"})]
        self.exposition = Exposition(store)
        self.bound: list[Any] = []
        self.timer_ids: list[str] = []
        self.logs: list[Any] = []
        self.removed: list[Any] = []
        store.on_removed.append(
            lambda named, series, final: self.removed.append([*named[:1], series.tags, plain(final)])
        )

    # -- records ---------------------------------------------------------------------------------------

    def record(self, scope: int, kind: str, name: Any, value: Any, tags: Any) -> None:
        """Record a value by name and tags."""
        record = getattr(self.scopes[scope], f"record_{kind}")
        record(revived(name), revived(value), tags=revived_tags(tags))

    def record_unit(self, name: Any, duration: Any, unit: str, tags: Any) -> None:
        """Record a duration in a unit, or in an invalid one."""
        known = MetricUnit.__members__
        self.collector.record_timer(name, revived(duration), known.get(unit, unit), revived_tags(tags))  # type: ignore[arg-type]

    def step(self, scope: int, direction: str, name: Any, tags: Any) -> None:
        """Increment or decrement."""
        getattr(self.scopes[scope], direction)(revived(name), revived_tags(tags))

    def bind(self, scope: int, kind: str, name: Any, tags: Any) -> None:
        """Bind a series."""
        self.bound.append(getattr(self.scopes[scope], kind)(revived(name), revived_tags(tags)))

    def use(self, number: int, way: int, value: Any) -> None:
        """Record into a bound series, in one of its ways."""
        if self.bound:
            series = self.bound[number % len(self.bound)]
            methods = [method for method in METHODS if hasattr(series, method)]
            method = methods[way % len(methods)]
            if method == "time":
                with series.time():
                    self.clock.advance(0.25)
            else:
                getattr(series, method)(revived(value))

    def burst(self, kind: str, name: str, tags: Any, seed: int, count: int, pause: float) -> None:
        """Record many values of a series; some are equal, some far apart."""
        source = random.Random(seed)
        record, tags = getattr(self.collector, f"record_{kind}"), revived_tags(tags)
        for number in range(count):
            value = source.lognormvariate(0, source.choice([0.1, 1, 8]))
            record(name, value if number % 3 else round(value), tags=tags)
            if pause:
                self.clock.advance(pause)

    def spread(self, kind: str, name: str, tag: str, first: int, count: int) -> None:
        """Record one value of each of many series."""
        record = getattr(self.collector, f"record_{kind}")
        for number in range(first, first + count):
            record(name, number, tags={tag: str(number), "b": str(number % 2)})

    def traffic(self, seed: int, count: int, pause: float, values: list[Any]) -> None:
        """Record values of all kinds into a few series, while time passes."""
        source = random.Random(seed)
        for _ in range(count):
            value = values[source.randrange(len(values))] if values else source.randrange(100)
            tags = {name: source.choice("12") for name in source.sample("ab", source.randrange(3))}
            kind = source.choice(["counter", "gauge", "histogram", "timer", "operation", "step"])
            if kind == "operation":
                self.call(self.measure, "o", tags, pause / 10, source.choice([None, "E1", "E2"]))
            elif kind == "step":
                self.call(source.choice([self.collector.increment, self.collector.decrement]), "level", tags)
            else:
                self.call(self.record, 0, kind, kind[0], value, list(tags.items()))
            self.clock.advance(source.choice([0, 0, 0.3, 1, 2]) * pause)

    # -- operations ------------------------------------------------------------------------------------

    def start(self, operation: Any) -> None:
        """Start a timer."""
        self.timer_ids.append(self.timer.start_timer(revived(operation), {"a": 1}))

    def stop(self, number: int, success: bool) -> Any:
        """Stop one of the started timers, or an unknown one."""
        timer_id = self.timer_ids.pop(number % len(self.timer_ids)) if self.timer_ids else "unknown"
        result = self.timer.stop_timer(timer_id, success)
        return [result.operation_name, result.duration, str(result.start_time), str(result.end_time)]

    def time_operation(self, operation: Any, seconds: float, fails: bool) -> Any:
        """Time a function."""

        def work() -> int:
            self.clock.advance(seconds)
            return 1 // (0 if fails else 1)

        result = self.timer.time_operation(revived(operation), work)
        return [result.duration, result.success]

    def track(self, operation: Any, error_type: Any) -> None:
        """Count a success or a failure."""
        if error_type is None:
            self.tracker.record_success(revived(operation))
        else:
            self.tracker.record_failure(revived(operation), revived(error_type), {"number": 1})

    def measure(self, operation: Any, tags: Any, seconds: float, error_type: Any) -> None:
        """Measure a block that succeeds or fails."""
        with self.system.measure(revived(operation), revived_tags(tags)) as measurement:
            self.clock.advance(seconds)
            measurement.error_type = revived(error_type)

    # -- everything else -------------------------------------------------------------------------------

    def advance(self, seconds: float) -> None:
        """Advance the clock."""
        self.clock.advance(seconds)

    def set_wall(self, moment: str) -> None:
        """Set the wall clock."""
        self.clock.set_wall(datetime.fromisoformat(moment))

    def describe(self, name: Any, changes: dict[str, Any]) -> None:
        """Describe a name."""
        if isinstance(changes.get("unit"), str):
            changes = {**changes, "unit": MetricUnit.__members__.get(changes["unit"], changes["unit"])}
        self.collector.describe(revived(name), **changes)

    def set_default_buckets(self, buckets: Any) -> None:
        """Change the buckets of names without a description."""
        self.store.default_buckets = buckets

    def remove(self, name: Any, tags: Any) -> bool:
        """Remove a name or one of its series."""
        return self.collector.remove(name, revived_tags(tags))

    def subscribe(self, capacity: int) -> int:
        """Write all records to a log from now on."""
        self.logs.append(self.store.core.subscribe(capacity))
        return self.logs[-1].start

    def drain(self) -> Any:
        """Read all logs."""
        return [
            [
                lost,
                [[each[0].owner.name, each[0].tags, *map(plain, each[1:])] for each in records],
            ]
            for lost, records in (log.drain() for log in self.logs)
        ]

    def unsubscribe(self) -> None:
        """End the oldest log."""
        if self.logs:
            self.store.core.unsubscribe(self.logs.pop(0))

    def reset(self) -> None:
        """Do the same as a child process after a fork."""
        store_module._reset_stores()

    # -- reads -----------------------------------------------------------------------------------------

    def summary(self, name: Any, seconds: float | None, tags: Any) -> Any:
        """Summarize a metric."""
        return self.aggregator.get_metric_summary(name, _window(seconds), tags=revived_tags(tags))

    def timing(self, operation: Any, seconds: float | None, tags: Any) -> Any:
        """Summarize the durations of an operation."""
        return self.timer.get_timing_stats(operation, time_window=_window(seconds), tags=revived_tags(tags))

    def outcomes(self, operation: Any, seconds: float | None, tags: Any) -> Any:
        """Return how an operation ended."""
        window, tags = _window(seconds), revived_tags(tags)
        return [
            self.tracker.get_success_rate(operation, window, tags=tags),
            self.tracker.get_failure_breakdown(operation, window, tags=tags),
            plain(self.store.outcomes(operation, window, tags)),
        ]

    def history(self, name: Any, seconds: float | None, points: int) -> Any:
        """Return a time series."""
        return plain(self.store.history(name, _window(seconds), points))

    def by_tag(self, tags: Any) -> Any:
        """Return the series that carry some tags."""
        return plain(self.aggregator.get_metrics_by_tag(revived_tags(tags)))

    def top(self, metric_type: str, limit: int) -> Any:
        """Return the largest values."""
        return [value.value for value in self.aggregator.get_top_metrics(MetricType[metric_type], limit)]

    def readings(self) -> Any:
        """Return every series with its distribution and buckets."""
        return [
            plain([*self.store.iter_readings()]),
            plain([*self.store.iter_timing_readings()]),
            plain([*self.store.iter_outcome_readings()]),
        ]

    def distributions(self) -> Any:
        """Return the distribution of every series."""
        return plain(self.aggregator.get_distributions())

    def export(self, format: str) -> Any:
        """Return everything as text."""
        exported = parsed(self.aggregator.export_metrics(format), format)
        if format == "snapshot":
            exported["metadata"].pop("run_id")
        return exported

    def expose(self, format: str) -> Any:
        """Return the Prometheus text of the incremental writer."""
        return parsed_exposition(self.exposition.render(Format[format]).decode())

    def collect(self) -> Any:
        """Return the text that prometheus_client renders for the store."""
        return parsed_exposition(generate_latest(self.registry).decode())

    def counts(self) -> Any:
        """Return the store's internal counters."""
        store = self.store
        return [store.recorded, store.rejected, store.overflowed, store.abandoned, store.series_count]

    def series(self) -> Any:
        """Return every series with its state, and the engine's other attributes of it."""
        return [
            [
                str(named),
                each.tags,
                plain(each.state()),
                max(each.created_ns, 1),  # 0 means no record, also if the clock starts at 0
                each.last_ns // 1_000_000_000,
                each.is_live,
                each.recent is None or plain(each.recent.peek()),
                each.recent_missed,
                each.recent is not None and each.recent_from_ns,
            ]
            for named, metric in self.store.metrics()
            for each in metric.series()
        ]

    def slots(self) -> Any:
        """Return the windows and slots of every metric."""
        return [
            [[plain(slot.peek()), slot.bounds, slot.law] for slot in metric.slots]
            for _, metric in self.store.metrics()
        ]

    def everything(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """Yield all reads at the end, each with its name."""
        for read in ("counts", "series", "slots", "readings", "distributions", "collect", "drain"):
            yield read, getattr(self, read)
        for format in ("json", "jsonl", "csv", "prometheus", "snapshot"):
            yield f"export {format}", lambda format=format: self.export(format)  # type: ignore[misc]
        for format in Format.__members__:
            yield f"expose {format}", lambda format=format: self.expose(format)  # type: ignore[misc]
        wanted = [[["a", "1"]], [["b", "1"]], [["zone", "eu"]], [["a", "1"], ["b", "2"]]]
        for tags in [[], *wanted]:
            yield f"by tag {tags}", lambda tags=tags: self.by_tag(tags)  # type: ignore[misc]
        for named, _ in self.store.metrics():
            name = named.name
            read = self.summary
            if named.is_operation:
                read = self.outcomes if named.metric_type is MetricType.RATE else self.timing
            for seconds in (None, *WINDOWS):
                for tags in (None, *wanted):
                    yield (
                        f"{read.__name__} {name} {seconds} {tags}",
                        lambda read=read, name=name, seconds=seconds, tags=tags: read(name, seconds, tags),  # type: ignore[misc]
                    )
            if not named.is_operation:
                yield f"history {name}", lambda name=name: self.history(name, 86_400, 20)  # type: ignore[misc]
            else:
                yield f"failures {name}", lambda name=name: plain(self.store.recent_failures(name))  # type: ignore[misc]
        yield "counts", self.counts
        yield "removed", lambda: self.removed

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of a call, or its error."""
        try:
            return function(*arguments)
        except Exception as error:  # noqa: BLE001 - errors are compared as results are
            return {"error": type(error).__name__, "message": str(error)}


def play(scenario: Mapping[str, Any]) -> list[Any]:
    """Play a scenario, and return the result of each call with its name."""
    with _logged() as logged:
        player = ScenarioPlayer(scenario["setup"])
        answers = [
            [" ".join(map(str, step)), player.call(getattr(player, step[0]), *step[1:])]
            for step in scenario["steps"]
        ]
        answers += [[name, player.call(read)] for name, read in player.everything()]
        answers.append(["logged", list(logged)])
        player.system.shutdown_metrics()
    return answers


def _window(seconds: float | None) -> timedelta | None:
    return None if seconds is None else timedelta(seconds=seconds)


@contextlib.contextmanager
def _logged() -> Iterator[list[str]]:
    """Collect the library's log events."""
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("metrics_framework")
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def answer(result: object) -> None:
    """Write a line of JSON."""
    sys.stdout.write(f"{json.dumps(result)}\n")
    sys.stdout.flush()


def main() -> None:
    """Play the scenarios of the input, one per line."""
    logging.getLogger("metrics_framework").propagate = False
    find = cache(provenance.find_provenance)  # a snapshot runs git, which takes longer than the scenario
    provenance.find_provenance = find  # type: ignore[assignment]
    answer(ENGINE)
    for line in sys.stdin:
        answer(play(json.loads(line)))


if __name__ == "__main__":
    main()
