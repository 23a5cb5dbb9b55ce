"""The adapter that the documentation shows is complete."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "adapters.md"

# The page's own test class runs here; where only the wheel is tested there is no page.
if PAGE.exists():
    page = {"__name__": __name__}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(block, page)
    TestListTracker = page["TestListTracker"]
