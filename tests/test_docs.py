"""The pages under docs/ run, and name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ADAPTIVE = (ROOT / "docs" / "adaptive.md").read_text()
EXECUTING = (ROOT / "docs" / "executing.md").read_text()
FITTING = (ROOT / "docs" / "fitting.md").read_text()
REPORT = (ROOT / "docs" / "report.md").read_text()
TRACKERS = (ROOT / "docs" / "trackers.md").read_text()
PLANNING = (ROOT / "docs" / "planning.md").read_text()
TRAINING = (ROOT / "docs" / "training.md").read_text()
SOURCE = "\n".join(p.read_text() for p in (ROOT / "src" / "flops_fit" / "fit").glob("*.py"))


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (ADAPTIVE, "the interval shrinks from"),
        (EXECUTING, "4 runs, {'completed'}"),
        (FITTING, "parameters on"),
        (PLANNING, "2 runs finished, 2 missing, 2 not asked for"),
        (REPORT, "9 figures in 27 files"),
        (TRACKERS, "samples/s"),
        (TRAINING, "fewer FLOPs than separate runs"),
    ],
    ids=["adaptive", "executing", "fitting", "planning", "report", "trackers", "training"],
)
def test_a_page_runs_from_top_to_bottom(page: str, told: str, tmp_path: Path) -> None:
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert told in done.stdout


def test_every_finding_of_a_fit_is_explained() -> None:
    """Each code that the source writes out stands in the table, and none that it does not know."""
    section = FITTING.split("## Findings")[1].split("## A law of your own")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    told = {code for row in rows for code in re.findall(r"`(\w+)`", row)}
    written = set(re.findall(r'Diagnostic\(\s*"(\w+)"', SOURCE))
    assert written <= told
    ending = re.compile(r"^(?:E|kappa|R_D|R_N)(?=_(?:un)?identified)|(?<=held_out_top_)[12]$")
    for code in told - written:
        assert ending.sub("", code) in SOURCE, code
