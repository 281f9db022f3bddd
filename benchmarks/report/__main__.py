"""How long it takes from a table of runs to a page that a reader can use, and how large that is.

The 240 points of Hoffmann et al. are fitted and written as a page; Chromium, where it is installed, then
opens it from a new profile. Nothing is kept between repeats but imported modules, which the first one
pays for.
"""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common.command import run
from benchmarks.common.report import Result, Table, at_most
from flops_fit import fit_runs, reference, write_report

_SECONDS, _MEGABYTES, _LOAD_SECONDS = 5.0, 6.0, 2.0
_CHROMIUM = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom",
)  # fmt: skip
_CLOCK = (
    '<script>addEventListener("load", () => { document.body.dataset.loaded = performance.now(); })'
    "</script></body>"
)


def page(quick: bool) -> Result:
    """From published runs to a finished page, and its size."""
    rows, totals, size = [], [], 0.0
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(2 if quick else 5):
            start = time.perf_counter()
            fit = fit_runs(reference.runs("hoffmann2022_epoch"))
            fitted = time.perf_counter()
            path = write_report(fit, Path(folder) / "report.html")
            done = time.perf_counter()
            size = path.stat().st_size / 1e6
            totals.append(done - start)
            cells = (fitted - start, done - fitted, done - start)
            name = "first, with imports" if repeat == 0 else "again"
            rows.append((name, *(f"{v:.2f} s" for v in cells), f"{size:.2f} MB"))
    table = Table("From 240 runs to a page", ("", "fit", "page", "both", "size"), tuple(rows))
    goals = [
        at_most("slowest, from runs to page, s", max(totals), _SECONDS),
        at_most("size of the page, MB", size, _MEGABYTES),
    ]
    return [table], goals


def load(quick: bool) -> Result:
    """From navigation to the load event, with the panel computed, in a new profile each time."""
    chromium = shutil.which("chromium")
    columns = ("page", "median", "slowest")
    title = "To open it in Chromium"
    if chromium is None:
        note = "not measured: chromium is not on the path, `make test-browser` installs it"
        return [Table(title, columns, (), (note,))], []
    rows, goals = [], []
    for name in ("hoffmann2022_epoch", "porian2024_refinedweb"):
        took = [_opened(chromium, name) for _ in range(2 if quick else 5)]
        rows.append((name, f"{statistics.median(took):.2f} s", f"{max(took):.2f} s"))
        goals.append(at_most(f"to open {name}, s", statistics.median(took), _LOAD_SECONDS))
    return [Table(title, columns, tuple(rows))], goals


def _opened(chromium: str, name: str) -> float:
    """Seconds from navigation to the load event."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_report(fit_runs(reference.runs(name)), Path(folder) / "report.html")
        path.write_text(path.read_text().replace("</body>", _CLOCK))
        command = [chromium, *_CHROMIUM, f"--user-data-dir={folder}/profile", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        found = re.search(r'data-loaded="([0-9.]+)"', done.stdout)
        if found is None or 'id="answer-params"' not in done.stdout:
            raise RuntimeError(
                f"expected a page with its panel computed; got: {done.stderr[-500:]}"
            )
        return float(found[1]) / 1000


PARTS = {"page": page, "load": load}

if __name__ == "__main__":
    import matplotlib

    sys.exit(run(PARTS, __doc__, "report", matplotlib=matplotlib.__version__))
