"""Takes the screenshot of Prometheus' graph page for "Prometheus in five minutes".

``python docs/make_prometheus_picture.py`` takes four minutes. It needs Prometheus with its web page (Debian's
package, or a release) and Chromium on ``PATH``, and the free ports 9464 and 9090.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode

DOCS = Path(__file__).parent
EXAMPLE = DOCS.parent / "examples" / "five_minutes"
SECONDS = 220
QUERY = {"g0.expr": "sum by (item) (rate(items_sold_total[1m]))", "g0.tab": "0", "g0.range_input": "2m"}


def main() -> None:
    """Run the application and the server, and take a screenshot of the graph."""
    picture = DOCS / "images" / "prometheus.png"
    with tempfile.TemporaryDirectory() as folder:
        arguments = (f"--config.file={EXAMPLE / 'prometheus.yml'}", "--storage.tsdb.path=data")
        programs = [
            subprocess.Popen([sys.executable, EXAMPLE / "app.py"]),
            subprocess.Popen(["prometheus", *arguments, "--web.listen-address=127.0.0.1:9090"], cwd=folder),
        ]
        try:
            time.sleep(SECONDS)
            browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            options = ["--window-size=1180,860", "--virtual-time-budget=20000", f"--screenshot={picture}"]
            subprocess.run(
                [*browser, *options, f"http://127.0.0.1:9090/graph?{urlencode(QUERY)}"],
                check=True,
                timeout=120,
            )
        finally:
            for program in programs:
                program.terminate()
            for program in programs:
                program.wait()


if __name__ == "__main__":
    main()
