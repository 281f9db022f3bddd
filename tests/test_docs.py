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
CLI = (ROOT / "docs" / "cli.md").read_text()
ADAPTIVE = (ROOT / "docs" / "adaptive.md").read_text()
EXECUTING = (ROOT / "docs" / "executing.md").read_text()
FITTING = (ROOT / "docs" / "fitting.md").read_text()
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
        (TRACKERS, "samples/s"),
        (TRAINING, "fewer FLOPs than separate runs"),
    ],
    ids=["adaptive", "executing", "fitting", "planning", "trackers", "training"],
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
