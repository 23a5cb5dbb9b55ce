"""The history as an aggregator: contract, names, runs, and answers equal to reading every file."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics_adapters.combined import CombinedAggregator
from metrics_adapters.in_memory import InMemoryAggregator
from metrics_adapters.snapshot_writer import SnapshotAggregator, SnapshotWriter
from metrics_adapters.snapshot_writer.index import INDEX_NAME
from metrics_framework import MetricsSystem
from metrics_framework.clock import ManualClock, utc
from metrics_framework.errors import InvalidInputError, OutputError, UnknownMetricError
from metrics_framework.snapshots import Environment, custom_key
from metrics_framework.testing.conformance import MetricsAggregatorContract, Parts
from metrics_framework.values import MetricType, MetricUnit
from tests.metrics_adapters.snapshot_writer.histories import START, document, read_all, summarize, write

# -- the contract ------------------------------------------------------------------------------------------


class RunPerRecord:
    """A collector that writes one run with one number for each record."""

    def __init__(self, folder: Path, clock: ManualClock) -> None:
        self._folder, self._clock, self._runs = folder, clock, 0

    def record_gauge(self, name, value, tags=None):
        """Write a snapshot."""
        self._runs += 1
        taken = (utc(self._clock) - START) / timedelta(minutes=1)
        content = document(taken, str(self._runs), **{custom_key(name, tags): value})
        write(self._folder / f"{self._runs}.json", content)

    record_counter = record_histogram = record_gauge

    def record_timer(self, name, duration, unit=MetricUnit.MILLISECONDS, tags=None):
        """Write a snapshot."""
        self.record_gauge(name, duration, tags)

    def increment(self, name, tags=None):
        """Write a snapshot."""
        self.record_gauge(name, 1, tags)

    decrement = increment


class TestContract(MetricsAggregatorContract):
    """`SnapshotAggregator` is a `MetricsAggregator`: every run sets its gauges once."""

    metric_types = frozenset({"gauge"})
    more_keys = frozenset({"stddev", "p50", "p90", "p95", "p99"})
    reentrant = False

    def make(self, clock):
        """Make a folder without snapshots."""
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        return Parts(
            collector=RunPerRecord(folder, clock), aggregator=SnapshotAggregator(folder, clock=clock)
        )

    def close(self, parts):
        """Remove the folder."""
        self._folder.cleanup()

    def test_everything_can_be_exported_as_json(self, collector, aggregator, parts):
        """The default format has every series. v1 has no negative numbers."""
        collector.record_gauge("a", 2, {"x": "1"})
        (value,) = json.loads(aggregator.export_metrics())["metrics"]
        assert (value["name"], value["tags"], value["value"]) == ("a", {"x": "1"}, 2)
        assert aggregator.export_metrics() == aggregator.export_metrics("json")


# -- equality with the files -------------------------------------------------------------------------------

MINUTES = st.sampled_from([-60.0, 0.0, 0.0, 1.0, 1.5, 59.0, 60.0, 61.0, 600.0])
"""Clocks jump: runs are written in no order, several at one moment, and some later than now."""

NUMBERS = st.floats(0, 1e300) | st.integers(0, 2**60) | st.sampled_from([0, 5e-324, 0.1, 1e308])
DOCUMENTS = st.builds(
    document,
    MINUTES,
    st.none() | st.sampled_from("abc"),
    st.none() | st.dictionaries(st.sampled_from(["mean", "p50", "p95", "p99"]), NUMBERS, min_size=1),
    branch=st.sampled_from([None, "main", "größe", "\ud800"]),
    environment=st.sampled_from(["ci", "local"]),
    tags=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2),
    hits=NUMBERS,
)
FILES = st.sampled_from(["a.json", "a-2.json", "a-10.json", "b.json", "ö.json"])
BROKEN = st.sampled_from([b"", b"{", b"[]", b"\xff", b'{"metrics": {}}', b"{}"])
STEPS = st.one_of(
    st.tuples(st.just("write"), FILES, DOCUMENTS),
    st.tuples(st.just("write"), FILES, BROKEN),
    st.tuples(st.just("remove"), FILES, st.none()),
    st.tuples(
        st.just("index"), st.sampled_from(["remove", "empty", "cut", "garbage", "flip"]), st.integers(0)
    ),
    st.tuples(st.just("ask"), st.booleans(), st.none()),
)


def damage(index: Path, how: str, place: int) -> None:
    """Damage an index as a broken disk does."""
    if not index.exists() or not index.stat().st_size:
        return
    content = bytearray(index.read_bytes())
    if how == "remove":
        index.unlink()
        return
    if how == "flip":
        content[place % len(content)] ^= 1 << place % 8
    index.write_bytes(
        {"empty": b"", "cut": content[: -1 - place % len(content)], "flip": content}.get(how, b"no index")
    )


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(STEPS, max_size=10))
def test_answers_match_the_files(steps: list[tuple[str, Any, Any]]) -> None:
    """After any change of files and index, runs, values and summaries match the files."""
    clock = ManualClock(START + timedelta(hours=1))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        aggregator = SnapshotAggregator(folder, clock=clock)
        for number, (kind, what, how) in enumerate([*steps, ("ask", True, None)]):
            if kind == "write":
                content = how if isinstance(how, bytes) else json.dumps(how).encode()
                (folder / what).write_bytes(content)
                if number % 4:  # else it is recent, and may change twice in a clock tick
                    os.utime(folder / what, (1_700_000_000, 1_700_000_000 + number))
            elif kind == "remove":
                (folder / what).unlink(missing_ok=True)
            elif kind == "index":
                damage(folder / INDEX_NAME, what, how)
            else:
                asked = SnapshotAggregator(folder, clock=clock) if what else aggregator
                compare(asked, folder)


def compare(aggregator: SnapshotAggregator, folder: Path) -> None:
    """Query everything, and compare with the files."""
    truth = read_all(folder)
    assert [run.run_id for run in aggregator.runs()] == [said.get("run_id") for said, _ in truth]
    assert [measured for _, measured in aggregator.measurements()] == [measured for _, measured in truth]
    for key in {key for _, measured in truth for key in measured}:
        having = [(said, measured[key]) for said, measured in truth if key in measured]
        assert [value.value for value in aggregator.values(key)] == [value for _, value in having]
        check_summary(aggregator.get_metric_summary(key), [value for _, value in having], having[-1][1])
        recent = [value for said, value in having if said["timestamp"] >= START.isoformat()]
        hour = aggregator.get_metric_summary(key, timedelta(hours=1))
        check_summary(hour, recent, having[-1][1])
    for branch in ("main", "größe"):
        chosen = [said for said, _ in truth if said["branch"] == branch]
        runs = aggregator.where(branch=branch).runs()
        assert [run.branch for run in runs] == [branch] * len(chosen)
        assert [run.tags for run in runs] == [said["tags"] for said in chosen]
    tagged = [said["tags"] for said, _ in truth if said["tags"].get("x") == "1"]
    assert [run.tags for run in aggregator.where(tags={"x": "1"}).runs()] == tagged
    assert [run.run_id for run in aggregator.where(last=2).runs()] == [
        said.get("run_id") for said, _ in truth[-2:]
    ]


def check_summary(summary: dict[str, float], values: list[float], last: float) -> None:
    """Check the statistics of values, with sums up to rounding errors."""
    assert summary.pop("last") == last
    assert summary.pop("seconds") >= 0
    expected = summarize([float(value) for value in values])
    rounded = {
        key: pytest.approx(expected.pop(key), rel=1e-9, abs=1e-300)
        for key in ("avg", "stddev")
        if key in expected
    }
    assert summary == {**expected, **rounded}


# -- names -------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three runs of two branches, written by a system."""
    runs = [("main", "a" * 40, 5.0), ("main", "b" * 40, 7.0), ("dev", "b" * 39 + "c", 9.0)]
    for number, (branch, commit, p95) in enumerate(runs):
        said = {"branch": branch, "commit": commit, "tags": {"runner": "ubuntu", "number": str(number)}}
        content = document(number, f"run {number}", {"mean": 1.0, "p95": p95}, **said, **CUSTOM)
        content["metrics"] |= {"throughput": 10.0 * number, "memory_mb": 64}
        write(tmp_path / f"{number}.json", content)
    return tmp_path


