"""`import` as a user runs it, on files that pytest-benchmark 5.3.1 and hyperfine 1.15.0 wrote."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from click.testing import CliRunner, Result

from metrics_adapters.snapshot_writer import SnapshotAggregator
from metrics_framework.cli.app import app
from metrics_framework.snapshots import PerformanceSnapshot, read_distributions, read_snapshot
from metrics_framework.snapshots.provenance import find_job, find_machine
from tests.servers.programs import find, missing

DATA = Path(__file__).parents[1] / "snapshots" / "data"
RAW = DATA / "pytest-benchmark.json"
WITHOUT_DATA = DATA / "pytest-benchmark-without-data.json"
HYPERFINE = DATA / "hyperfine.json"


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder outside any repository."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("CI", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def cli(*arguments: object) -> Result:
    """Run the command line."""
    return CliRunner().invoke(app, ["import", *map(str, arguments)], catch_exceptions=False)


def imported(result: Result) -> dict[str, tuple[PerformanceSnapshot, Path]]:
    """Return the snapshots whose paths were printed, by the name of the benchmark."""
    found = {}
    for line in result.stdout.splitlines():
        snapshot = read_snapshot(line)
        found[snapshot.metadata.tags["latency_metric"]] = (snapshot, Path(line))
    return found


def test_pytest_benchmark_with_raw_times() -> None:
    """Each benchmark is a snapshot with the statistics of its raw times, and a sidecar with the times."""
    document = json.loads(RAW.read_bytes())
    result = cli(RAW)
    assert (result.exit_code, result.stderr) == (0, "")
    found = imported(result)
    assert list(found) == [one["fullname"] for one in document["benchmarks"]]
    for one in document["benchmarks"]:
        snapshot, path = found[one["fullname"]]
        times = sorted(seconds * 1e3 for seconds in one["stats"]["data"])
        latency, distribution = snapshot.metrics.latency, read_distributions(path)["latency"]
        assert latency is not None
        assert latency.mean == pytest.approx(one["stats"]["mean"] * 1e3)
        assert latency.p95 == pytest.approx(times[-(-len(times) * 95 // 100) - 1], rel=0.01)
        assert snapshot.metrics.throughput == pytest.approx(one["stats"]["ops"])
        assert (distribution.count, distribution.min, distribution.max) == (len(times), times[0], times[-1])
    metadata, commit = found["test_sorting.py::test_sum"][0].metadata, document["commit_info"]
    assert (metadata.commit, metadata.branch) == (commit["id"], commit["branch"])
    assert metadata.timestamp.isoformat() == document["datetime"]
    cpu = document["machine_info"]["cpu"]
    assert {key: metadata.tags[key] for key in ("recorder", "machine", "commit_date")} == {
        "recorder": f"pytest-benchmark {document['version']}",
        "machine": f"linux x86_64, {cpu['count']} CPUs, {cpu['brand_raw']}",
        "commit_date": commit["time"],
    }
    assert metadata.environment == "custom"


def test_pytest_benchmark_without_raw_times() -> None:
    """Without raw times, a snapshot has the mean, the median and the throughput, and a warning says why."""
    result = cli(WITHOUT_DATA)
    assert result.exit_code == 0
    assert result.stderr == (
        f"Warning: {WITHOUT_DATA} has no raw times of 3 benchmarks, so latency.p95 and the sidecar are"
        " missing: pass --benchmark-save-data to pytest\n"
    )
    stats = json.loads(WITHOUT_DATA.read_bytes())["benchmarks"][0]["stats"]
    snapshot, path = imported(result)["test_sorting.py::test_sum"]
    assert snapshot.metrics.flat() == {
        "latency.mean": pytest.approx(stats["mean"] * 1e3),
        "latency.p50": pytest.approx(stats["median"] * 1e3),
        "throughput": pytest.approx(stats["ops"]),
    }
    assert not path.with_suffix(".dist").exists()


def test_hyperfine() -> None:
    """Each command is a snapshot with its times, its parameters as tags, and its success rate."""
    document = json.loads(HYPERFINE.read_bytes())
    result = cli(HYPERFINE)
    assert (result.exit_code, result.stderr) == (0, "")
    found = imported(result)
    assert list(found) == ["sleep 0.001", 'sh -c "exit 1"', "sleep 0.002", 'sh -c "exit 2"']
    for one in document["results"]:
        snapshot, path = found[one["command"]]
        assert snapshot.metrics.latency is not None
        assert snapshot.metrics.latency.mean == pytest.approx(one["mean"] * 1e3)
        assert read_distributions(path)["latency"].mean == pytest.approx(fmean(one["times"]) * 1e3)
        assert list(snapshot.metrics.custom.values()) == [float(not any(one["exit_codes"]))]
        assert (snapshot.metadata.tags["n"], snapshot.metadata.tags["recorder"]) == (
            one["parameters"]["n"],
            "hyperfine",
        )
        assert snapshot.metadata.timestamp.timestamp() == pytest.approx(HYPERFINE.stat().st_mtime)


def test_one_name_makes_two_commands_comparable() -> None:
    """With --name, commands of hyperfine are one benchmark, in the order of the file, and can be compared."""
    pytest.importorskip("scipy")
    commands = {"sort b": 0.2, "sort a": 0.1, "sort c": 0.3}
    results = [
        {"command": name, "times": [time, 1.01 * time], "exit_codes": [0, 0]}
        for name, time in commands.items()
    ]
    Path("sorts.json").write_text(json.dumps({"results": results}))
    paths = cli("sorts.json", "--this-job", "--name", "sort").stdout.split()
    runs = SnapshotAggregator().runs()
    assert [str(run.path) for run in runs] == paths == sorted(paths)
    compared = CliRunner().invoke(app, ["compare", *paths[:2], "--all"])
    assert compared.exit_code == 0, compared.output
    assert "operation:sort/success_rate" in compared.stdout
    assert "-50.0 %" in compared.stdout
    cli("sorts.json", "--this-job")
    assert len(SnapshotAggregator().runs()) == 6  # under their own names, they are other runs


def test_later_hyperfine_measures_memory() -> None:
    """The peak memory of later releases is the memory; commands of one name are told apart by parameters."""
    result = {
        "command": "sort",
        "times": [1.0],
        "memory_usage_byte": [2_000_000, 3_000_000],
        "exit_codes": [None],
    }
    results = [{**result, "parameters": {"size": size}} for size in ("1", "2")]
    Path("later.json").write_text(json.dumps({"results": results}))
    found = imported(cli("later.json"))
    assert list(found) == ["sort (size=1)", "sort (size=2)"]
    assert found["sort (size=1)"][0].metrics.memory_mb == 3
    assert list(found["sort (size=1)"][0].metrics.custom.values()) == [0.0]  # ended by a signal


def test_a_parameter_does_not_replace_a_tag_with_a_meaning() -> None:
    """A parameter of hyperfine that is named `job` gets another tag, so that `job` keeps its meaning."""
    document = {"results": [{"command": "make -j 2", "times": [1.0, 2.0], "parameters": {"job": "2"}}]}
    Path("jobs.json").write_text(json.dumps(document))
    (found,) = imported(cli("jobs.json", "--this-job")).values()
    tags = found[0].metadata.tags
    assert (tags["parameter job"], tags["job"]) == ("2", find_job())


def test_a_file_counts_once() -> None:
    """A file that is imported twice adds no run to the history."""
    for _ in range(2):
        cli(RAW)
    assert len(list(Path("snapshots").glob("*.json"))) == 6
    assert len(SnapshotAggregator().runs()) == 3


def test_options_and_this_job_complete_the_metadata() -> None:
    """--this-job adds the job and the machine, options replace what the file has, and tags are added."""
    (plain,) = {one.metadata.tags.get("job") for one, _ in imported(cli(RAW)).values()}
    assert plain is None
    subprocess.run(["git", "init", "-q", "-b", "topic"], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *author, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    found = imported(cli(HYPERFINE, RAW, "--this-job", "--output", "here", "--tag", "runner=local"))
    ours, theirs = found["sleep 0.001"][0].metadata, found["test_sorting.py::test_sum"][0].metadata
    assert (ours.commit, ours.branch, ours.environment) == (head, "topic", "local")
    assert (ours.tags["job"], ours.tags["machine"], ours.tags["runner"]) == (
        find_job(),
        find_machine(),
        "local",
    )
    assert (theirs.branch, theirs.tags["job"]) == ("main", find_job())
    assert theirs.commit != head
    found = imported(
        cli(RAW, "--commit", "HEAD", "--branch", "other", "--environment", "ci", "--output", "given")
    )
    given = found["test_sorting.py::test_sum"][0].metadata
    assert (given.commit, given.branch, given.environment, "job" in given.tags) == (
        head,
        "other",
        "ci",
        False,
    )
    assert given.tags["commit_date"] != theirs.tags["commit_date"]


def without(document: dict[str, Any], *keys: str | int) -> dict[str, Any]:
    """Return a copy of a document without the value at a place."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    place: Any = copy
    for key in keys[:-1]:
        place = place[key]
    del place[keys[-1]]
    return copy


