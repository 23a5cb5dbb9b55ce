"""`compare` as a user runs it: both sides, the history, options, exit codes and formats."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result
from markdown_it import MarkdownIt

from metrics_framework import LatencyMetrics, Metrics, PerformanceSnapshot, SnapshotMetadata
from metrics_framework.cli.app import app
from metrics_framework.cli.compare_formats import markdown_code, markdown_text, workflow_command
from metrics_framework.recording import Distribution
from metrics_framework.snapshots import dump_snapshot
from metrics_framework.snapshots.distributions import DISTRIBUTIONS_TAG, content_name, dump_distributions
from tests.terminal import ESCAPES, Terminal

pytest.importorskip("scipy")

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def workplace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Work in an empty folder, independent of the terminal that the tests run in."""
    monkeypatch.chdir(tmp_path)
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def cli(*arguments: object) -> Result:
    """Run the command line without a terminal."""
    return CliRunner().invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)


def job(
    folder: str,
    number: int,
    *,
    factor: float = 1.0,
    runs: int = 2,
    branch: str = "main",
    name: str | None = "sort",
    job: str | None = "",
    custom: dict[str, float] | None = None,
    **tags: str,
) -> list[Path]:
    """Write the runs of one job, with sidecars, and return their paths.

    Args:
        folder: The folder.
        number: The number of the job, and its day. The same number has the same noise.
        factor: How much slower it is.
        runs: The number of runs.
        branch: The branch.
        name: The benchmark.
        job: The tag ``job``; made from the number by default.
        custom: Custom measurements.
        **tags: Other tags.
    """
    rng = random.Random(number)
    shift = rng.gauss(0, 0.01)
    paths = []
    for run in range(runs):
        times = [100 * factor * 2.718 ** (shift + rng.gauss(0, 0.05)) for _ in range(50)]
        distribution = Distribution.of(times)
        sidecar = dump_distributions({"latency": distribution})
        found = {"latency_metric": name, "job": f"job {number}" if job == "" else job}
        metadata = SnapshotMetadata(
            run_id=f"{folder} {number}.{run} {name}",
            commit=f"{number:040x}",
            branch=branch,
            timestamp=START + timedelta(days=number, minutes=run),
            tags={
                **{key: value for key, value in found.items() if value is not None},
                **tags,
                DISTRIBUTIONS_TAG: content_name(sidecar),
            },
        )
        metrics = Metrics(
            LatencyMetrics(distribution.mean, *distribution.quantiles(0.5, 0.95, 0.99)),
            throughput=1e3 / distribution.mean,
            custom=custom or {},
        )
        path = Path(folder, f"{number:03}-{run}-{len(list(Path(folder).glob('*.json')))}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(dump_snapshot(PerformanceSnapshot(metrics, metadata=metadata)))
        path.with_suffix(".dist").write_bytes(sidecar)
        paths.append(path)
    return paths


def jobs(folder: str, numbers: Iterator[int] | range, **options: object) -> str:
    """Write several jobs, and return their folder."""
    for number in numbers:
        job(folder, number, **options)  # type: ignore[arg-type]
    return folder


def last_line(result: Result) -> str:
    """Return the last line of the output."""
    return result.stdout.splitlines()[-1]


def verdicts(*arguments: object) -> dict[str, str]:
    """Return the verdict of each metric."""
    metrics = json.loads(cli(*arguments, "--format", "json").stdout)["metrics"]
    return {metric["key"]: metric["verdict"] for metric in metrics}


# -- both sides --------------------------------------------------------------------------------------------


def test_a_slower_version_fails() -> None:
    """A regression is shown with its change, and the exit code is 1; an equal version passes."""
    base = jobs("base", range(6))
    slower = cli(base, jobs("slower", range(10, 16), factor=1.5))
    assert slower.exit_code == 1
    assert last_line(slower).startswith("Regression: latency.p95 +")
    assert "12 runs of 6 jobs, main, 6 commits, 2026-01-01 to 2026-01-06" in slower.stdout
    equal = cli(base, jobs("equal", range(20, 26)))
    assert (equal.exit_code, last_line(equal)) == (0, "No change beyond the margin: latency.p95, throughput.")
    faster = cli("slower", base)
    assert (faster.exit_code, last_line(faster)[:27]) == (0, "Improvement: latency.p95 -3")


def test_sides_are_files_folders_and_lines() -> None:
    """Files, folders and .jsonl files are combined before and after --, with options on both sides."""
    base, current = jobs("base", range(4)), job("current", 9, factor=1.5)
    lines = [json.dumps(json.loads(path.read_text())) for path in sorted(Path(base).glob("00[01]*.json"))]
    Path("lines.jsonl").write_text("\n".join(lines))
    rest = sorted(Path(base).glob("00[23]*.json"))
    split = cli("lines.jsonl", *rest, "--margin", "9%", "--", *current, "--format", "json")
    whole = cli(base, "--margin", "9%", "--format", "json", "--", *current)
    assert (split.exit_code, whole.exit_code) == (1, 1)
    first, second = json.loads(split.stdout), json.loads(whole.stdout)
    assert [run["run_id"] for run in first["baseline"]["runs"]] == [
        run["run_id"] for run in second["baseline"]["runs"]
    ]
    assert (first["baseline"]["jobs"], len(first["current"]["runs"])) == (4, 2)
    assert split.stderr == (
        "Warning: 4 runs are compared without samples: 'lines.jsonl' has one snapshot per line, and no"
        " sidecars (and 3 more)\n"
    )


def test_a_run_counts_once() -> None:
    """A run that is named twice is one run, and a folder of the baseline does not contain the current run."""
    jobs("all", range(4))
    new = sorted(Path("all").glob("003*.json"))
    found = json.loads(cli("all", Path("all", "000-0-0.json"), "--", *new, "--format", "json").stdout)
    assert [run["run_id"] for run in found["baseline"]["runs"]] == [
        f"all {number}.{run} sort" for number in range(3) for run in range(2)
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ([], "no path is given: pass BASE CURRENT"),
        (["a"], "one path is given: pass BASE CURRENT"),
        (["a", "a", "a"], "3 paths are given"),
        (["a", "--"], "no CURRENT is given"),
        (["--", "a"], "no BASE is given"),
        (["a", "--", "a", "--", "a"], "-- is given twice"),
        (["a", "nothing"], "'nothing' does not exist"),
        (["a", "a/000-0-0.dist"], "is the sidecar of a snapshot: pass 'a/000-0-0.json'"),
        (["a", "bad.json"], "'bad.json' is not a valid snapshot: metrics: must hold at least one"),
        (["--history", "a", "a", "--", "a"], "both --history and BASE 'a' are given"),
        (["--history", "a"], "no CURRENT is given"),
        (["a", "a", "--branch", "main"], "pass --history DIR too"),
        (["a", "a", "--last", "3"], "pass --history DIR too"),
        (["a", "a", "--margin", "10"], "'10' is not below 1: pass 10% if you mean percent"),
        (["a", "a", "--margin", "latency.*=many"], "'many' is not a share"),
        (["a", "a", "--margin", "=5%"], "has no key before the ="),
        (["a", "a", "--margin", "0%"], "'0%' is not above 0%"),
        (["a", "a", "--error", "nan"], "'nan' is not above 0%"),
        (["a", "a", "--better", "custom.hits=up"], "is not of the form KEY=lower"),
        (["a", "a", "--format", "junt"], "'junt' is not a format. Did you mean 'junit'"),
        (["a", "a", "--format", "json="], "'json=' names no file"),
        (["a", "a", "--format", "json=missing/x.json"], "cannot write 'missing/x.json'"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], error: str) -> None:
    """Wrong usage exits with 2, and the message quotes the value and says what to pass."""
    job("a", 0)
    Path("bad.json").write_text('{"metrics": {}}')
    result = cli(*arguments)
    assert (result.exit_code, error in result.stderr) == (2, True), result.stderr


def test_missing_and_foreign_sidecars_are_reported_once() -> None:
    """Runs without their sidecar are compared by their statistics, and one line names the first of them."""
    base, current = jobs("base", range(4)), job("current", 9, factor=1.5)
    Path("base/000-0-0.dist").unlink()
    Path("base/000-1-1.dist").write_bytes(Path("base/003-0-6.dist").read_bytes())
    result = cli(base, "--", *current)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "Warning: 2 runs are compared without samples: cannot read the sidecar 'base/000-0-0.d"
    )
    Path("base/000-0-0.json").unlink()
    result = cli(base, "--", *current)
    assert "is not the sidecar of 'base/000-1-1.json'" in result.stderr


