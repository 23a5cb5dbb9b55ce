"""The documentation of endpoint options."""

from __future__ import annotations

from pathlib import Path

from metrics_framework.export.endpoints import BUILT_IN, ENTRY_POINT_GROUP
from metrics_framework.plugins import load_from

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "exporting.md"


def shown(default: object) -> str:
    """Return a default in the format of the table."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if default is None:
        return "-"
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_documentation_lists_every_option():
    """The table of `docs/exporting.md` matches the declarations of the options."""
    factories = {}
    for scheme in BUILT_IN:
        factories.setdefault(load_from(BUILT_IN, ENTRY_POINT_GROUP, scheme), scheme)
    rows = [
        f"| `{scheme}` | `{name}` | {option.description} | {shown(option.default)} | {option.meaning} |"
        for factory, scheme in factories.items()
        for name, option in getattr(factory, "options", {}).items()
    ]
    text = DOCUMENTATION.read_text()
    table = text.partition("## Options")[2].partition("## Secrets")[0]
    assert [line for line in table.splitlines() if line.startswith("| `")] == rows
    assert all(f"`{scheme}:" in text or f"`{scheme}s:" in text for scheme in factories.values())
