"""The workflow that the documentation shows, step by step, as GitHub runs it, and with the real `flameiq`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from metrics_framework.snapshots import read_distributions, read_snapshot

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "examples" / "workflows" / "performance.yml"
PAGE = ROOT / "docs" / "continuous-integration.md"
FLAMEIQ = ROOT / ".venvs" / "flameiq" / "bin"
SHELL = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"]
"""The command that GitHub runs for a step, with and without a named shell."""

MAIN, PULL_REQUEST = "refs/heads/main", "refs/pull/7/merge"
MEASURING = ["Measure", "Check the snapshot"]

# On a busy machine durations vary, so a slow program is much slower and margins are wide.
FAST, SLOW, RUNS = 0.3, 3.0, 3

Steps = list[dict[str, Any]]


def steps_of(workflow: dict[str, Any]) -> Steps:
    """Return the steps that run a command, without the installation."""
    return [
        step for step in workflow["jobs"]["measure"]["steps"] if "run" in step and step["name"] != "Install"
    ]


def workflow() -> dict[str, Any]:
    """Return the workflow."""
    loaded: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())
    return loaded


def flameiq_steps() -> Steps:
    """Return the steps of the page that use FlameIQ, after those that measure, without its installation."""
    _, text = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    steps: Steps = [step for step in yaml.safe_load(text) if "run" in step]
    for step in steps:
        step["run"] = step["run"].replace("pip install flameiq-core\n", "")
    return [step for step in steps_of(workflow()) if step["name"] in MEASURING] + steps


class Job:
    """One run of the workflow's job.

    Args:
        steps: Its steps.
        folder: The checkout, with the restored cache.
        ref: The git reference that GitHub runs it for.
        number: The number of the run.
        margin: The accepted slowdown.
    """

    def __init__(self, steps: Steps, folder: Path, ref: str, number: int, margin: str = "200%") -> None:
        self.steps = steps
        self.folder = folder
        self.ref = ref
        self.summary, self.exported = folder / "summary.md", folder / "env"
        self.exported.write_text("")
        path = os.pathsep.join([str(Path(sys.executable).parent), str(FLAMEIQ), os.environ["PATH"]])
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
            **workflow()["env"],
            "COMMAND": "./benchmark",
            "RUNS": str(RUNS),
            "MARGIN": margin,
            "PATH": path,
            "PYTHONUTF8": "1",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_SHA": f"{number:040x}",
            "GITHUB_REF_NAME": "main" if ref == MAIN else "7/merge",
            "GITHUB_HEAD_REF": "" if ref == MAIN else "topic",
            "GITHUB_RUN_ID": str(number),
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_JOB": "measure",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_ENV": str(self.exported),
        }
        self.done: dict[str, int] = {}
        self.output = ""

    def run(self) -> Job:
        """Run the steps one by one; after a failure, only those that always run."""
        for step in self.steps:
            if not self._is_due(step):
                continue
            environ = {
                **self.environ,
                **dict(line.split("=", 1) for line in self.exported.read_text().splitlines()),
            }
            script = self.folder / "step.sh"
            script.write_text(step["run"])
            done = subprocess.run(
                [*SHELL, script], cwd=self.folder, env=environ, capture_output=True, text=True, check=False
            )
            self.done[step["name"]] = done.returncode
            self.output += done.stdout + done.stderr
        return self

    def _is_due(self, step: dict[str, Any]) -> bool:
        failed = any(self.done.values())
        condition = step.get("if")
        if condition is None:
            return not failed
        if condition == "github.ref == 'refs/heads/main'":
            return not failed and self.ref == MAIN
        if condition == "always() && github.ref == 'refs/heads/main'":
            return self.ref == MAIN
        found = re.fullmatch(r"always\(\) && hashFiles\('(.+)'\) != ''", condition)
        assert found is not None, f"this test does not support the condition {condition!r}"
        return (self.folder / found[1]).exists()

    def snapshot(self) -> Path:
        """Return the snapshot that was written."""
        (path,) = (self.folder / "snapshots").glob("*.json")
        return path


def checkout(folder: Path, cached: Path | None, seconds: float) -> Path:
    """Create a working tree with a program of the given duration, and with the cached folder."""
    folder.mkdir()
    program = folder / "benchmark"
    program.write_text(f"#!/bin/sh\nsleep {seconds}\n")  # starts faster than Python on a busy machine
    program.chmod(0o755)
    if cached is not None:
        shutil.copytree(cached, folder / cached.name)
    return folder


def add_job(history: Path, path: Path, number: int) -> None:
    """Add the run of another job to the history: a snapshot with slightly other values."""
    document = json.loads(path.read_bytes())
    document["metadata"]["run_id"] = document["metadata"]["tags"]["job"] = f"job {number}"
    document["metrics"]["throughput"] *= 1 + (number % 3 - 1) / 20
    copy = history / f"{number}.json"
    copy.write_text(json.dumps(document))
    shutil.copy(path.with_suffix(".dist"), copy.with_suffix(".dist"))


def test_the_workflow_has_the_expected_steps() -> None:
    """It has the steps that are run below, uses what its first step installs, and is the one on the page."""
    found = workflow()
    names = [*MEASURING, "Add to the history", "Compare"]
    assert [step["name"] for step in steps_of(found)] == names
    install = next(step for step in found["jobs"]["measure"]["steps"] if step.get("name") == "Install")
    assert install["run"].split() == ["pip", "install", "'metrics-framework[cli,compare]'"]
    assert 'name = "metrics-framework"' in (ROOT / "pyproject.toml").read_text()
    assert set(found["env"]) == {"COMMAND", "NAME", "RUNS", "MARGIN"}
    assert f"```yaml\n{WORKFLOW.read_text()}```" in PAGE.read_text()
    assert [step["name"] for step in flameiq_steps()] == [*MEASURING, "Compare", "Report", "Set the baseline"]
    assert "flameiq-core==" in (ROOT / "requirements" / "flameiq.txt").read_text()


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("bash") is None, reason="a workflow's steps are written for bash")
def test_a_slower_pull_request_fails(tmp_path: Path) -> None:
    """Jobs of main make the history; a pull request of equal speed passes, a slower one fails."""
    pytest.importorskip("scipy")
    steps = steps_of(workflow())
    first = Job(steps, checkout(tmp_path / "main", None, FAST), MAIN, 1).run()
    assert first.done == dict.fromkeys([*MEASURING, "Add to the history", "Compare"], 0), first.output
    assert "Nothing can be compared: all runs of branch 'main' in 'history'" in first.output
    assert "nothing compared" in first.summary.read_text()
    snapshot, history = read_snapshot(first.snapshot()), first.folder / "history"
    assert (snapshot.metadata.commit, snapshot.metadata.environment) == (f"{1:040x}", "ci")
    assert read_distributions(first.snapshot())["latency"].count == RUNS
    for number in range(2, 10):
        add_job(history, first.snapshot(), number)

    same = Job(steps, checkout(tmp_path / "same", history, FAST), PULL_REQUEST, 7).run()
    assert same.done == dict.fromkeys([*MEASURING, "Compare"], 0), same.output
    assert "9 snapshots of 9 jobs, main" in same.output

    slow = Job(steps, checkout(tmp_path / "slow", history, SLOW), PULL_REQUEST, 8).run()
    assert slow.done == {**dict.fromkeys(MEASURING, 0), "Compare": 1}, slow.output
    assert "::error title=Performance regression::throughput -" in slow.output
    assert slow.summary.read_text().startswith("### Performance: regression\n")
    failures = ElementTree.parse(slow.folder / "performance.xml").getroot().iter("failure")
    assert "regression" in {failure.get("type") for failure in failures}


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("bash") is None, reason="a workflow's steps are written for bash")
def test_a_slower_pull_request_fails_with_flameiq(tmp_path: Path) -> None:
    """Main sets FlameIQ's baseline; an equal pull request passes, a slower one fails and has a report."""
    if not (FLAMEIQ / "flameiq").exists():
        missing = f"{FLAMEIQ.relative_to(ROOT)} is missing: `make test` installs it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    steps = flameiq_steps()
    first = Job(steps, checkout(tmp_path / "main", None, FAST), MAIN, 1, "300%").run()
    assert first.done == dict.fromkeys([*MEASURING, "Compare", "Set the baseline"], 0), first.output
    baseline = first.folder / ".flameiq" / "baselines" / "current.json"
    assert read_snapshot(baseline) == read_snapshot(first.snapshot())

    same = Job(
        steps, checkout(tmp_path / "same", first.folder / ".flameiq", FAST), PULL_REQUEST, 2, "300%"
    ).run()
    assert same.done == dict.fromkeys([*MEASURING, "Compare", "Report"], 0), same.output
    assert "latency.p95" in (same.folder / "report.html").read_text()

    slow = Job(
        steps, checkout(tmp_path / "slow", first.folder / ".flameiq", SLOW), PULL_REQUEST, 3, "300%"
    ).run()
    assert slow.done == {**dict.fromkeys(MEASURING, 0), "Compare": 1, "Report": 0}, slow.output
    assert re.search(r"latency\.p95 .* REGRESSION", slow.output)
    assert "REGRESSION" in (slow.folder / "report.html").read_text("utf-8").upper()