CUSTOM = {
    "git/commits/created": 3,
    "http/requests[endpoint:/a]": 5,
    "http/requests[endpoint:/b%2Ehtml]": 6,
    "payload/size/mean": 100.5,
    "payload/size/count": 8,
    "operation:db/query/p95": 12.5,
    "operation:db/query/success_rate": 0.75,
    "somebody else's 100%": 1,
}


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("latency.p95", ["latency.p95"]),
        ("throughput", ["throughput"]),
        ("custom.git/commits/created", ["custom.git/commits/created"]),
        ("git/commits/created", ["custom.git/commits/created"]),
        ("git.commits.created", ["custom.git/commits/created"]),
        ("payload.size.mean", ["custom.payload/size/mean"]),
        ("db.query.p95", ["custom.operation:db/query/p95"]),
        (
            "http.requests",
            ["custom.http/requests[endpoint:/a]", "custom.http/requests[endpoint:/b%2Ehtml]"],
        ),
        ("http/requests[endpoint:/a]", ["custom.http/requests[endpoint:/a]"]),
        ("somebody else's 100%", ["custom.somebody else's 100%"]),
    ],
)
def test_a_metric_has_several_names(folder: Path, name: str, keys: list[str]) -> None:
    """Flat key, custom key and recorded name give the same values, of each series."""
    values = SnapshotAggregator(folder).values(name)
    assert [value.key for value in values] == keys * 3
    assert [value.run.run_id for value in values] == [f"run {number}" for number in range(3) for _ in keys]


