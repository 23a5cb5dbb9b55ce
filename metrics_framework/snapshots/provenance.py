"""The provenance of a run: commit, branch and environment, from a CI system's variables or from git."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metrics_framework.snapshots.v1 import Environment

_CI_SYSTEMS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # The variable that identifies the system, then those with the commit and the branch: the first set wins.
    ("GITHUB_ACTIONS", ("GITHUB_SHA",), ("GITHUB_HEAD_REF", "GITHUB_REF_NAME")),
    ("GITLAB_CI", ("CI_COMMIT_SHA",), ("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_REF_NAME")),
    ("JENKINS_URL", ("GIT_COMMIT",), ("CHANGE_BRANCH", "BRANCH_NAME", "GIT_BRANCH")),
    ("CIRCLECI", ("CIRCLE_SHA1",), ("CIRCLE_BRANCH",)),
    ("BUILDKITE", ("BUILDKITE_COMMIT",), ("BUILDKITE_BRANCH",)),
    ("TF_BUILD", ("BUILD_SOURCEVERSION",), ("SYSTEM_PULLREQUEST_SOURCEBRANCH", "BUILD_SOURCEBRANCH")),
    ("TRAVIS", ("TRAVIS_COMMIT",), ("TRAVIS_PULL_REQUEST_BRANCH", "TRAVIS_BRANCH")),
    ("BITBUCKET_BUILD_NUMBER", ("BITBUCKET_COMMIT",), ("BITBUCKET_BRANCH",)),
    ("DRONE", ("DRONE_COMMIT_SHA",), ("DRONE_SOURCE_BRANCH", "DRONE_BRANCH")),
    ("SEMAPHORE", ("SEMAPHORE_GIT_SHA",), ("SEMAPHORE_GIT_PR_BRANCH", "SEMAPHORE_GIT_BRANCH")),
    (
        "APPVEYOR",
        ("APPVEYOR_REPO_COMMIT",),
        ("APPVEYOR_PULL_REQUEST_HEAD_REPO_BRANCH", "APPVEYOR_REPO_BRANCH"),
    ),
    ("CODEBUILD_BUILD_ID", ("CODEBUILD_RESOLVED_SOURCE_VERSION",), ("CODEBUILD_WEBHOOK_HEAD_REF",)),
)

_GIT_TIMEOUT_SECONDS = 5.0


@dataclass(frozen=True)
class Provenance:
    """The origin of a run; ``None`` for what cannot be determined."""

    commit: str | None
    branch: str | None
    environment: Environment


def find_provenance(folder: str | Path = ".", environ: Mapping[str, str] | None = None) -> Provenance:
    """Determine the provenance of a run in ``folder``.

    The variables of a CI system win over git, because CI checks out a commit without its branch.

    Args:
        folder: A folder of the working tree.
        environ: The environment variables; those of the process by default.

    Returns:
        The commit, the branch, and the environment: ``ci`` if a CI system or ``CI`` is found, else ``local``.
    """
    variables = os.environ if environ is None else environ
    commit = branch = None
    in_ci = variables.get("CI", "").lower() not in ("", "0", "false", "no")
    for marker, commits, branches in _CI_SYSTEMS:
        if variables.get(marker):
            in_ci = True
            commit = _first(variables, commits)
            branch = _first(variables, branches)
            break
    commit = commit or _git(folder, "rev-parse", "--verify", "HEAD")
    branch = branch or _git(folder, "symbolic-ref", "--short", "HEAD")
    return Provenance(commit, branch, Environment.CI if in_ci else Environment.LOCAL)


def _first(variables: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    for name in names:
        if value := variables.get(name):
            # Azure and CodeBuild give the full reference, the git plugin of Jenkins the remote branch.
            return value.removeprefix("origin/" if name == "GIT_BRANCH" else "refs/heads/")
    return None


def _git(folder: str | Path, *arguments: str) -> str | None:
    import subprocess  # slow to import

    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=_GIT_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
