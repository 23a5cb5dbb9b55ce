"""The workflow that the documentation shows, step by step, as GitHub runs it, with the real `flameiq`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metrics_framework.snapshots import read_distributions, read_snapshot

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "examples" / "workflows" / "performance.yml"
FLAMEIQ = ROOT / ".venvs" / "flameiq" / "bin"
SHELL = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"]
"""The command that GitHub runs for a step, with and without a named shell."""

MAIN, PULL_REQUEST = "refs/heads/main", "refs/pull/7/merge"
STEPS = ["Install", "Measure", "Check the snapshot", "Compare", "Report", "Set the baseline"]


@pytest.fixture
def workflow() -> dict[str, Any]:
    """Return the workflow."""
    loaded: dict[str, Any] = yaml.safe_load(WORKFLOW.read_text())
    return loaded


def run_steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the steps that run a command."""
    return [step for step in workflow["jobs"]["measure"]["steps"] if "run" in step]


class Job:
    """One run of the workflow's job.

    Args:
        workflow: The workflow.
        folder: The checkout, with the restored cache.
        ref: The git reference that GitHub runs it for.
        **environ: Variables that override the workflow's ``env``.
    """

    def __init__(self, workflow: dict[str, Any], folder: Path, ref: str, **environ: str) -> None:
        self.steps = run_steps(workflow)
        self.folder = folder
        self.ref = ref
        self.summary, self.exported = folder / "summary.md", folder / "env"
        self.exported.write_text("")
        path = os.pathsep.join([str(Path(sys.executable).parent), str(FLAMEIQ), os.environ["PATH"]])
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")},
            **workflow["env"],
            **environ,
            "PATH": path,
            "PYTHONUTF8": "1",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_SHA": "0123456789abcdef0123456789abcdef01234567",
            "GITHUB_REF_NAME": "main",
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_ENV": str(self.exported),
        }
        self.done: dict[str, int] = {}
        self.output = ""

    def run(self) -> Job:
        """Run the steps one by one; after a failure, only those that always run."""
        for step in self.steps:
            if step["name"] == "Install" or not self._is_due(step):
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
        found = re.fullmatch(r"always\(\) && hashFiles\('(.+)'\) != ''", condition)
        assert found is not None, f"this test does not support the condition {condition!r}"
        return (self.folder / found[1]).exists()

    def snapshot(self) -> Path:
        """Return the snapshot that was written."""
        (path,) = (self.folder / "snapshots").glob("*.json")
        return path


def checkout(folder: Path, cache: Path | None, seconds: float) -> Path:
    """Create a working tree with a program of the given duration, and with the cached files."""
    folder.mkdir()
    (folder / "benchmark.py").write_text(f"import time\ntime.sleep({seconds})\n")
    if cache is not None:
        shutil.copytree(cache / ".flameiq", folder / ".flameiq")
    return folder


def test_the_workflow_has_the_expected_steps(workflow):
    """It has the steps that are run below, and each uses a tool that its first step installs."""
    steps = run_steps(workflow)
    assert [step["name"] for step in steps] == STEPS
    install = steps[0]["run"].split()
    assert install[:2] == ["pip", "install"]
    assert install[2:] == ["'metrics-framework[cli]'", "flameiq-core"]
    assert 'name = "metrics-framework"' in (ROOT / "pyproject.toml").read_text()
    assert "flameiq-core==" in (ROOT / "requirements" / "flameiq.txt").read_text()
    assert set(workflow["env"]) == {"COMMAND", "NAME", "RUNS", "ALLOWED"}


@pytest.mark.heavy
@pytest.mark.skipif(shutil.which("bash") is None, reason="a workflow's steps are written for bash")
def test_a_slower_pull_request_fails(workflow, tmp_path):
    """Main sets the baseline; a pull request of equal speed passes, a slower one fails and has a report."""
    if not (FLAMEIQ / "flameiq").exists():
        missing = f"{FLAMEIQ.relative_to(ROOT)} is missing: `make test` installs it"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    # On a busy machine durations vary, so the slow program is much slower and the threshold is wide.
    options = {"RUNS": "5", "ALLOWED": "300%"}

    first = Job(workflow, checkout(tmp_path / "main", None, 0.02), MAIN, **options).run()
    assert first.done == dict.fromkeys(["Measure", "Check the snapshot", "Compare", "Set the baseline"], 0), (
        first.output
    )
    assert "There is no baseline yet" in first.output
    assert "latency.p95" in first.summary.read_text()
    snapshot = read_snapshot(first.snapshot())
    assert snapshot.metadata.commit == "0123456789abcdef0123456789abcdef01234567"
    assert snapshot.metadata.environment == "ci"
    assert read_distributions(first.snapshot())["latency"].count == 5

    same = Job(workflow, checkout(tmp_path / "same", first.folder, 0.02), PULL_REQUEST, **options).run()
    assert same.done == dict.fromkeys(["Measure", "Check the snapshot", "Compare", "Report"], 0), same.output
    assert "latency.p95" in (same.folder / "report.html").read_text()

    slow = Job(
        workflow, checkout(tmp_path / "slow", first.folder, 1.2), PULL_REQUEST, **{**options, "RUNS": "1"}
    )
    slow.run()
    assert slow.done == {"Measure": 0, "Check the snapshot": 0, "Compare": 1, "Report": 0}, slow.output
    assert re.search(r"latency\.p95 .* REGRESSION", slow.output)
    assert "REGRESSION" in (slow.folder / "report.html").read_text("utf-8").upper()

    merged = Job(workflow, checkout(tmp_path / "merged", first.folder, 0.02), MAIN, **options).run()
    assert list(merged.done.values()) == [0] * 5, merged.output
    assert (merged.folder / ".flameiq/baselines/current.json").read_text() != (
        first.folder / ".flameiq/baselines/current.json"
    ).read_text()
