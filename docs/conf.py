"""Sphinx configuration."""

import re
from typing import Any

from metrics_framework import __version__

project = "metrics-framework"
author = "The metrics-framework authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
default_role = "literal"
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
myst_heading_anchors = 3


def _link_included_pages(app: Any, name: str, source: list[str]) -> None:
    # On GitHub these links lead to the files themselves, here to the pages that include them.
    source[0] = re.sub(
        r"\]\(\.\./(CHANGELOG|CONTRIBUTING)\.md", lambda match: f"]({match[1].lower()}.md", source[0]
    )


def setup(app: Any) -> None:
    """Register the hooks of this configuration."""
    app.connect("source-read", _link_included_pages)
