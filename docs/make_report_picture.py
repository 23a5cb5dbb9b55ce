"""Takes the screenshot of a report for `docs/report.md`: a history with a shift, and a slower version.

``python docs/make_report_picture.py`` needs the extras ``cli`` and ``compare``, and Chromium on ``PATH``. The
snapshots are those of the tests.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.metrics_framework.report.sample_runs import write_history, write_run  # noqa: E402

PICTURE = ROOT / "docs" / "images" / "report.png"


def main() -> None:
    """Write snapshots, run the command, and take a screenshot of the file that it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        history, new, report = (Path(folder) / name for name in ("history", "new", "report.html"))
        write_history(history)
        for number in range(30, 35):
            hits = {"cache/hits": 600.0 + number}
            write_run(new, number, branch="faster-totals", factor=1.27, custom=hits)
        command = [sys.executable, "-m", "metrics_framework", "report", new, "--history", history]
        subprocess.run([*command, "--last", "10", "-o", report], check=True)
        browser = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options = ["--window-size=1200,1360", f"--screenshot={PICTURE}"]
        subprocess.run([*browser, *options, report.as_uri()], check=True, timeout=120)


if __name__ == "__main__":
    main()
