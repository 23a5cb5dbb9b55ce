"""Fails if two public classes of the project have the same name: a class name must identify one thing.

``python tools/check_class_names.py [FOLDER...]``
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

FOLDERS = ("metrics_framework", "adapters")

SHARED = {"MetricsSystem"}
"""The facade has the name of its Protocol."""


def class_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of the public classes of a module, without those inside functions and classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            if not node.name.startswith("_"):
                yield node.name
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from class_names(node)


def find_repeated(folders: Sequence[str]) -> dict[str, list[str]]:
    """Return the class names that several modules define, with the paths of these modules."""
    paths: dict[str, list[str]] = defaultdict(list)
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        for name in set(class_names(ast.parse(path.read_text(encoding="utf-8")))):
            paths[name].append(path.as_posix())
    return {name: found for name, found in sorted(paths.items()) if len(found) > 1 and name not in SHARED}


def main() -> None:
    """Print each repeated name with its modules, and exit with 1 if there are any."""
    repeated = find_repeated(sys.argv[1:] or FOLDERS)
    lines = [f"{name} is defined in {' and '.join(found)}" for name, found in repeated.items()]
    if lines:
        sys.exit("\n".join([*lines, "Rename these classes, so that each name is used once."]))


if __name__ == "__main__":
    main()
