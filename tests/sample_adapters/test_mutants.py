"""The conformance kit finds faults of adapters: almost every mutant fails one of its tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MUTANTS = Path(__file__).parent / "mutants"
MODULES = ("aggregators", "collectors", "systems", "timers")


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("module", MODULES)
def test_no_mutant_survives(module):
    """At least 95 % of the mutants, which each break the contract in one way, fail a test of the kit."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "--tb=no",
        "-rN",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(MUTANTS), *filter(None, sys.path)])}
    command += ["-p", "no:cacheprovider", "-p", "no:xdist", str(MUTANTS / f"{module}.py")]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=MUTANTS, check=False, timeout=850, env=environment
    )
    outcomes: dict[str, set[str]] = {}
    for mutant, outcome in re.findall(r"::Test(\w+)::.* (PASSED|FAILED|ERROR|SKIPPED)", done.stdout):
        outcomes.setdefault(mutant, set()).add(outcome)
    survivors = [mutant for mutant, outcome in outcomes.items() if "FAILED" not in outcome]
    print(f"{len(outcomes)} mutants, survivors: {', '.join(survivors) or 'none'}")  # noqa: T201 - lists the survivors
    assert len(outcomes) >= 25, done.stdout + done.stderr
    assert len(survivors) <= 0.05 * len(outcomes), survivors
