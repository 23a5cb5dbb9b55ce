"""Checks the form of a commit message: ``scope: imperative summary``, an empty line, and the reason.

``python tools/check_commit_message.py FILE``, as the commit-msg hook of `.pre-commit-config.yaml` runs it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

MAX_SUMMARY_LENGTH = 71

_FORM = re.compile(r"[a-z][a-z0-9_.-]*(?:(?:/|, )[a-z0-9_.-]+)*: (?P<summary>\S.*)")
_GENERATED = re.compile(r"(?:Merge|Revert) |(?:fixup|squash|amend)! ")
_NOT_IMPERATIVE = re.compile(r"\w+ing|\w+[^e]ed|(?:adds|fixes|removes|renames|makes|updates|changes|moves)")
_IMPERATIVE = {"bring", "ping", "string", "shed", "embed"}


def find_faults(message: str) -> list[str]:
    """Return the faults of a commit message, each with its remedy."""
    lines = [line for line in message.splitlines() if not line.startswith("#")]
    first = lines[0] if lines else ""
    if _GENERATED.match(first):
        return []
    form = _FORM.fullmatch(first)
    if form is None:
        return [f"{first!r} is not of the form 'scope: summary', such as 'otlp: retry after a time-out'"]
    faults = []
    if len(first) > MAX_SUMMARY_LENGTH:
        faults.append(
            f"the first line has {len(first)} characters: use at most {MAX_SUMMARY_LENGTH},"
            " and put the reason into the body"
        )
    verb = form["summary"].split()[0]
    if _NOT_IMPERATIVE.fullmatch(verb.lower()) and verb.lower() not in _IMPERATIVE:
        faults.append(f"{verb!r} is not an imperative: write 'add', not 'added', 'adds' or 'adding'")
    if first.endswith("."):
        faults.append("the first line ends with a period: remove it")
    if len(lines) > 1 and lines[1].strip():
        faults.append("the second line is not empty: separate the summary from the body")
    return faults


def main() -> None:
    """Print the faults of the message in a file, and exit with 1 if there are any."""
    faults = find_faults(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if faults:
        sys.exit("\n".join(f"commit message: {fault}" for fault in faults))


if __name__ == "__main__":
    main()
