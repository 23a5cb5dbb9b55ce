"""Snapshots from the JSON files of pytest-benchmark and hyperfine.

Each benchmark, or command, becomes a snapshot: its name is the tag ``latency_metric``, its times are the
latency, and its raw times are the distribution of the sidecar. Both tools store seconds; v1 has milliseconds.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from metrics_framework.errors import InvalidInputError, SnapshotError
from metrics_framework.recording import Distribution
from metrics_framework.snapshots.build import LATENCY_TAG
from metrics_framework.snapshots.keys import SUCCESS_RATE, custom_key
from metrics_framework.snapshots.provenance import COMMIT_DATE_TAG, MACHINE_TAG, RESERVED_TAGS
from metrics_framework.snapshots.rules import MAX_TAGS, is_measurement, parse_timestamp, quote
from metrics_framework.snapshots.v1 import (
    Environment,
    LatencyMetrics,
    Metrics,
    PerformanceSnapshot,
    SnapshotMetadata,
)

RECORDER_TAG = "recorder"
"""Metadata tag: the tool that measured, with its version where the file has it."""

DIRTY_TAG = "dirty"
"""Metadata tag: ``true`` if the working tree had changes that were not committed."""

_NO_COMMITS = ("unversioned", "unknown", "")
_NO_BRANCHES = ("(unknown)", "(detached head)", "")


class ConvertedBenchmark(NamedTuple):
    """A snapshot of one benchmark.

    Attributes:
        snapshot: The snapshot.
        distributions: For its sidecar; empty if the file has no raw times.
    """

    snapshot: PerformanceSnapshot
    distributions: dict[str, Distribution]


def convert_benchmarks(
    document: object, written: datetime, name: str | None = None
) -> list[ConvertedBenchmark]:
    """Return a snapshot for each benchmark of a document.

    Without raw times, which pytest-benchmark saves only with ``--benchmark-save-data``, the latency has only
    the mean and the median. The environment is `Environment.CUSTOM`, because no file tells it. The times of
    the snapshots differ by microseconds, so that a history keeps their order.

    Args:
        document: The parsed JSON of a file of pytest-benchmark or hyperfine.
        written: The time of the runs, if the document has none.
        name: The name of all benchmarks, in place of those of the document.

    Raises:
        InvalidInputError: If the document is of another tool, or a benchmark of it is not valid.
    """
    if isinstance(document, dict) and isinstance(document.get("benchmarks"), list):
        return list(_of_pytest_benchmark(document, written, name))
    if isinstance(document, dict) and isinstance(document.get("results"), list):
        return list(_of_hyperfine(document, written, name))
    raise InvalidInputError(
        "it is neither a file of pytest-benchmark (--benchmark-json, an object with 'benchmarks') nor of"
        " hyperfine (--export-json, an object with 'results')"
    )


def _of_pytest_benchmark(
    document: Mapping[str, Any], written: datetime, new_name: str | None
) -> Iterator[ConvertedBenchmark]:
    commit, machine = _mapping(document, "commit_info"), _mapping(document, "machine_info")
    tags = {RECORDER_TAG: f"pytest-benchmark {document.get('version', '')}".strip()}
    if (kind := _machine(machine)) is not None:
        tags[MACHINE_TAG] = kind
    if (date := _date(commit.get("time"))) is not None:
        tags[COMMIT_DATE_TAG] = date.isoformat()
    if commit.get("dirty") is True:
        tags[DIRTY_TAG] = "true"
    for number, one in enumerate(document["benchmarks"]):
        place = f"benchmarks[{number}]"
        if not isinstance(one, dict):
            raise InvalidInputError(f"{place}: must be an object, got {quote(one)}")
        name = _text(one, "fullname") or _text(one, "name")
        stats = one.get("stats")
        if name is None or not isinstance(stats, dict):
            raise InvalidInputError(f"{place}: has no 'fullname' and 'stats'")
        run_id = _run_id(document.get("datetime"), name, stats, *([new_name] if new_name else []))
        yield _converted(
            _Benchmark(new_name or name, stats, stats.get("data"), place),
            SnapshotMetadata(
                run_id=run_id,
                commit=_text(commit, "id", _NO_COMMITS),
                branch=_text(commit, "branch", _NO_BRANCHES),
                timestamp=_later(_date(document.get("datetime")) or written, number),
                environment=Environment.CUSTOM,
                tags=tags,
            ),
        )


def _of_hyperfine(
    document: Mapping[str, Any], written: datetime, new_name: str | None
) -> Iterator[ConvertedBenchmark]:
    results = document["results"]
    commands = Counter(_text(one, "command") for one in results if isinstance(one, dict))
    for number, one in enumerate(results):
        place = f"results[{number}]"
        if not isinstance(one, dict) or (name := _text(one, "command")) is None:
            raise InvalidInputError(f"{place}: must be an object with a 'command', got {quote(one)}")
        parameters = {
            f"parameter {key}" if key in RESERVED_TAGS else str(key): str(value)
            for key, value in _mapping(one, "parameters").items()
        }
        run_id = _run_id(name, one, *([new_name] if new_name else []))
        if commands[name] > 1 and parameters:  # several commands with the same --command-name
            name += f" ({', '.join(f'{key}={value}' for key, value in sorted(parameters.items()))})"
        tags = {**parameters, RECORDER_TAG: "hyperfine"}
        if len(tags) >= MAX_TAGS:
            raise InvalidInputError(f"{place}: has {len(parameters)} parameters, more than a snapshot holds")
        yield _converted(
            _Benchmark(
                new_name or name,
                one,
                one.get("times"),
                place,
                one.get("exit_codes"),
                one.get("memory_usage_byte"),
            ),
            SnapshotMetadata(
                run_id=run_id,
                timestamp=_later(written, number),
                environment=Environment.CUSTOM,
                tags=tags,
            ),
        )


class _Benchmark(NamedTuple):
    """One benchmark of a document.

    Attributes:
        name: Its name.
        statistics: ``mean`` and ``median`` in seconds.
        times: The raw times in seconds, if it has them.
        place: Its place in the document, for errors.
        exit_codes: The exit code of each run, if it has them.
        memory: The peak memory of each run in bytes, if it has them.
    """

    name: str
    statistics: Mapping[str, Any]
    times: Any
    place: str
    exit_codes: Any = None
    memory: Any = None


def _converted(one: _Benchmark, metadata: SnapshotMetadata) -> ConvertedBenchmark:
    distributions = {}
    if one.times:
        distribution = Distribution.of(_numbers(one.times, f"{one.place}.times", 1e3))
        distributions["latency"] = distribution
        mean = distribution.mean
        latency = LatencyMetrics(mean, *distribution.quantiles(0.5, 0.95, 0.99))
    else:
        mean, median = _numbers([one.statistics.get(key) for key in ("mean", "median")], one.place, 1e3)
        latency = LatencyMetrics(mean=mean, p50=median)
    memory = _numbers(one.memory, f"{one.place}.memory_usage_byte", 1e-6) if one.memory else []
    custom = {}
    if isinstance(one.exit_codes, list) and one.exit_codes:  # a run that a signal ended has null
        rate = sum(code == 0 for code in one.exit_codes) / len(one.exit_codes)
        custom[custom_key(one.name, statistic=SUCCESS_RATE, operation=True)] = rate
    try:
        metrics = Metrics(
            latency,
            throughput=1e3 / mean if mean else None,
            memory_mb=max(memory) if memory else None,
            custom=custom,
        )
        tagged = SnapshotMetadata(**{**vars(metadata), "tags": {**metadata.tags, LATENCY_TAG: one.name}})
    except SnapshotError as error:
        raise InvalidInputError(f"{one.place}: {'; '.join(error.violations)}") from error
    return ConvertedBenchmark(PerformanceSnapshot(metrics, metadata=tagged), distributions)


def _numbers(values: object, place: str, factor: float) -> list[float]:
    if isinstance(values, list) and all(map(is_measurement, values)):
        scaled = [value * factor for value in values]
        if all(map(is_measurement, scaled)):
            return scaled
    raise InvalidInputError(f"{place}: must be finite numbers of 0 or more, got {quote(values)}")


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _text(document: Mapping[str, Any], key: str, unless: tuple[str, ...] = ("",)) -> str | None:
    value = document.get(key)
    return value if isinstance(value, str) and value not in unless else None


def _date(value: object) -> datetime | None:
    with suppress(ValueError):
        return parse_timestamp(value)
    return None


def _later(moment: datetime, place: int) -> datetime:
    """Return the time of a benchmark of a document, which has one time for all."""
    with suppress(OverflowError):  # the year 9999
        return moment + timedelta(microseconds=place)
    return moment


def _machine(info: Mapping[str, Any]) -> str | None:
    """Return the kind of a machine, in the words of `metrics_framework.snapshots.provenance.find_machine`."""
    system, architecture = _text(info, "system"), _text(info, "machine")
    if system is None or architecture is None:
        return None
    cpu = _mapping(info, "cpu")
    parts = [f"{system.lower()} {architecture}"]
    if isinstance(count := cpu.get("count"), int):
        parts.append(f"{count} CPUs")
    model = _text(cpu, "brand_raw") or _text(cpu, "brand")
    return ", ".join([*parts, *([model] if model else [])])


def _run_id(*parts: object) -> str:
    """Return an id that is equal whenever the same file is converted again, so that a run counts once."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, repr(parts)))
