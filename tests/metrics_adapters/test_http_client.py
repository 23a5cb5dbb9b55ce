"""The documentation of options."""

from __future__ import annotations

from pathlib import Path

from metrics_framework.export.endpoints import BUILT_IN, ENTRY_POINT_GROUP
from metrics_framework.plugins import load_from

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "exporting.md"


def shown(default: object) -> str:
    """Return a default as the table has it."""
    if isinstance(default, bool):
        return "yes" if default else "no"
    if default is None:
        return "-"
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_the_documentation_has_every_option_as_it_is_declared():
    """The table of `docs/exporting.md` says of each endpoint's options what their declarations say."""
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
