"""Sphinx configuration."""

from metrics_framework import __version__

project = "metrics-framework"
author = "The metrics-framework authors"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
default_role = "literal"
autodoc_member_order = "bysource"
exclude_patterns = ["_build"]
myst_heading_anchors = 2
suppress_warnings = ["myst.xref_missing"]  # the README, which the first page includes, links to files