def test_files_that_are_not_snapshots_are_skipped() -> None:
    """In a folder, another file is skipped with a message."""
    jobs("base", range(3))
    Path("base/notes.json").write_text("[]")
    result = cli("base", "--", *job("current", 9))
    assert (result.exit_code, "base/notes.json is skipped" in result.stderr) == (0, True)


# -- the history -------------------------------------------------------------------------------------------


def baseline_jobs(*arguments: object) -> list[str]:
    """Return the ids of the runs of the baseline."""
    document = json.loads(cli(*arguments, "--format", "json").stdout)
    return [run["run_id"] for run in document["baseline"]["runs"]]


def test_the_newest_jobs_of_a_branch_are_the_baseline() -> None:
    """The baseline has all runs of the newest jobs of the branch, but neither current runs nor their jobs."""
    jobs("history", range(8))
    jobs("history", range(8, 12), branch="topic")
    current = job("history", 12, factor=1.5)  # already copied into the history
    job("history", 13, job="job 12")  # another run of the same job
    arguments = ("--history", "history", "--branch", "main", "--last", 3, *current)
    assert baseline_jobs(*arguments) == [
        f"history {number}.{run} sort" for number in (5, 6, 7) for run in (0, 1)
    ]
    assert cli(*arguments).exit_code == 1
    assert len(baseline_jobs("--history", "history", "--", *current)) == 24