def test_a_metric_comes_before_an_operation_of_its_name(tmp_path: Path) -> None:
    """An ambiguous name means the metric, then the statistic, then the operation. Keys are unique."""
    keys = {"x%2Ep95": 1, "x/p95": 2, "operation:x/p95": 3}
    aggregator = SnapshotAggregator(tmp_path)
    for custom in (keys, {key: keys[key] for key in ("x/p95", "operation:x/p95")}, {"operation:x/p95": 3}):
        write(tmp_path / "a.json", document(**custom))
        assert [value.value for value in aggregator.values("x.p95")] == [min(custom.values())]
        assert [value.value for value in aggregator.values("operation:x/p95")] == [3]


@pytest.mark.parametrize("ask", ["values", "get_metric_summary"])
def test_an_unknown_metric_is_an_error_with_suggestions(folder: Path, ask: str) -> None:
    """The error quotes the name and the sources, and suggests similar names and flat keys."""
    aggregator = SnapshotAggregator(folder)
    for wrong, meant in (("latency.p59", "latency.p95"), ("git.comits.created", "git.commits.created")):
        with pytest.raises(UnknownMetricError) as caught:
            getattr(aggregator, ask)(wrong)
        assert f"no metric {wrong!r} in the 3 runs of {str(folder)!r}" in str(caught.value)
        assert f"Did you mean {meant!r}" in str(caught.value)
    with pytest.raises(UnknownMetricError, match=r"the 0 selected runs of .*: other runs have it"):
        getattr(aggregator.where(branch="none"), ask)("latency.p95")
    with pytest.raises(UnknownMetricError, match="There are none yet"):
        getattr(SnapshotAggregator(folder / "nothing"), ask)("latency.p95")


# -- summaries ---------------------------------------------------------------------------------------------


def test_a_summary_is_over_runs(folder: Path) -> None:
    """Each run has the same weight, quantiles are nearest ranks, and seconds count from the oldest run."""
    clock = ManualClock(START + timedelta(minutes=10))
    assert SnapshotAggregator(folder, clock=clock).get_metric_summary("latency.p95") == {
        "count": 3,
        "seconds": 600.0,
        "last": 9.0,
        "avg": 7.0,
        "min": 5.0,
        "max": 9.0,
        "stddev": pytest.approx((8 / 3) ** 0.5),
        "p50": 7.0,
        "p90": 9.0,
        "p95": 9.0,
        "p99": 9.0,
    }


def test_a_window_has_a_start_and_no_end(folder: Path) -> None:
    """It includes a run at its start, and a run of a machine whose clock is ahead; `seconds` covers it."""
    clock = ManualClock(START + timedelta(minutes=1.5))
    aggregator = SnapshotAggregator(folder, clock=clock)
    summary = aggregator.get_metric_summary("latency.p95", timedelta(minutes=0.5))
    assert (summary["count"], summary["seconds"], summary["last"]) == (2, 60.0, 9.0)
    assert [one.value for one in aggregator.values("latency.p95", timedelta(minutes=0.5))] == [7.0, 9.0]
    assert aggregator.get_metric_summary("latency.p95")["seconds"] == 120.0


