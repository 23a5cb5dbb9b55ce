"""The HTML report of a comparison. `render_report` needs the extra ``compare``."""

from metrics_framework.report.page import render_report

__all__ = ["render_report"]