def test_runs_without_a_job_count_alone() -> None:
    """A run that does not name its job counts as one job, and the report says so."""
    jobs("history", range(4), job=None)
    current = job("current", 9, job=None)
    arguments = ("--history", "history", "--last", 3, *current)
    assert baseline_jobs(*arguments) == ["history 2.1 sort", "history 3.0 sort", "history 3.1 sort"]
    assert "5 of 5 runs do not name their job" in cli(*arguments).stdout


def test_jobs_of_other_benchmarks_do_not_count() -> None:
    """--last counts the jobs that measured what the current runs measured."""
    for number in range(8):
        job("history", number, name="sort" if number < 4 else "grep")
    job("new", 9)
    document = json.loads(cli("--history", "history", "--last", 4, "new", "--format", "json").stdout)
    assert document["baseline"]["jobs"] == 4
    assert {metric["benchmark"] for metric in document["metrics"]} == {"sort"}


def test_a_snapshot_without_an_id_is_not_its_own_baseline() -> None:
    """A file that names neither its run nor its job is left out of the history that it lies in."""
    for number in range(3):
        (path, _) = job("history", number, job=None)
        document = json.loads(path.read_text())
        del document["metadata"]["run_id"]
        path.write_text(json.dumps(document))
    found = json.loads(cli("--history", "history", path, "--format", "json").stdout)
    assert str(path) not in [run["path"] for run in found["baseline"]["runs"]]
    assert [run["run_id"] for run in found["current"]["runs"]] == [None]


def test_a_log_of_a_workflow_shows_names_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """In GitHub's log, names of benchmarks and machines are no commands, in the table either."""
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    for folder in ("old", "new"):
        job(folder, 1, name="::stop-commands::x", machine=f"##[error]{folder}")
        job(folder, 2, name="other")
    lines = cli("old", "new").stdout.splitlines()
    assert any("stop-commands" in line for line in lines)
    assert not [line for line in lines if line.lstrip().startswith("::") or "##[" in line]


def test_without_a_baseline_nothing_is_compared() -> None:
    """A history without other jobs exits with 4, one of another branch with 3, and both give a reason."""
    current = job("current", 9)
    for source, code, reason in (
        ("nothing", 4, "the history has no runs in 'nothing' yet."),
        (jobs("same", range(9, 10)), 4, "all runs of branch 'main' in 'same' (2) are current runs or of"),
        (
            jobs("other", range(3), branch="maim"),
            3,
            "the history has no runs of branch 'main' in 'other'. Did you mean 'maim'?",
        ),
    ):
        result = cli("--history", source, "--branch", "main", *current)
        assert (result.exit_code, result.stderr) == (code, "")
        assert last_line(result).startswith(f"Nothing can be compared: {reason}")
        document = json.loads(
            cli("--history", source, "--branch", "main", *current, "--format", "json").stdout
        )
        assert (document["is_comparable"], document["metrics"]) == (False, [])
    Path("empty").mkdir()
    assert cli("empty", "--", *current).exit_code == 3