def test_several_series_are_summarized_together(folder: Path) -> None:
    """All values are used, and `last` is absent."""
    summary = SnapshotAggregator(folder).get_metric_summary("http.requests")
    assert (summary["count"], summary["min"], summary["max"], summary["avg"]) == (6, 5, 6, 5.5)
    assert "last" not in summary


@pytest.mark.parametrize("window", [timedelta(0), timedelta(-1), 60, "1h"])
def test_an_invalid_window_is_an_error(folder: Path, window: Any) -> None:
    """Every method quotes the window."""
    aggregator = SnapshotAggregator(folder)
    for ask in (
        lambda: aggregator.values("throughput", window),
        lambda: aggregator.get_metric_summary("throughput", window),
        lambda: aggregator.get_success_rate("db.query", window),
    ):
        with pytest.raises(InvalidInputError, match=r"not a positive duration") as caught:
            ask()
        assert repr(window) in str(caught.value)


def test_a_success_rate_is_averaged_over_runs(tmp_path: Path) -> None:
    """Each run has the same weight. Without a rate in the window, it is 1.0."""
    for minute, rate in enumerate([1.0, 0.5, 0.0]):
        write(tmp_path / f"{minute}.json", document(minute, **{"operation:db/query/success_rate": rate}))
    write(tmp_path / "3.json", document(30, **{"operation:other/count": 3}))
    aggregator = SnapshotAggregator(tmp_path, clock=ManualClock(START + timedelta(minutes=3)))
    assert aggregator.get_success_rate("db.query") == 0.5
    assert aggregator.get_success_rate("db.query", timedelta(minutes=2)) == 0.25
    assert aggregator.get_success_rate("db.query", timedelta(seconds=30)) == 1.0
    with pytest.raises(UnknownMetricError, match=r"success rate of 'db\.qery'.*Did you mean 'db\.query'"):
        aggregator.get_success_rate("db.qery")


def test_the_largest_values_are_ranked_by_unit(folder: Path) -> None:
    """Durations rank as timers, operations per second as rates, and all values as gauges."""
    aggregator = SnapshotAggregator(folder)
    timers = aggregator.get_top_metrics(MetricType.TIMER)
    assert [(one.name, one.value) for one in timers] == [
        ("db.query.p95", 12.5),
        ("latency.p95", 9.0),
        ("latency.mean", 1.0),
    ]
    assert {one.metric_type for one in timers} == {MetricType.TIMER}
    assert [one.name for one in aggregator.get_top_metrics(MetricType.RATE)] == ["throughput"]
    assert [one.name for one in aggregator.get_top_metrics(MetricType.GAUGE, 2)] == [
        "payload.size.mean",
        "memory_mb",
    ]
    assert aggregator.get_top_metrics(MetricType.COUNTER) == []


def test_a_series_has_its_tags_and_those_of_its_runs(folder: Path) -> None:
    """A filter selects matching runs and series. The tags that all runs share are listed."""
    aggregator = SnapshotAggregator(folder, clock=ManualClock(START))
    found = {value.metadata["key"]: value for value in aggregator.get_metrics_by_tag({})}
    one = found["custom.http/requests[endpoint:/b%2Ehtml]"]
    assert (one.name, one.value, one.unit) == ("http.requests", 6, MetricUnit.COUNT)
    assert one.tags == {"endpoint": "/b.html", "runner": "ubuntu"}
    assert one.timestamp == START + timedelta(minutes=2)
    query = found["custom.operation:db/query/p95"]
    assert (query.name, query.unit) == ("db.query.p95", MetricUnit.MILLISECONDS)
    assert query.metadata["operation"] is True
    assert query.metadata["statistic"] == "p95"
    (value,) = aggregator.get_metrics_by_tag({"endpoint": "/a", "number": "1"})
    assert (value.value, value.metadata["count"]) == (5, 1)
    assert value.tags == {"endpoint": "/a", "number": "1", "runner": "ubuntu"}
    assert aggregator.get_metrics_by_tag({"endpoint": "/a", "number": "7"}) == []


