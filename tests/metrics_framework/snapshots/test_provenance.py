"""The provenance of a run, in real repositories and with the variables of every known CI system."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metrics_framework.snapshots import Environment
from metrics_framework.snapshots.provenance import Provenance, find_job, find_machine, find_provenance

NOWHERE = Provenance(None, None, Environment.LOCAL)
DATE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
"""The date of each commit."""

# For each system: its marker, and the variables of the commit, the branch, and the branch of a pull request.
SYSTEMS = [
    ("GITHUB_ACTIONS", "GITHUB_SHA", "GITHUB_REF_NAME", "GITHUB_HEAD_REF"),
    ("GITLAB_CI", "CI_COMMIT_SHA", "CI_COMMIT_REF_NAME", "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME"),
    ("JENKINS_URL", "GIT_COMMIT", "BRANCH_NAME", "CHANGE_BRANCH"),
    ("CIRCLECI", "CIRCLE_SHA1", "CIRCLE_BRANCH", None),
    ("BUILDKITE", "BUILDKITE_COMMIT", "BUILDKITE_BRANCH", None),
    ("TF_BUILD", "BUILD_SOURCEVERSION", "BUILD_SOURCEBRANCH", "SYSTEM_PULLREQUEST_SOURCEBRANCH"),
    ("TRAVIS", "TRAVIS_COMMIT", "TRAVIS_BRANCH", "TRAVIS_PULL_REQUEST_BRANCH"),
    ("BITBUCKET_BUILD_NUMBER", "BITBUCKET_COMMIT", "BITBUCKET_BRANCH", None),
    ("DRONE", "DRONE_COMMIT_SHA", "DRONE_BRANCH", "DRONE_SOURCE_BRANCH"),
    ("SEMAPHORE", "SEMAPHORE_GIT_SHA", "SEMAPHORE_GIT_BRANCH", "SEMAPHORE_GIT_PR_BRANCH"),
    (
        "APPVEYOR",
        "APPVEYOR_REPO_COMMIT",
        "APPVEYOR_REPO_BRANCH",
        "APPVEYOR_PULL_REQUEST_HEAD_REPO_BRANCH",
    ),
    ("CODEBUILD_BUILD_ID", "CODEBUILD_RESOLVED_SOURCE_VERSION", "CODEBUILD_WEBHOOK_HEAD_REF", None),
]
WITH_PULL_REQUESTS = [system for system in SYSTEMS if system[3] is not None]

needs_git = pytest.mark.skipif(
    shutil.which("git") is None and not os.environ.get("CI"), reason="git is not installed"
)


@pytest.fixture(autouse=True)
def _no_git_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the variables by which a hook or a user redirects git, and the parent folders."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "GIT_COMMITTER_DATE": DATE.isoformat()},
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with one commit, on the branch `feature/fast`."""
    folder = tmp_path / "repository"
    folder.mkdir()
    _git(folder, "init", "--quiet")
    _git(folder, "symbolic-ref", "HEAD", "refs/heads/feature/fast")
    _git(folder, "commit", "--quiet", "--allow-empty", "--message", "First")
    return folder


# -- git ---------------------------------------------------------------------------------------------------


@needs_git
@pytest.mark.heavy
def test_a_repository_tells_commit_and_branch(repository: Path) -> None:
    """The commit is the full hash of HEAD, and the branch is the one that is checked out."""
    head = _git(repository, "rev-parse", "HEAD")
    assert len(head) == 40
    assert find_provenance(repository, {}) == Provenance(head, "feature/fast", Environment.LOCAL, DATE)
    assert find_provenance(str(repository), {}) == find_provenance(repository, {})