def test_folders_below_are_suggested() -> None:
    """The folder of `run --against` has its snapshots in two folders, which the message names."""
    Path("turns").mkdir()
    for side in ("baseline", "current"):
        job(f"turns/{side}", 1)
    for arguments in (("turns", "turns"), ("--history", "turns/baseline", "turns")):
        result = cli(*arguments)
        assert result.exit_code == 3
        assert "no snapshot in 'turns' itself; pass 'turns/baseline' or 'turns/current'" in last_line(result)


def test_only_sidecars_of_the_baseline_are_read() -> None:
    """Older runs of a long history may lack their sidecars."""
    jobs("history", range(30), runs=1)
    for path in sorted(Path("history").glob("*.dist"))[:20]:
        path.unlink()
    (current,) = job("current", 40, factor=1.5, runs=1)
    result = cli("--history", "history", "--last", 10, current)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "Warning: 1 run is compared" in cli("--history", "history", "--last", 11, current).stderr


# -- options -----------------------------------------------------------------------------------------------


def test_rules_apply_to_the_metrics_that_match() -> None:
    """Margins, directions and deciding metrics are chosen by key; a margin for one key precedes others."""
    base = jobs("base", range(6), custom={"hits[code:200]": 100.0, "misses": 100.0})
    current = jobs("current", range(10, 16), factor=1.5, custom={"hits[code:200]": 80.0, "misses": 80.0})
    found = verdicts(base, current)
    assert (found["latency.p95"], found["custom.hits[code:200]"]) == ("regression", "changed")
    rules = ["--margin", "3%", "--margin", "latency.*=90%", "--margin", "throughput=90%"]
    better = ["--better", "custom.hits[code:200]=higher", "--better", "custom.misses=lower"]
    found = verdicts(base, current, *rules, *better)
    assert found == {
        **dict.fromkeys(["latency.mean", "latency.p50", "latency.p95", "latency.p99"], "no change"),
        "throughput": "no change",
        "custom.hits[code:200]": "regression",
        "custom.misses": "improvement",
    }
    assert cli(base, current, *rules, *better).exit_code == 0
    decides = cli(base, current, *rules, *better, "--primary", "custom.hits[code:200]")
    assert (decides.exit_code, last_line(decides)) == (1, "Regression: custom.hits[code:200] -20.0 %.")


def test_a_pattern_without_a_match_is_reported() -> None:
    """A misspelled key is named on standard error with similar keys."""
    base, current = jobs("base", range(3)), jobs("current", range(10, 13))
    result = cli(base, current, "--primary", "latncy.p95", "--margin", "custom.x=5%")
    assert result.exit_code == 3
    assert last_line(result).startswith("Nothing can be compared: no metric matches --primary (")
    first, second = result.stderr.splitlines()
    assert first.startswith("Warning: no metric matches 'latncy.p95'. Did you mean 'latency.p95'")
    assert second.startswith("Warning: no metric matches 'custom.x'.")


def test_an_inconclusive_report_passes_unless_it_is_strict() -> None:
    """The last line tells which change would have been found, and --strict exits with 3."""
    base, current = jobs("base", range(3)), jobs("current", range(13, 15))
    result = cli(base, current, "--margin", "0.5%")
    assert result.exit_code == 0
    assert re.fullmatch(
        r"Inconclusive: the smallest detectable change is [\d.]+ % for \S+, [\d.]+ % for \S+; [\d,]+ jobs on"
        r" each side detect 1 %\.",
        last_line(result),
    )
    assert cli(base, current, "--margin", "0.5%", "--strict").exit_code == 3
    single = cli(job("one", 1)[0], job("two", 2)[0])
    assert (single.exit_code, "one job on each side" in last_line(single)) == (0, True)
    assert "(metrics-framework run --against)" in last_line(single)