def test_every_series_is_in_an_export(folder: Path) -> None:
    """Each format has all series. An unknown format is an error that lists the known ones."""
    aggregator = SnapshotAggregator(folder)
    listed = len(aggregator.get_metrics_by_tag({}))
    assert len(list(csv.DictReader(io.StringIO(aggregator.export_metrics("csv"))))) == listed
    assert len(json.loads(aggregator.export_metrics())["metrics"]) == listed
    assert "latency_p95" in aggregator.export_metrics("prometheus")
    with pytest.raises(InvalidInputError, match="jsonl"):
        aggregator.export_metrics("xml")


# -- selected runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "runs"),
    [
        ({}, "012"),
        ({"branch": "main"}, "01"),
        ({"commit": "b" * 40}, "1"),
        ({"commit": "b" * 7}, "12"),
        ({"commit": "b" * 6}, ""),
        ({"environment": "ci"}, "012"),
        ({"environment": Environment.LOCAL}, ""),
        ({"tags": {"number": "2"}}, "2"),
        ({"tags": {"number": 2}}, "2"),
        ({"tags": {"number": "2", "no": "tag"}}, ""),
        ({"last": 2}, "12"),
        ({"last": 9}, "012"),
        ({"last": 1, "branch": "main"}, "1"),
    ],
)
def test_runs_are_selected_by_their_context(folder: Path, chosen: dict[str, Any], runs: str) -> None:
    """All conditions apply at once, and `last` applies to the matching runs."""
    found = SnapshotAggregator(folder).where(**chosen).runs()
    assert "".join(run.run_id or "" for run in found).replace("run ", "") == runs


def test_conditions_add_up_and_do_not_change_the_history(folder: Path) -> None:
    """A second selection is within the first. The original history still has all runs."""
    history = SnapshotAggregator(folder)
    main = history.where(branch="main", tags={"runner": "ubuntu"})
    assert [run.run_id for run in main.where(tags={"number": "0"}).runs()] == ["run 0"]
    assert main.get_metric_summary("latency.p95")["max"] == 7.0
    assert len(history.runs()) == 3


@pytest.mark.parametrize(
    "chosen", [{"last": 0}, {"last": True}, {"last": "3"}, {"environment": "prod"}, {"tags": ["a"]}]
)
def test_an_invalid_condition_is_an_error(folder: Path, chosen: dict[str, Any]) -> None:
    """The error quotes the value."""
    with pytest.raises(InvalidInputError) as caught:
        SnapshotAggregator(folder).where(**chosen)
    assert repr(*chosen.values()) in str(caught.value)


@pytest.mark.parametrize("source", [None, 3, "", b"folder"])
def test_a_source_is_a_path(source: Any) -> None:
    """Anything else is an error that quotes it."""
    with pytest.raises(InvalidInputError) as caught:
        SnapshotAggregator(source)
    assert repr(source) in str(caught.value)


def test_a_run_has_its_context(folder: Path) -> None:
    """It is typed, with the whole context and the file."""
    run = SnapshotAggregator(folder).runs()[2]
    assert run.timestamp == START + timedelta(minutes=2)
    assert run.timestamp.tzinfo is UTC
    assert (run.branch, run.commit, run.environment) == ("dev", "b" * 39 + "c", Environment.CI)
    assert run.tags == {"number": "2", "runner": "ubuntu"}
    assert (run.path, run.line) == (folder / "2.json", None)


def test_a_missing_timestamp_is_the_modification_time(tmp_path: Path) -> None:
    """A run without an id is always a separate run."""
    for name in ("a.json", "b.json"):
        write(tmp_path / name, {"metrics": {"throughput": 1}})
        os.utime(tmp_path / name, ns=(0, 1_767_225_600_123_456_000))
    first, second = SnapshotAggregator(tmp_path).runs()
    assert first.timestamp == second.timestamp == datetime(2026, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC)
    assert first.run_id is None
    assert (first.commit, first.branch, first.environment) == (None, None, Environment.CI)


# -- other sources -----------------------------------------------------------------------------------------