@needs_git
@pytest.mark.heavy
def test_the_current_folder_is_the_default(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a folder, the working directory of the process is used."""
    monkeypatch.chdir(repository)
    assert find_provenance(environ={}) == find_provenance(repository, {})
    assert find_provenance(environ={}).commit is not None


@needs_git
@pytest.mark.heavy
def test_a_folder_below_belongs_to_the_repository(repository: Path) -> None:
    """A subfolder gives the same result as the root of the working tree."""
    below = repository / "src" / "deep"
    below.mkdir(parents=True)
    assert find_provenance(below, {}) == find_provenance(repository, {})


@needs_git
@pytest.mark.heavy
def test_a_detached_head_has_no_branch(repository: Path) -> None:
    """Only the commit is known."""
    head = _git(repository, "rev-parse", "HEAD")
    _git(repository, "checkout", "--quiet", "--detach")
    assert find_provenance(repository, {}) == Provenance(head, None, Environment.LOCAL, DATE)


@needs_git
@pytest.mark.heavy
def test_a_fresh_repository_has_no_commit(tmp_path: Path) -> None:
    """Before the first commit, only the branch is known."""
    _git(tmp_path, "init", "--quiet")
    _git(tmp_path, "symbolic-ref", "HEAD", "refs/heads/trunk")
    assert find_provenance(tmp_path, {}) == Provenance(None, "trunk", Environment.LOCAL)


@needs_git
@pytest.mark.heavy
def test_a_worktree_has_its_own_branch(repository: Path, tmp_path: Path) -> None:
    """In a linked worktree, commit and branch are those of the worktree."""
    linked = tmp_path / "linked"
    _git(repository, "worktree", "add", "--quiet", "-b", "other", str(linked))
    _git(linked, "commit", "--quiet", "--allow-empty", "--message", "Second")
    head = _git(linked, "rev-parse", "HEAD")
    assert find_provenance(linked, {}) == Provenance(head, "other", Environment.LOCAL, DATE)
    assert find_provenance(repository, {}).commit not in (None, head)


@needs_git
@pytest.mark.heavy
@pytest.mark.parametrize("name", ["größe", "a.b", "v1@2", "head"])
def test_unusual_branch_names_are_unchanged(repository: Path, name: str) -> None:
    """They may contain any characters that git allows."""
    _git(repository, "checkout", "--quiet", "-b", name)
    assert find_provenance(repository, {}).branch == name


@needs_git
@pytest.mark.heavy
def test_outside_a_repository_nothing_is_known(tmp_path: Path) -> None:
    """Commit and branch are `None`, without an error or output."""
    assert find_provenance(tmp_path, {}) == NOWHERE


@needs_git
@pytest.mark.heavy
def test_the_errors_of_git_are_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Outside a repository, git writes a message that is discarded."""
    find_provenance(tmp_path, {})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("folder", ["missing", "file", "nul\0"])
def test_without_a_valid_folder_nothing_is_known(tmp_path: Path, folder: str) -> None:
    """The folder may be missing or be a file."""
    (tmp_path / "file").touch()
    assert find_provenance(str(tmp_path / folder), {}) == NOWHERE


def test_without_git_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commit and branch are `None`."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_provenance(tmp_path, {}) == NOWHERE


# -- CI systems --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("marker", "commit", "branch", "_request"), SYSTEMS, ids=lambda name: str(name))
def test_a_ci_system_tells_commit_and_branch(
    tmp_path: Path, marker: str, commit: str, branch: str, _request: str | None
) -> None:
    """They come from the variables of each system; the environment is `ci`."""
    environ = {marker: "true", commit: "abc123", branch: "main"}
    assert find_provenance(tmp_path, environ) == Provenance("abc123", "main", Environment.CI)


@needs_git
@pytest.mark.heavy
@pytest.mark.parametrize(("marker", "commit", "branch", "_request"), SYSTEMS, ids=lambda name: str(name))
def test_git_wins_over_a_ci_system(
    repository: Path, marker: str, commit: str, branch: str, _request: str | None
) -> None:
    """The working tree is measured, whichever commit started the job. Its variables only name its branch."""
    told = find_provenance(repository, {})
    in_ci = Provenance(told.commit, "feature/fast", Environment.CI, DATE)
    assert find_provenance(repository, {marker: "1", commit: "abc123", branch: "main"}) == in_ci
    _git(repository, "checkout", "--quiet", "--detach")
    # Another commit than the job's, such as the baseline: the job's branch is not that of this commit.
    other = find_provenance(repository, {marker: "1", commit: "abc123", branch: "main"})
    assert (other.commit, other.branch) == (told.commit, None)
    own = find_provenance(repository, {marker: "1", commit: told.commit or "", branch: "main"})
    assert (own.commit, own.branch) == (told.commit, "main")


@needs_git
@pytest.mark.heavy
@pytest.mark.parametrize("marker", [system[0] for system in SYSTEMS])
def test_git_provides_what_a_ci_system_does_not(repository: Path, marker: str) -> None:
    """If the variables are missing or empty, commit and branch come from git."""
    told = find_provenance(repository, {})
    names = next(system[1:] for system in SYSTEMS if system[0] == marker)
    for environ in ({marker: "true"}, {marker: "true", **{name: "" for name in names if name}}):
        assert find_provenance(repository, environ) == Provenance(
            told.commit, told.branch, Environment.CI, DATE
        )


@pytest.mark.parametrize(("marker", "commit", "branch", "request_"), WITH_PULL_REQUESTS)
def test_a_pull_requests_own_branch_wins(
    tmp_path: Path, marker: str, commit: str, branch: str, request_: str
) -> None:
    """The branch is the source of the pull request, not the one created for merging."""
    environ = {marker: "true", commit: "abc123", branch: "refs/pull/7/merge", request_: "feature/fast"}
    assert find_provenance(tmp_path, environ).branch == "feature/fast"


@pytest.mark.parametrize(("marker", "commit", "branch", "request_"), WITH_PULL_REQUESTS)
def test_an_empty_variable_is_ignored(
    tmp_path: Path, marker: str, commit: str, branch: str, request_: str
) -> None:
    """Some systems set the branch of a pull request to an empty value elsewhere."""
    environ = {marker: "true", commit: "abc123", branch: "main", request_: ""}
    assert find_provenance(tmp_path, environ).branch == "main"


@pytest.mark.parametrize(
    ("marker", "branch"),
    [("TF_BUILD", "BUILD_SOURCEBRANCH"), ("CODEBUILD_BUILD_ID", "CODEBUILD_WEBHOOK_HEAD_REF")],
)
def test_a_full_ref_becomes_a_branch(tmp_path: Path, marker: str, branch: str) -> None:
    """Systems that give the full reference name the same branch as the others."""
    assert find_provenance(tmp_path, {marker: "1", branch: "refs/heads/feature/a"}).branch == "feature/a"


def test_jenkins_names_the_branch_in_one_of_two_variables(tmp_path: Path) -> None:
    """A Jenkins job that is not multibranch has only the branch of the git plugin."""
    environ = {"JENKINS_URL": "https://ci.example.org", "GIT_COMMIT": "abc123", "GIT_BRANCH": "main"}
    assert find_provenance(tmp_path, environ) == Provenance("abc123", "main", Environment.CI)
    assert find_provenance(tmp_path, {**environ, "GIT_BRANCH": "origin/a/b"}).branch == "a/b"
    assert find_provenance(tmp_path, {**environ, "BRANCH_NAME": "other"}).branch == "other"
    assert find_provenance(tmp_path, {**environ, "BRANCH_NAME": "origin/a"}).branch == "origin/a"


# -- pull requests -----------------------------------------------------------------------------------------


@pytest.fixture
def pull_request(repository: Path) -> tuple[Path, str, str]:
    """Return a repository that is checked out at the merge of a pull request, its head, and the merge."""
    head = _git(repository, "rev-parse", "HEAD")
    _git(repository, "checkout", "--quiet", "-b", "main")
    _git(repository, "commit", "--quiet", "--allow-empty", "--message", "Second")
    _git(repository, "checkout", "--quiet", "--detach")
    _git(
        repository, "merge", "--quiet", "--no-ff", "-s", "ours", "feature/fast", "--allow-unrelated-histories"
    )
    _git(repository, "commit", "--quiet", "--allow-empty", "--message", "Merge")
    return repository, head, _git(repository, "rev-parse", "HEAD")


def _github(folder: Path, merge: str, head: str, event: str = "pull_request") -> dict[str, str]:
    (folder / "event.json").write_text(json.dumps({"pull_request": {"head": {"sha": head}}}))
    return {
        "GITHUB_ACTIONS": "true",
        "GITHUB_EVENT_NAME": event,
        "GITHUB_EVENT_PATH": str(folder / "event.json"),
        "GITHUB_SHA": merge,
        "GITHUB_REF_NAME": "7/merge",
        "GITHUB_HEAD_REF": "feature/fast",
    }


@needs_git
@pytest.mark.heavy
def test_the_merge_of_a_pull_request_has_its_head(pull_request: tuple[Path, str, str]) -> None:
    """On GitHub and GitLab, the measured merge is the commit, and its head and source branch are told."""
    folder, head, merge = pull_request
    expected = Provenance(merge, "feature/fast", Environment.CI, DATE, head_commit=head)
    gitlab = {
        "GITLAB_CI": "true",
        "CI_COMMIT_SHA": merge,
        "CI_COMMIT_REF_NAME": "refs/merge-requests/7/merge",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_NAME": "feature/fast",
        "CI_MERGE_REQUEST_SOURCE_BRANCH_SHA": head,
    }
    for environ in (_github(folder, merge, head), gitlab):
        assert find_provenance(folder, environ) == expected
        assert expected.tags() == {"commit_date": DATE.isoformat(), "head_commit": head}


@needs_git
@pytest.mark.heavy
def test_the_head_of_a_pull_request_may_be_checked_out(pull_request: tuple[Path, str, str]) -> None:
    """A job that checks out the head instead of the merge has the source branch; the baseline has none."""
    folder, head, merge = pull_request
    _git(folder, "checkout", "--quiet", "--detach", head)
    expected = Provenance(head, "feature/fast", Environment.CI, DATE)
    assert find_provenance(folder, _github(folder, merge, head)) == expected
    _git(folder, "checkout", "--quiet", "--detach", "main")
    assert find_provenance(folder, _github(folder, merge, head)).branch is None


@needs_git
@pytest.mark.heavy
def test_a_pull_request_target_is_the_target_branch(pull_request: tuple[Path, str, str]) -> None:
    """The event `pull_request_target` of GitHub checks out the target branch instead of the request."""
    folder, head, _ = pull_request
    base = _git(folder, "rev-parse", "main")
    environ = {**_github(folder, base, head, "pull_request_target"), "GITHUB_REF_NAME": "main"}
    _git(folder, "checkout", "--quiet", "--detach", base)
    assert find_provenance(folder, environ) == Provenance(base, "main", Environment.CI, DATE)


@pytest.mark.parametrize("content", [None, "", "[]", '{"pull_request": 3}', '{"pull_request": {"head": {}}}'])
def test_an_unusable_event_file_is_ignored(tmp_path: Path, content: str | None) -> None:
    """A missing or different event file costs only the head of the pull request."""
    environ = _github(tmp_path, "abc123", "def456")
    if content is None:
        (tmp_path / "event.json").unlink()
    else:
        (tmp_path / "event.json").write_text(content)
    assert find_provenance(tmp_path, environ) == Provenance("abc123", "feature/fast", Environment.CI)


def test_a_tag_is_not_a_branch(tmp_path: Path) -> None:
    """A job for a tag, on GitHub or GitLab, has no branch."""
    github = {"GITHUB_ACTIONS": "1", "GITHUB_SHA": "abc", "GITHUB_REF_NAME": "v1", "GITHUB_REF_TYPE": "tag"}
    gitlab = {"GITLAB_CI": "1", "CI_COMMIT_SHA": "abc", "CI_COMMIT_REF_NAME": "v1", "CI_COMMIT_TAG": "v1"}
    for environ in (github, gitlab):
        assert find_provenance(tmp_path, environ) == Provenance("abc", None, Environment.CI)


def test_a_ci_system_may_tell_the_date(tmp_path: Path) -> None:
    """Without git, GitLab's variable has the date of the commit."""
    environ = {"GITLAB_CI": "1", "CI_COMMIT_SHA": "abc", "CI_COMMIT_TIMESTAMP": "2026-01-02T04:04:05+01:00"}
    assert find_provenance(tmp_path, environ).commit_date == DATE


# -- given, and refused ------------------------------------------------------------------------------------


@needs_git
@pytest.mark.heavy
def test_commit_and_branch_can_be_given(repository: Path) -> None:
    """A name that git knows becomes its hash, with its date; any other text is kept. A branch is kept."""
    head = _git(repository, "rev-parse", "HEAD")
    _git(repository, "tag", "v1")
    _git(repository, "commit", "--quiet", "--allow-empty", "--message", "Second")
    assert find_provenance(repository, {}, commit="v1") == Provenance(head, None, Environment.LOCAL, DATE)
    assert find_provenance(repository, {}, commit="HEAD").branch == "feature/fast"
    for text in ("unknown", "--all", "-n1", ""):
        given = find_provenance(repository, {"CI_COMMIT_SHA": "x"}, commit=text, branch="release")
        assert given == Provenance(text, "release", Environment.LOCAL)


@needs_git
@pytest.mark.heavy
def test_a_shallow_clone_tells_its_commit(repository: Path, tmp_path: Path) -> None:
    """One commit without its parents, as CI fetches it, has its date."""
    _git(repository, "commit", "--quiet", "--allow-empty", "--message", "Second")
    _git(tmp_path, "clone", "--quiet", "--depth", "1", repository.as_uri(), "shallow")
    head = _git(repository, "rev-parse", "HEAD")
    expected = Provenance(head, "feature/fast", Environment.LOCAL, DATE)
    assert find_provenance(tmp_path / "shallow", {}) == expected


@needs_git
@pytest.mark.heavy
def test_a_refusal_of_git_is_logged(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In another user's checkout git refuses: one warning says why, and the variables of CI are used."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_SHA": "abc123", "GITHUB_REF_NAME": "main"}
    with caplog.at_level(logging.WARNING):
        assert find_provenance(repository, environ) == Provenance("abc123", "main", Environment.CI)
    (record,) = caplog.records
    assert "git refuses to read the repository" in record.getMessage()
    assert "safe.directory" in record.getMessage()


@needs_git
@pytest.mark.heavy
def test_nothing_is_logged_where_git_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Outside a repository, in one without a commit, and without git there is no warning."""
    find_provenance(tmp_path, {})
    _git(tmp_path, "init", "--quiet")
    find_provenance(tmp_path, {})
    monkeypatch.setenv("PATH", str(tmp_path))
    find_provenance(tmp_path, {})
    assert caplog.records == []


# -- the environment ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("marker", [system[0] for system in SYSTEMS])
def test_an_empty_marker_is_ignored(tmp_path: Path, marker: str) -> None:
    """An empty variable does not identify a CI system."""
    assert find_provenance(tmp_path, {marker: "", "CI": ""}) == NOWHERE


@pytest.mark.parametrize("value", ["true", "TRUE", "1", "yes", "woodpecker"])
def test_ci_alone_makes_the_environment_ci(tmp_path: Path, value: str) -> None:
    """An unknown CI system is recognized by `CI`."""
    assert find_provenance(tmp_path, {"CI": value}) == Provenance(None, None, Environment.CI)


@pytest.mark.parametrize("value", ["", "false", "False", "0", "no"])
def test_ci_can_be_denied(tmp_path: Path, value: str) -> None:
    """`CI=false` states that this is not CI."""
    assert find_provenance(tmp_path, {"CI": value}) == NOWHERE


@pytest.mark.parametrize("marker", [system[0] for system in SYSTEMS])
def test_one_systems_variables_are_not_anothers(tmp_path: Path, marker: str) -> None:
    """Only the variables of the identified system are read."""
    environ = {name: "wrong" for system in SYSTEMS for name in system[1:] if name and system[0] != marker}
    assert find_provenance(tmp_path, {**environ, marker: "1"}) == Provenance(None, None, Environment.CI)


def test_the_first_identified_system_is_used(tmp_path: Path) -> None:
    """If it has no commit, that of a second system is not used."""
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_SHA": "abc123", "GITHUB_REF_NAME": "main", "DRONE": "true"}
    assert find_provenance(tmp_path, environ) == Provenance("abc123", "main", Environment.CI)


def test_the_process_environment_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `environ`, the variables of the process are used."""
    for marker, *_ in SYSTEMS:
        monkeypatch.delenv(marker, raising=False)
    monkeypatch.setenv("CI", "true")
    assert find_provenance(tmp_path).environment is Environment.CI
    monkeypatch.delenv("CI")
    assert find_provenance(tmp_path).environment is Environment.LOCAL


def test_runs_of_one_job_share_a_machine() -> None:
    """The tag `job` is equal within a job of a CI system, or within a boot, and differs between jobs."""
    github = {"GITHUB_RUN_ID": "17", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "test"}
    jobs = [
        find_job(each) for each in ({}, github, {**github, "GITHUB_RUN_ATTEMPT": "2"}, {"CI_JOB_ID": "17"})
    ]
    assert len(set(jobs)) == len(jobs)
    assert find_job(dict(github)) == jobs[1]
    assert all(job is not None and re.fullmatch("[0-9a-f]{16}", job) for job in jobs)


def test_a_machine_is_told_by_its_kind() -> None:
    """The tag `machine` has what makes runs comparable, and not the name of the machine."""
    machine = find_machine()
    assert machine.startswith(sys.platform)
    assert f"{os.cpu_count()} CPUs" in machine
    assert socket.gethostname() not in machine