# -- formats -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 120, 200])
def test_tables_fit_the_terminal(columns: int) -> None:
    """No line is longer than the terminal, no number is broken, and the last line is the coloured verdict."""
    name = "tests/unit/test_sorting.py::test_a_long_name_of_a_benchmark"
    for folder, first, factor in (("base", 0, 1.0), ("current", 10, 1.5)):
        for benchmark in (f"{name}[10]", f"{name}[1000]"):
            jobs(folder, range(first, first + 3), name=benchmark, factor=factor)
    with Terminal() as terminal:
        code = subprocess.call(
            [sys.executable, "-m", "metrics_framework", "compare", "base", "current"],
            stdout=terminal.screen,
            env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm-256color"},
        )
    drawn = terminal.drawn()
    lines = [line.rstrip() for line in ESCAPES.sub("", drawn).splitlines()]
    assert code == 1
    assert max(map(len, lines)) <= columns
    assert "\x1b[1;31mRegression: " in drawn
    assert len(re.findall(r"\+\d+\.\d % to \+\d+\.\d %", "\n".join(lines))) >= 4


def test_unchanged_metrics_are_summarized() -> None:
    """Metrics without a change that do not decide are counted in one line, and listed with --all."""
    custom = {f"size{number}": 1.0 for number in range(30)}
    base, current = jobs("base", range(6), custom=custom), jobs("current", range(10, 16), custom=custom)
    result = cli(base, current)
    assert re.search(r"^Not listed: .*\d+ no change \(--all lists them\)\.$", result.stdout, re.MULTILINE)
    assert "custom.size7" not in result.stdout
    assert "custom.size7" in cli(base, current, "--all").stdout


def test_json_is_strict_and_complete() -> None:
    """The document has all metrics with the same keys, and null for a missing number."""
    base, current = jobs("base", range(3)), job("current", 9, custom={"new": 1.0})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(cli(base, "--", *current, "--format", "json").stdout, parse_constant=refuse)
    assert list(document) == [
        *("verdict", "is_comparable", "conclusion", "error", "notes", "baseline", "current", "metrics")
    ]
    assert {tuple(metric) for metric in document["metrics"]} == {
        (
            *(
                "key",
                "benchmark",
                "is_primary",
                "verdict",
                "better",
                "margin",
                "baseline",
                "current",
                "change",
            ),
            *(
                "low",
                "high",
                "p_value",
                "detectable",
                "needed",
                "unit",
                "baseline_units",
                "current_units",
                "notes",
            ),
        )
    }
    new = next(metric for metric in document["metrics"] if metric["key"] == "custom.new")
    assert (new["change"], new["low"], new["notes"]) == (None, None, ["new in the current runs"])
    assert document["current"]["runs"][0] == {
        "path": str(current[0]),
        "line": None,
        "run_id": "current 9.0 sort",
        "timestamp": "2026-01-10T00:00:00+00:00",
        "commit": f"{9:040x}",
        "branch": "main",
    }


def test_several_formats_are_written_at_once() -> None:
    """Each --format has its file or standard output, in one comparison with one exit code."""
    base, current = jobs("base", range(6)), jobs("current", range(10, 16), factor=1.5)
    result = cli(
        *(base, current, "--format", "github", "--format", "markdown=summary.md"),
        *("--format", "junit=report.xml", "--format", "table=report.txt"),
    )
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.startswith("::error title=Performance regression::latency.p95 +")
    assert Path("summary.md").read_text().startswith("### Performance: regression\n")
    assert Path("report.txt").read_text().endswith(f"{Path('report.txt').read_text().splitlines()[-1]}\n")
    assert ElementTree.parse("report.xml").getroot().find("testsuite") is not None


HOSTILE = (
    "x|y` <img src=x> [a](http://evil) @octocat \x1b[31m ::error::boom\n::stop-commands::x \ufffe\\| *b*"
)


@pytest.fixture
def hostile() -> tuple[str, str]:
    """Return two folders with benchmarks whose names are full of markup."""
    for name in (HOSTILE, "plain"):
        jobs("base", range(3), name=name, machine=f"m {HOSTILE}")
        jobs("current", range(10, 13), name=name, factor=1.5, machine=f"n {HOSTILE}")
    return "base", "current"


def test_names_cannot_change_markdown(hostile: tuple[str, str]) -> None:
    """Bars, backticks, HTML, links and mentions in names and notes are shown as text."""
    text = cli(*hostile, "--format", "markdown").stdout
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<img" not in html
    assert "<a " not in html
    assert "<em>" not in html
    assert "@octocat" not in re.sub(r"<code>.*?</code>", "", html, flags=re.DOTALL)
    rows = html.count("<tr>")
    assert rows > 4
    assert html.count("<td") == (rows - 1) * 8
    assert "&lt;img src=x&gt;" in html


