"""The adapter in docs/adapters.md passes the conformance kit."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"

# Runs the page's own test class. The page does not exist if only the wheel is tested.
if PAGE.exists():
    page = {"__name__": __name__}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, page)
    TestListTracker = page["TestListTracker"]
