"""Sphinx configuration."""

import re
from typing import Any

from metrics_framework import __version__

project = "metrics-framework"
author = "The metrics-framework authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_domain_indices = False  # no page links to an index of modules; the reference lists them
default_role = "literal"
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
myst_heading_anchors = 3
linkcheck_ignore = [r"https?://(127\.0\.0\.1|localhost)\b"]
linkcheck_anchors_ignore_for_url = [r"https://github\.com/"]  # its pages make their anchors with a script


def _link_included_pages(app: Any, name: str, source: list[str]) -> None:
    # On GitHub these links lead to the files themselves, here to the pages that include them.
    source[0] = re.sub(
        r"\]\(\.\./(CHANGELOG|CONTRIBUTING)\.md", lambda match: f"]({match[1].lower()}.md", source[0]
    )


def setup(app: Any) -> None:
    """Register the hooks of this configuration."""
    app.connect("source-read", _link_included_pages)