@pytest.mark.parametrize("text", ["a", "a`b``c", "`", " a ", "a|b", "\\|", "<b>", "\x1b[0m", "", "a\nb"])
def test_code_shows_any_text(text: str) -> None:
    """As code in a cell, a text is one cell and shows as it is, except for control characters."""
    cell = markdown_code(text, in_table=True)
    html = MarkdownIt("commonmark").enable("table").render(f"| a |\n| --- |\n| {cell} | b |\n")
    assert html.count("<td>") == 1
    assert "<code>" in html
    assert "\x1b" not in markdown_text(text)


def test_names_cannot_send_commands_to_a_workflow(hostile: tuple[str, str]) -> None:
    """Each line is one command of ours, whatever the names contain."""
    lines = cli(*hostile, "--format", "github").stdout.splitlines()
    assert all(re.match(r"::(error|warning|notice) title=Performance[^:]*::\S", line) for line in lines)
    assert sum(line.startswith("::error") for line in lines) == 4  # two metrics of two benchmarks
    assert lines[0].count("\x1b") == 0
    assert workflow_command("error", "a,b:c", "1%\n2\r3") == "::error title=a%2Cb%3Ac::1%25\\n2\\r3"


def test_junit_has_a_case_for_each_metric(hostile: tuple[str, str]) -> None:
    """Regressions that decide are failures, inconclusive metrics are skipped, and all names are valid XML."""
    document = json.loads(cli(*hostile, "--format", "json").stdout)
    root = ElementTree.fromstring(cli(*hostile, "--format", "junit").stdout)
    (suite,) = root.findall("testsuite")
    cases = suite.findall("testcase")
    names = [(case.get("classname"), case.get("name")) for case in cases]
    assert len(names) == len(set(names)) == len(document["metrics"]) == int(suite.get("tests") or 0)
    outcomes = {"failure": 0, "skipped": 0}
    for case, metric in zip(cases, document["metrics"], strict=True):
        is_failure = metric["verdict"] == "regression" and metric["is_primary"]
        assert (case.find("failure") is not None) is is_failure
        assert (case.find("skipped") is not None) is (metric["verdict"] == "inconclusive")
        for outcome in outcomes:
            outcomes[outcome] += case.find(outcome) is not None
    assert (suite.get("failures"), suite.get("skipped")) == (
        str(outcomes["failure"]),
        str(outcomes["skipped"]),
    )
    assert outcomes["failure"] == 4


def test_names_cannot_send_commands_to_a_terminal(hostile: tuple[str, str]) -> None:
    """In tables and messages, control characters are escaped."""
    result = cli(*hostile)
    assert "\x1b" not in result.output
    assert "\\x1b[31m" in result.stdout


def test_every_format_says_that_nothing_is_compared() -> None:
    """Without a baseline, each format has the reason."""
    (path,) = job("current", 9, runs=1)
    for format in ("table", "json", "markdown", "github", "junit"):
        result = cli("--history", "none", path, "--format", format)
        assert result.exit_code == 4
        assert "Nothing can be compared: the history has no runs in" in result.stdout.replace("\\", "")


def test_a_report_without_common_metrics_says_why() -> None:
    """If other benchmarks or other metrics were measured, the conclusion names them."""
    base, other = jobs("base", range(2)), jobs("other", range(10, 12), name="parse")
    result = cli(base, other)
    assert (
        result.exit_code,
        "the baseline measures 'sort' and the current version 'parse'" in last_line(result),
    ) == (
        3,
        True,
    )
    jobs("old", range(2), custom={"hits": 1.0}, job=None)
    result = cli("old", jobs("new", range(2), job=None), "--primary", "custom.*")
    assert result.exit_code == 3
    assert last_line(result) == "Nothing can be compared: custom.hits: missing in the current runs."
    assert "4 of 4" not in last_line(result)
    assert "8 of 8 runs do not name their job" in result.stdout


@pytest.mark.slow
def test_a_missing_extra_is_named() -> None:
    """Without scipy, the command exits with 2 and names the extra."""
    job("a", 0)
    code = "import sys; sys.modules['scipy'] = None; from metrics_framework.cli import main; main()"
    command = [sys.executable, "-c", code, "compare", "a", "a"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "pip install 'metrics-framework[compare]'" in done.stderr) == (2, True)
