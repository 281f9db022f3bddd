"""The pages under docs/ run, and name what there is."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import flops_fit
from flops_fit.cli import app

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FITTING = (DOCS / "fitting.md").read_text()
CLI = (DOCS / "cli.md").read_text()
SOURCE = "\n".join(p.read_text() for p in (ROOT / "src" / "flops_fit" / "fit").glob("*.py"))


PAGES = {
    "adaptive": "the interval shrinks from",
    "executing": "4 runs, {'completed'}",
    "fitting": "parameters on",
    "hyperparameters": "of all FLOPs",
    "importing": "20 runs read, N* 8.53e+08 of 8.53e+08",
    "parametrization": "one learning rate does not serve all widths",
    "planning": "2 runs finished, 2 missing, 2 not asked for",
    "recipes": "3 rates for 3 widths",
    "report": "9 figures in 27 files",
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


def test_commands_in_documents_are_commands_with_options_that_there_are() -> None:
    commands = typer.main.get_command(app)
    lines = []
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text()
        blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
        lines += re.findall(r"^flops-fit .*", blocks, re.MULTILINE)
        lines += re.findall(r"`(flops-fit [a-z][^`]*)`", text)
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        command: Any = commands
        while words and hasattr(command, "commands"):
            name = words.pop(0)
            assert name in command.commands, line
            command = command.commands[name]
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert {w for w in words if w.startswith("--")} <= options, line


def test_every_command_is_documented() -> None:
    table = CLI.split("## A sweep from nothing")[0]
    for info in app.registered_commands:
        assert f"`{info.name}`" in table


def test_the_sweep_in_the_document_has_keys_that_there_are() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", CLI, re.DOTALL)
    assert set(tomllib.loads(text)) <= set(inspect.signature(flops_fit.find_optimal).parameters)


def test_every_exit_code_is_documented_alike() -> None:
    from flops_fit.cli._main import EXIT_CODES

    assert set(re.findall(r"^\| (\d+) \|", CLI, re.MULTILINE)) == set(
        re.findall(r"\b\d+\b", EXIT_CODES)
    )