def test_sources_form_one_history(folder: Path, tmp_path: Path) -> None:
    """Folders, files and JSON lines are read together. A copied baseline counts once."""
    runs = [json.loads((folder / f"{number}.json").read_text()) for number in range(3)]
    other = document(-1, "other", throughput=4)
    baselines = tmp_path / "baselines"
    write(baselines / "current.json", json.dumps(runs[1], indent=4).encode())
    lines = [*runs[:2], runs[0], other, {"metrics": {}}]
    write(baselines / "history.jsonl", "\n".join(json.dumps(line) for line in lines).encode())
    aggregator = SnapshotAggregator(folder, baselines)
    assert [run.run_id for run in aggregator.runs()] == ["other", "run 0", "run 1", "run 2"]
    assert aggregator.runs()[0].line == 4
    (left_out,) = aggregator.left_out()
    assert left_out.path == baselines / "history.jsonl"
    assert left_out.reason.startswith("line 5: metrics: must hold at least one")
    alone = SnapshotAggregator(baselines / "history.jsonl")
    assert [run.run_id for run in alone.runs()] == ["other", "run 0", "run 1"]
    assert [run.run_id for run in SnapshotAggregator(baselines / "current.json").runs()] == ["run 1"]


def test_a_missing_source_is_empty(tmp_path: Path) -> None:
    """A history may be queried before the first run is written, and has it then."""
    aggregator = SnapshotAggregator(tmp_path / "later", tmp_path / "later.jsonl")
    assert aggregator.runs() == []
    assert not (tmp_path / "later").exists()
    write(tmp_path / "later.jsonl", json.dumps(document(hits=1)).encode())
    assert len(aggregator.runs()) == 1


def test_a_source_that_cannot_be_listed_is_an_error(tmp_path: Path) -> None:
    """The error names the source."""
    write(tmp_path / "notes.txt", b"hello")
    with pytest.raises(OutputError, match=r"cannot list .*notes\.txt"):
        SnapshotAggregator(tmp_path / "notes.txt").runs()


def test_an_invalid_file_is_logged_once_and_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is listed as long as it exists. Files with other names are not read."""
    write(tmp_path / "bad.json", {"metrics": {"cpu_percent": 150}})
    for name in ("a.dist", ".hidden.json", "other.jsonl", "README"):
        write(tmp_path / name, b"no snapshot")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "gone.json").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "good.json", document(hits=1))
    aggregator = SnapshotAggregator(tmp_path)
    for _ in range(2):
        assert len(aggregator.runs()) == 1
        (left_out,) = aggregator.left_out()
        assert left_out.path == tmp_path / "bad.json"
        assert left_out.reason == "metrics.cpu_percent: must be a number from 0 to 100, got 150"
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "bad.json" in record.getMessage()
    assert (tmp_path / "bad.json").exists()
    (tmp_path / "bad.json").unlink()
    assert aggregator.left_out() == []


# -- integration -------------------------------------------------------------------------------------------


def test_runs_of_a_system_are_found_by_recorded_names(tmp_path: Path, clock: ManualClock) -> None:
    """From the collector through the writer to the history, names and tags are the same."""
    for number in range(2):
        with MetricsSystem(clock=clock) as metrics:
            metrics.collector.record_counter("git.commits.created", number, {"repo": "a.b"})
            metrics.collector.record_histogram("payload.size", 10 + number)
            with metrics.measure("db.query"):
                clock.advance(0.25)
            SnapshotWriter(tmp_path).write(metrics.snapshot())
        clock.advance(60)
    history = SnapshotAggregator(tmp_path, clock=clock)
    assert [one.value for one in history.values("git.commits.created")] == [0, 1]
    (commits,) = history.get_metrics_by_tag({"repo": "a.b"})
    assert commits.name == "git.commits.created"
    assert [one.value for one in history.values("payload.size.mean")] == [10, 11]
    assert history.get_success_rate("db.query") == 1.0
    assert history.get_metric_summary("latency.p95")["last"] == pytest.approx(250, rel=0.01)
    assert history.where(tags={"latency_metric": "db.query"}).get_metric_summary("throughput")["count"] == 2


def test_it_works_as_the_aggregator_of_a_system(folder: Path) -> None:
    """A system draws dashboards and builds a snapshot with it, alone or beside a store."""
    with MetricsSystem(
        aggregator=CombinedAggregator(InMemoryAggregator(), SnapshotAggregator(folder))
    ) as metrics:
        metrics.collector.increment("orders")
        for dashboard in ("overview", "performance", "errors", "resources"):
            assert metrics.create_dashboard_data(dashboard)["panels"]
        assert metrics.get_system_health()["healthy"]
        custom = metrics.snapshot().metrics.custom
        assert custom["git/commits/created[runner:ubuntu]"] == 3
        assert custom["orders"] == 1
