"""The provenance of a run: commit, branch and environment, from git and from the variables of a CI system."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from metrics_framework.log import LogOnce
from metrics_framework.runtime.boot import boot_id
from metrics_framework.snapshots.rules import parse_timestamp
from metrics_framework.snapshots.v1 import Environment

COMMIT_DATE_TAG = "commit_date"
"""Metadata tag: the date of the commit, by which a history sorts runs."""

HEAD_COMMIT_TAG = "head_commit"
"""Metadata tag: the head of the pull request, if the measured commit is its merge with the target branch."""

JOB_TAG = "job"
"""Metadata tag: what shares the state of a machine, a job of a CI system or else a boot, as a hash."""

MACHINE_TAG = "machine"
"""Metadata tag: the kind of machine, so that a comparison can tell that the hardware differs."""

PAIR_TAG = "pair"
"""Metadata tag of runs that were measured by turns: the number of the pair of all planned ones, ``3/20``."""

SIDE_TAG = "side"
"""Metadata tag of runs that were measured by turns: ``baseline`` or ``current``."""

RESERVED_TAGS = frozenset({COMMIT_DATE_TAG, HEAD_COMMIT_TAG, JOB_TAG, MACHINE_TAG, PAIR_TAG, SIDE_TAG})
"""Metadata tags with a meaning, so that a parameter of a command needs another name."""

_JOB_VARIABLES = (
    "GITHUB_RUN_ID",
    "GITHUB_RUN_ATTEMPT",
    "GITHUB_JOB",
    "CI_JOB_ID",  # GitLab
    "BUILD_TAG",  # Jenkins
    "CIRCLE_WORKFLOW_JOB_ID",
    "BUILDKITE_JOB_ID",
    "SYSTEM_JOBID",  # Azure
    "TRAVIS_JOB_ID",
    "BITBUCKET_STEP_UUID",
    "DRONE_BUILD_NUMBER",
    "DRONE_STAGE_NUMBER",
    "SEMAPHORE_JOB_ID",
    "APPVEYOR_JOB_ID",
    "CODEBUILD_BUILD_ID",
)

_CI_SYSTEMS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    # The variable that identifies the system, then those with the commit and its branch: the first set wins.
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
_NO_REPOSITORY = "not a git repository"


@dataclass(frozen=True)
class Provenance:
    """The origin of a run; ``None`` for what cannot be determined.

    Attributes:
        commit: The commit of the measured working tree.
        branch: Its branch; of a pull request the source branch.
        environment: ``ci`` if a CI system or ``CI`` is found, else ``local``.
        commit_date: The date on which the commit was created, in UTC.
        head_commit: The head of the pull request, if CI has merged it and measures that merge.
    """

    commit: str | None
    branch: str | None
    environment: Environment
    commit_date: datetime | None = None
    head_commit: str | None = None

    def tags(self) -> dict[str, str]:
        """Return what v1 metadata has no field for."""
        tags = {}
        if self.commit_date is not None:
            tags[COMMIT_DATE_TAG] = self.commit_date.isoformat()
        if self.head_commit is not None:
            tags[HEAD_COMMIT_TAG] = self.head_commit
        return tags


def find_provenance(
    folder: str | Path = ".",
    environ: Mapping[str, str] | None = None,
    *,
    commit: str | None = None,
    branch: str | None = None,
) -> Provenance:
    """Determine the provenance of a run in ``folder``.

    The commit is git's HEAD. The variables of a CI system replace it only outside a repository, or where git
    refuses to read it, which is logged. CI checks out a commit without its branch; the branch then comes from
    the variables, unless they describe another commit.

    Args:
        folder: A folder of the working tree.
        environ: The environment variables; those of the process by default.
        commit: The measured commit, if it is not HEAD: any name by which git knows it, or any text.
        branch: The measured branch, if it is not the one that is checked out.
    """
    variables = os.environ if environ is None else environ
    ci = _find_ci(variables)
    git = _Git(folder)
    head, head_date = git.commit("HEAD")
    found, date = head, head_date
    if commit is not None:
        found, date = git.commit(commit)
        found = found or commit
    elif head is None:
        found = ci.commit
    if date is None and found is not None and found == ci.commit:
        date = ci.commit_date
    if branch is None and found == head:
        branch = git.branch()
    if branch is None and (found == ci.commit or (ci.commit is None and found == head)):
        branch = ci.branch
    elif branch is None and found == ci.request_head:
        branch = ci.request_branch
    is_merge = found is not None and found == ci.commit and ci.is_merge
    return Provenance(
        found,
        branch,
        Environment.CI if ci.is_ci else Environment.LOCAL,
        date,
        ci.request_head if is_merge and ci.request_head != found else None,
    )


def machine_tags() -> dict[str, str]:
    """Return the tags of the job and of the machine on which this process runs."""
    job = find_job()
    return {**({JOB_TAG: job} if job is not None else {}), MACHINE_TAG: find_machine()}


def find_job(environ: Mapping[str, str] | None = None) -> str | None:
    """Return what shares the state of this machine: the job of a CI system on this boot, or else the boot.

    Args:
        environ: The environment variables; those of the process by default.

    Returns:
        A hash, which does not tell the name of the machine; ``None`` if neither is known.
    """
    variables = os.environ if environ is None else environ
    parts = [variables.get(name, "") for name in _JOB_VARIABLES]
    if (boot := boot_id()) is None and not any(parts):
        return None
    return hashlib.sha256("\0".join([boot or "", *parts]).encode("utf-8", "replace")).hexdigest()[:16]


@cache
def find_machine() -> str:
    """Return the kind of this machine, such as ``linux x86_64, 4 CPUs, AMD EPYC 7763 64-Core Processor``."""
    architecture = (
        os.uname().machine if sys.platform != "win32" else os.environ.get("PROCESSOR_ARCHITECTURE", "")
    )
    parts = [f"{sys.platform} {architecture}".strip(), f"{os.cpu_count() or 1} CPUs"]
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, model = line.partition(":")
            if name.strip() == "model name":
                parts.append(model.strip())
                break
    return ", ".join(parts)


# -- CI systems --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ci:
    """What a CI system tells.

    Attributes:
        is_ci: Whether this is CI at all.
        commit: The commit that it checks out by default.
        branch: The branch of that commit.
        commit_date: The date of that commit.
        request_head: The last commit of the pull request.
        request_branch: The source branch of the pull request.
        is_merge: Whether ``commit`` is a merge of the pull request.
    """

    is_ci: bool
    commit: str | None = None
    branch: str | None = None
    commit_date: datetime | None = None
    request_head: str | None = None
    request_branch: str | None = None
    is_merge: bool = False


def _find_ci(variables: Mapping[str, str]) -> _Ci:
    for marker, commits, branches in _CI_SYSTEMS:
        if variables.get(marker):
            commit, branch = _first(variables, commits), _first(variables, branches)
            if marker == "GITHUB_ACTIONS":
                return _find_github(variables, commit)
            if marker == "GITLAB_CI":
                return _find_gitlab(variables, commit, branch)
            return _Ci(True, commit, branch)
    return _Ci(variables.get("CI", "").lower() not in ("", "0", "false", "no"))


def _find_github(variables: Mapping[str, str], commit: str | None) -> _Ci:
    event = _read_event(variables.get("GITHUB_EVENT_PATH"))
    is_branch = variables.get("GITHUB_REF_TYPE", "branch") == "branch"
    ref = variables.get("GITHUB_REF_NAME") or None
    source = variables.get("GITHUB_HEAD_REF") or None
    is_merge = source is not None and variables.get("GITHUB_EVENT_NAME") != "pull_request_target"
    return _Ci(
        True,
        commit,
        source if is_merge else ref if is_branch else None,
        _date(_text(event, "head_commit", "timestamp")),
        _text(event, "pull_request", "head", "sha"),
        source,
        is_merge,
    )


def _find_gitlab(variables: Mapping[str, str], commit: str | None, branch: str | None) -> _Ci:
    source = variables.get("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME") or None
    head = variables.get("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA") or None  # of a merged-results pipeline only
    date = _date(variables.get("CI_COMMIT_TIMESTAMP"))
    is_tag = source is None and bool(variables.get("CI_COMMIT_TAG"))
    return _Ci(True, commit, None if is_tag else branch, date, head, source, head is not None)


def _read_event(path: str | None) -> Any:
    if path:
        with suppress(OSError, ValueError):
            return json.loads(Path(path).read_bytes())
    return None


def _text(event: Any, *keys: str) -> str | None:
    for key in keys:
        event = event.get(key) if isinstance(event, dict) else None
    return event if isinstance(event, str) and event else None


def _date(text: str | None) -> datetime | None:
    if text:
        with suppress(ValueError):
            return parse_timestamp(text)
    return None


def commit_date_of(tags: Mapping[str, str]) -> datetime | None:
    """Return the date of the commit from the tags of a snapshot, or ``None`` without a valid one."""
    return _date(tags.get(COMMIT_DATE_TAG))


def _first(variables: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    for name in names:
        if value := variables.get(name):
            # Azure and CodeBuild give the full reference, the git plugin of Jenkins the remote branch.
            return value.removeprefix("origin/" if name == "GIT_BRANCH" else "refs/heads/")
    return None


# -- git ---------------------------------------------------------------------------------------------------


_log_once = LogOnce()


class _Git:
    """Reads the repository of a folder. A refusal of git is logged once in this process."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = folder
        self._works = True

    def commit(self, name: str) -> tuple[str | None, datetime | None]:
        """Return the hash and the date of a commit, or two ``None``."""
        lines = self._run(
            "rev-list", "--max-count=1", "--timestamp", "--end-of-options", f"{name}^{{commit}}"
        )
        if lines is None:
            return None, None
        seconds, _, commit = lines.partition(" ")
        with suppress(ValueError, OverflowError, OSError):
            return commit, datetime.fromtimestamp(int(seconds), UTC)
        return commit or None, None

    def branch(self) -> str | None:
        """Return the branch that is checked out, or ``None`` if HEAD is detached."""
        reference = self._run("symbolic-ref", "--quiet", "HEAD")
        return reference.removeprefix("refs/heads/") if reference else None

    def _run(self, *arguments: str) -> str | None:
        if not self._works:
            return None
        import subprocess  # slow to import

        try:
            done = subprocess.run(
                ["git", "-C", str(self._folder), *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                encoding="utf-8",
                errors="surrogateescape",
                env={**os.environ, "LC_ALL": "C"},
                timeout=_GIT_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self._refuse(f"no answer within {_GIT_TIMEOUT_SECONDS:g} s")
            return None
        except (OSError, ValueError, subprocess.SubprocessError):
            self._works = False  # git is not installed
            return None
        if done.returncode == 0:
            return done.stdout.strip() or None
        if "dubious ownership" in done.stderr:  # another user's checkout
            self._refuse(" ".join(done.stderr.split()))
        elif _NO_REPOSITORY in done.stderr:
            self._works = False
        return None

    def _refuse(self, reason: str) -> None:
        self._works = False
        _log_once.log(
            "warning", "git refuses to read the repository", folder=str(self._folder), reason=reason
        )
