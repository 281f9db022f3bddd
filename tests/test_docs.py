"""The pages under docs/ run, and name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FITTING = (DOCS / "fitting.md").read_text()
SOURCE = "\n".join(p.read_text() for p in (ROOT / "src" / "flops_fit" / "fit").glob("*.py"))


PAGES = {
    "adaptive": "the interval shrinks from",
    "executing": "4 runs, {'completed'}",
    "fitting": "parameters on",
    "importing": "20 runs read, N* 8.53e+08 of 8.53e+08",
    "parametrization": "one learning rate does not serve all widths",
    "planning": "2 runs finished, 2 missing, 2 not asked for",
    "recipes": "3 rates for 3 widths",
    "trackers": "samples/s",
    "training": "fewer FLOPs than separate runs",
}
"""Each page whose examples run, with something that they print."""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_runs_from_top_to_bottom(name: str, tmp_path: Path) -> None:
    page = (DOCS / f"{name}.md").read_text()
    script = tmp_path / "page.py"
    script.write_text("\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL)))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert PAGES[name] in done.stdout


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
