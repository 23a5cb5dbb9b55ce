"""`SnapshotHistory`: the runs of a folder as documents, and the versions that two runs represent."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from metrics_adapters.page.history import MAX_METRICS, MAX_RUNS, SnapshotHistory
from metrics_adapters.snapshot_writer import SnapshotWriter
from metrics_framework import MetricsSystem
from metrics_framework.cli.app import app
from metrics_framework.errors import InvalidInputError

START = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\u202egpj.exe\x1b[2J\x00" + "x" * 10_000

Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder for snapshots."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder


@pytest.fixture
def write(folder: Path) -> Write:
    """Return a function that writes a snapshot that is too old to be read again for its time."""

    def write(
        run_id: str | None,
        p95: float = 100.0,
        *,
        minute: int = 0,
        commit: str | None = None,
        environment: str = "ci",
        name: str | None = None,
        custom: dict[str, float] | None = None,
        **tags: str,
    ) -> Path:
        metadata = {
            "run_id": run_id,
            "commit": commit,
            "branch": "main",
            "timestamp": (START + timedelta(minutes=minute)).isoformat(),
            "environment": environment,
            "tags": tags,
        }
        if run_id is None:
            del metadata["run_id"]
        metrics = {"latency": {"p95": p95}, "throughput": 1e5 / p95, "custom": custom or {}}
        path = folder / f"{name or run_id}.json"
        path.write_text(json.dumps({"schema_version": 1, "metadata": metadata, "metrics": metrics}))
        age(path)
        return path

    return write


def age(path: Path, seconds: float = 3600.0) -> None:
    """Make a file old."""
    moment = time.time() - seconds
    os.utime(path, (moment, moment))


def ids(document: dict[str, Any]) -> list[str]:
    """Return the ids of the runs of a document."""
    return [run["run_id"] for run in document["runs"]]


def texts(value: object) -> list[str]:
    """Return all texts of a document."""
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in texts(one)]
    return [value] if isinstance(value, str) else []


# -- the runs ----------------------------------------------------------------------------------------------


def test_runs_are_listed_newest_first_with_context_and_numbers(write: Write) -> None:
    """A run has its context, its numbers by flat key, and the success rate of its operation."""
    rate = {"operation:shop/order/success_rate": 0.98, "stock": 7.0}
    path = write("new", 50.0, minute=2, commit="c" * 40, latency_metric="shop.order", custom=rate)
    write("old", minute=1)
    document = SnapshotHistory(path.parent).runs()
    assert ids(document) == ["new", "old"]
    assert document["runs"][0] == {
        "run_id": "new",
        "timestamp": "2026-01-01T00:02:00+00:00",
        "date": "2026-01-01T00:02:00+00:00",
        "commit": "c" * 40,
        "branch": "main",
        "environment": "ci",
        "tags": {"latency_metric": "shop.order"},
        "metrics": {"latency.p95": 50.0, "throughput": 2000.0, "success_rate": 0.98, "stock": 7.0},
    }
    rest = {key: value for key, value in document.items() if key != "runs"}
    assert rest == {"folder": "runs", "has_more": False, "metrics_left_out": 0, "unreadable": 0}


def test_only_files_that_look_changed_are_read_again(write: Write) -> None:
    """A file with the same size and time is not opened; a new, changed or removed file shows at once."""
    path = write("one", 200.0)
    history = SnapshotHistory(path.parent)
    assert history.runs() is history.runs()
    before = path.stat()
    write("one", 250.0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert history.runs()["runs"][0]["metrics"]["latency.p95"] == 200.0
    age(path, 1800)
    assert history.runs()["runs"][0]["metrics"]["latency.p95"] == 250.0
    other = write("two", minute=1)
    assert ids(history.runs()) == ["two", "one"]
    other.unlink()
    assert ids(history.runs()) == ["one"]
    write("fresh", minute=2).touch()
    assert ids(history.runs()) == ["fresh", "one"]


def test_damaged_files_are_counted_and_do_not_hide_the_others(write: Write) -> None:
    """Files that are not snapshots are counted, and become runs when they are repaired."""
    good = write("good")
    for name, content in (("cut", b'{"schema'), ("binary", b"\x00\xff" * 99), ("nan", b'{"metrics": NaN}')):
        (good.parent / f"{name}.json").write_bytes(content)
    history = SnapshotHistory(good.parent)
    document = history.runs()
    assert (ids(document), document["unreadable"]) == (["good"], 3)
    write("cut", minute=1)
    document = history.runs()
    assert (ids(document), document["unreadable"]) == (["cut", "good"], 2)


def test_a_run_id_is_listed_once(write: Write) -> None:
    """Copies are one run, and of different runs with one id the newest counts."""
    path = write("same", 100.0, minute=1)
    (path.parent / "copy.json").write_bytes(path.read_bytes())
    write("other", minute=2)
    write("same", 200.0, minute=3, name="later")
    document = SnapshotHistory(path.parent).runs()
    assert ids(document) == ["same", "other"]
    assert document["runs"][0]["metrics"]["latency.p95"] == 200.0


def test_runs_without_a_usable_id_can_be_compared(write: Write) -> None:
    """A hash replaces an id that is missing or not plain, and names the run in a comparison."""
    folder = write(None, 100.0, name="no-id").parent
    write("../../etc/passwd?\u202e" + "x" * 99_999, 300.0, name="hostile", minute=1)
    history = SnapshotHistory(folder)
    named = ids(history.runs())
    assert all(one.startswith("run-") and len(one) == 20 for one in named)
    found = history.compare(named[1], named[0])
    assert [found[side]["metrics"]["latency.p95"] for side in ("baseline", "current")] == [100.0, 300.0]


def test_no_text_of_a_request_is_joined_to_a_path(write: Write, tmp_path: Path) -> None:
    """An id that is not listed is an error with a remedy, also if it is a path to a snapshot."""
    path = write("inside")
    (tmp_path / "outside.json").write_bytes(path.read_bytes())
    history = SnapshotHistory(path.parent)
    for run_id in ("../outside", "../outside.json", str(path), "inside.json", "", "x" * 1_000_000, "\x00"):
        with pytest.raises(InvalidInputError, match=r"no run .* pass the run_id of a listed run") as error:
            history.compare(run_id, "inside")
        assert len(str(error.value)) < 500


def test_hostile_texts_are_plain(write: Write, folder: Path) -> None:
    """Names, tags, commits and notes are cut and have no control or bidirectional characters."""
    custom = {HOSTILE.replace(".", ""): 1.0}
    write("a", commit=HOSTILE, custom=custom, name="a", machine=HOSTILE, **{HOSTILE: HOSTILE})
    write("b", commit=f"{HOSTILE}2", minute=1, latency_metric=HOSTILE)
    history = SnapshotHistory(folder)
    for document in (history.runs(), history.compare("a", "b")):
        assert len(texts(document)) > 10
        for text in texts(document):
            assert text.isprintable()
            assert "\u202e" not in text
            assert len(text) <= 300


def test_many_runs_and_metrics_are_cut(write: Write, folder: Path) -> None:
    """A document has at most 500 runs and 60 metrics, those that most runs have, and says what it lacks."""
    for number in range(MAX_RUNS + 2):
        write(f"r{number}", minute=number, custom={"common": 1.0, f"rare{number}": 1.0})
    history = SnapshotHistory(folder)
    document = history.runs()
    assert ids(document) == [f"r{number}" for number in range(MAX_RUNS + 1, 1, -1)]
    assert document["has_more"]
    assert len({key for run in document["runs"] for key in run["metrics"]}) == MAX_METRICS
    assert all("common" in run["metrics"] for run in document["runs"])
    assert document["metrics_left_out"] == 3 + MAX_RUNS - MAX_METRICS
    with pytest.raises(InvalidInputError, match="no run 'r1' among the newest 500 runs of 'runs'"):
        history.compare("r1", "r2")


def test_a_folder_may_come_later(tmp_path: Path) -> None:
    """A folder that does not exist yet has no runs."""
    history = SnapshotHistory(tmp_path / "later")
    assert history.runs()["runs"] == []
    with MetricsSystem() as metrics:
        metrics.collector.increment("orders")
        SnapshotWriter(tmp_path / "later").write(metrics.snapshot())
    assert len(history.runs()["runs"]) == 1


@pytest.mark.heavy
def test_five_thousand_files_are_read_once(write: Write, folder: Path) -> None:
    """After the first time, 5 000 files cost at most a fifth of its CPU time."""
    for number in range(5_000):
        write(f"r{number}", minute=number, custom={f"k{one}": 1.0 for one in range(20)})
    history, durations = SnapshotHistory(folder), []
    for _ in range(6):
        start = time.process_time()
        assert len(history.runs()["runs"]) == MAX_RUNS
        durations.append(time.process_time() - start)
    assert min(durations) <= durations[0] / 5


# -- comparisons -------------------------------------------------------------------------------------------


def many(write: Write, commit: str, p95: float, jobs: int = 6, start: int = 0, **more: str) -> list[Path]:
    """Write two runs in each of several jobs of a commit."""
    return [
        write(
            f"{commit[0]}{job}-{run}",
            p95 + job * 0.3 + run * 0.1,
            minute=start + job,
            commit=commit,
            job=f"{commit[0]}-job-{job}",
            **more,
        )
        for job in range(jobs)
        for run in range(2)
    ]


def test_choosing_two_runs_compares_their_commits_as_the_command_does(write: Write) -> None:
    """A side is all runs of the commit, environment and tags, with the verdicts of ``compare``."""
    before = many(write, "a" * 40, 100.0)
    after = many(write, "b" * 40, 130.0, start=10)
    many(write, "c" * 40, 900.0, start=20)
    write("elsewhere", 900.0, commit="a" * 40, environment="local", job="x")
    write("other-size", 900.0, commit="b" * 40, size="big", job="y")
    found = SnapshotHistory(before[0].parent).compare("a2-1", "b0-0")
    listed = CliRunner().invoke(
        app, ["compare", *map(str, before), "--", *map(str, after), "--format", "json"]
    )
    expected = json.loads(listed.stdout)
    assert [found[key] for key in ("baseline_runs", "baseline_jobs", "current_runs", "current_jobs")] == [
        *(12, 6),
        *(12, 6),
    ]
    assert found["verdict"] == expected["verdict"] == "regression"
    assert found["conclusion"].startswith("Regression: latency.p95 is 29")
    assert found["baseline"]["run_id"] == "a2-1"
    by_key = {metric["key"]: metric for metric in expected["metrics"]}
    assert [row["metric"] for row in found["rows"]] == ["latency.p95", "throughput"]
    for row in found["rows"]:
        metric = by_key[row["metric"]]
        assert row["verdict"] == metric["verdict"]
        assert row["change_percent"] == pytest.approx(metric["change"] * 100)
        assert row["interval_percent"] == pytest.approx([metric["low"] * 100, metric["high"] * 100])
        assert row["baseline"] == pytest.approx(metric["baseline"])
    assert found["rows"][0]["unit"] == "milliseconds"
    assert "the baseline is 12 runs of commit aaaaaaaaaaaa in 6 jobs" in found["notes"]


def test_one_run_against_one_is_inconclusive(write: Write) -> None:
    """Two single runs are not enough for a verdict, and a note tells why."""
    path = write("a", 100.0, commit="a" * 40, job="1")
    write("b", 200.0, commit="b" * 40, job="2", minute=1)
    found = SnapshotHistory(path.parent).compare("a", "b")
    row = found["rows"][0]
    assert (found["baseline_runs"], found["current_runs"]) == (1, 1)
    assert (row["verdict"], row["interval_percent"]) == ("inconclusive", None)
    assert row["change_percent"] == pytest.approx(100.0)
    assert "one job on each side" in row["note"]
    assert found["conclusion"].startswith("Inconclusive: these runs do not show")


@pytest.mark.parametrize(
    ("baseline", "current", "runs"),
    [
        ("a0-0", "a1-1", (2, 2)),  # two jobs of one commit
        ("a0-0", "a0-1", (1, 1)),  # two runs of one job
        ("a0-0", "a0-0", (1, 1)),  # a run and itself
        ("a0-0", "none", (12, 1)),  # a commit, and a run without one
        ("none", "also-none", (1, 1)),
    ],
)
def test_a_side_is_what_tells_two_runs_apart(
    write: Write, baseline: str, current: str, runs: tuple[int, int]
) -> None:
    """Two runs of one commit stand for their jobs, two runs of one job and runs without a commit alone."""
    path = many(write, "a" * 40, 100.0)[0]
    write("none", 100.0, job="boot", minute=20)
    write("also-none", 110.0, job="boot", minute=21)
    found = SnapshotHistory(path.parent).compare(baseline, current)
    assert (found["baseline_runs"], found["current_runs"]) == runs
    if baseline == current:
        assert found["verdict"] == "no change"


def test_versions_measured_by_turns_are_compared_in_pairs(write: Write, folder: Path) -> None:
    """The runs of ``run --against`` have no commit on one side, and are compared pair by pair."""
    for pair in range(1, 9):
        for side, p95 in (("baseline", 100.0), ("current", 125.0)):
            write(
                f"{side}{pair}",
                p95 * (1 + pair / 10) + pair % 3 * 0.2,
                minute=pair,
                commit="b" * 40 if side == "current" else None,
                job="boot",
                pair=f"{pair}/8",
                side=side,
            )
    found = SnapshotHistory(folder).compare("baseline3", "current5")
    assert (found["baseline_runs"], found["current_runs"], found["verdict"]) == (8, 8, "regression")


def test_samples_of_sidecars_count_and_a_missing_one_is_noted(tmp_path: Path) -> None:
    """The samples of single runs show a suspect change, and a run without its sidecar is counted."""
    writer = SnapshotWriter(tmp_path)
    names = []
    for milliseconds in (10.0, 40.0):
        with MetricsSystem(latency_metric="op") as metrics:
            for number in range(200):
                metrics.collector.record_timer("op", milliseconds + number / 100)
            snapshot, report = metrics.build_snapshot()
            writer.write(snapshot, report.distributions)
            names.append(snapshot.metadata.run_id)
    history = SnapshotHistory(tmp_path)
    # Both runs have the commit and the job of this process, so they are compared alone.
    assert "suspect" in history.compare(*names)["rows"][0]["note"]
    next(tmp_path.glob("*.dist")).unlink()
    assert "1 run without samples: a sidecar cannot be read" in history.compare(*names)["notes"]


def test_numbers_of_documents_are_finite(write: Write, folder: Path) -> None:
    """A change from zero has no percentage, and JSON has neither NaN nor infinity."""
    for job in range(6):
        write(f"a{job}", commit="a", job=f"a{job}", minute=job, custom={"errors": 0.0, "huge": 1e308})
        write(f"b{job}", commit="b", job=f"b{job}", minute=9 + job, custom={"errors": 5.0, "huge": 1e-300})
    history = SnapshotHistory(folder)
    found = history.compare("a0", "b0")
    json.dumps([found, history.runs()], allow_nan=False)
    errors = next(row for row in found["rows"] if row["metric"] == "errors")
    assert errors["change_percent"] is None
    assert errors["verdict"] == "changed"
    assert all(math.isfinite(row["current"]) for row in found["rows"])
