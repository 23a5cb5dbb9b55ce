"""Type-checks the Python blocks of the README and the documentation: ``python tests/typing/check_docs.py``.

The blocks of a page become one module, on the lines that they have on the page, so that an error names the
page's line. As when the pages run, a block after ``<!--- skip: next -->`` is left out.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from mypy import api

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(<!--- skip: next -->\s*)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def module_of(page: str) -> str:
    """Return the Python blocks of a page, with an empty line for each other line."""
    lines = [""] * (page.count("\n") + 1)
    for block in BLOCK.finditer(page):
        if block[1] is None:
            first = page.count("\n", 0, block.start(2))
            code = block[2].splitlines()
            lines[first : first + len(code)] = code
    return "\n".join(lines) + "\n"


def main() -> int:
    """Type-check all pages and print mypy's errors with the names of the pages; return mypy's exit status."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    with tempfile.TemporaryDirectory() as folder:
        modules = {Path(folder, f"page_{number}.py"): page for number, page in enumerate(pages)}
        for module, page in modules.items():
            module.write_text(module_of(page.read_text()))
        report, problem, status = api.run(["--config-file", str(ROOT / "pyproject.toml"), *map(str, modules)])
        for module, page in modules.items():
            report = report.replace(str(module), str(page.relative_to(ROOT)))
    sys.stdout.write(report)
    sys.stderr.write(problem)
    return status


if __name__ == "__main__":
    sys.exit(main())