def test_what_a_file_lacks_is_left_out() -> None:
    """Without commit, machine and date, a snapshot has none, and the time of the file."""
    document = json.loads(RAW.read_bytes())
    document |= {"commit_info": {"id": "unversioned", "branch": "(unknown)", "dirty": True, "time": None}}
    Path("bare.json").write_text(json.dumps(without(without(document, "machine_info"), "datetime")))
    os.utime("bare.json", (1_700_000_000, 1_700_000_000))
    metadata = imported(cli("bare.json"))["test_sorting.py::test_sum"][0].metadata
    assert (metadata.commit, metadata.branch, metadata.timestamp.timestamp()) == (None, None, 1_700_000_000)
    assert {"recorder", "latency_metric", "dirty", "distributions"} == set(metadata.tags)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("import timeit", "pass a JSON file of pytest-benchmark (--benchmark-json) or of hyperfine (--exp"),
        ("[]", "it is neither a file of pytest-benchmark"),
        ('{"schema_version": 1, "metrics": {"throughput": 1}}', "it is neither a file of pytest-benchmark"),
        ('{"benchmarks": [1]}', "benchmarks[0]: must be an object, got 1"),
        ('{"benchmarks": [{"name": "a"}]}', "benchmarks[0]: has no 'fullname' and 'stats'"),
        (
            '{"benchmarks": [{"name": "a", "stats": {"mean": "x"}}]}',
            "must be finite numbers of 0 or more, got",
        ),
        ('{"results": [{"command": "a", "times": [NaN]}]}', "results[0].times: must be finite numbers"),
        ('{"results": [{"command": "a", "times": [1e308]}]}', "results[0].times: must be finite numbers"),
        ('{"results": [{"command": "a", "times": [-1]}]}', "results[0].times: must be finite numbers"),
        ('{"results": [{"times": [1]}]}', "results[0]: must be an object with a 'command'"),
    ],
)
def test_other_files_are_refused(content: str, fault: str) -> None:
    """A file of another tool, or with impossible values, exits with 1; other files are still converted."""
    Path("bad.json").write_text(content)
    result = cli("bad.json", RAW)
    assert (result.exit_code, len(imported(result))) == (1, 3)
    assert result.stderr.startswith("bad.json: ")
    assert fault in result.stderr


@pytest.mark.heavy
def test_the_real_hyperfine_is_compared() -> None:
    """Files that hyperfine writes now are imported, and `compare` tells the slower command."""
    pytest.importorskip("scipy")
    hyperfine = find("hyperfine")
    if hyperfine is None:
        pytest.skip(missing("hyperfine"))
    for folder, seconds in (("base", "0.01"), ("current", "0.05")):
        for number in range(3):
            command = [
                hyperfine,
                "-N",
                "--runs",
                "5",
                "--export-json",
                "x.json",
                "-n",
                "nap",
                f"sleep {seconds}",
            ]
            subprocess.run(command, check=True, capture_output=True)
            assert cli("x.json", "--tag", f"job={folder}{number}", "--output", folder).exit_code == 0
    result = CliRunner().invoke(app, ["compare", "base", "current", "--primary", "latency.mean"])
    assert result.exit_code == 1, result.output
