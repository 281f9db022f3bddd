"""The pages under docs/ run, and name what there is."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

import flops_fit
from flops_fit.cli import app
from tests._scripts import Scripts

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
FITTING = (DOCS / "fitting.md").read_text()
CLI = (DOCS / "cli.md").read_text()
FIT = ROOT / "src" / "flops_fit" / "fit"
SOURCE = "\n".join(
    p.read_text() for p in (*FIT.glob("*.py"), *FIT.glob("*.toml"), FIT.parent / "records.py")
)


PAGES = [p for p in sorted(DOCS.rglob("*.md")) if "_build" not in p.parts]
"""Every page of the documentation."""
EXAMPLES = [str(p.relative_to(DOCS)) for p in PAGES if "```python" in p.read_text()]
EXAMPLES += ["../README.md"]
"""Those that show Python; all of it runs."""
PRINTED = {
    "adaptive.md": "the interval shrinks from",
    "executing.md": "4 runs, {'completed'}",
    "fitting.md": "parameters on",
    "hyperparameters.md": "of all FLOPs",
    "importing.md": "20 runs read, N* 8.53e+08 of 8.53e+08",
    "parametrization.md": "one learning rate does not serve all widths",
    "planning.md": "2 runs finished, 2 missing, 2 not asked for",
    "recipes.md": "3 rates for 3 widths",
    "report.md": "9 figures in 27 files",
    "trackers.md": "samples/s",
    "training.md": "fewer FLOPs than separate runs",
}
"""What some pages print and do not show; a block ```output`` is looked for by itself."""


OTHERS = {"howto/huggingface.md": ("transformers", "datasets")}
"""Packages that some pages are about, which flops-fit does not need."""


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def script_of(page: str) -> str:
    """The Python of a page with every line where the page has it, so that a traceback names it."""
    parts = re.split(r"^```([^`\n]*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    text = ""
    for prose, language, block in zip(
        parts[::3], [*parts[1::3], ""], [*parts[2::3], ""], strict=True
    ):
        text += "\n" * (prose.count("\n") + 1)
        text += block if language == "python" else "\n" * block.count("\n")
    return text


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_page_runs_from_top_to_bottom_as_a_script(
    name: str, tmp_path: Path, scripts: Scripts
) -> None:
    page = (DOCS / name).read_text()
    for package in OTHERS.get(name, ()):
        pytest.importorskip(package)
    script = tmp_path / f"{Path(name).stem}_page.py"
    script.write_text(script_of(page))
    done = scripts.run(script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for shown in [*blocks(page, "output"), PRINTED.get(name, "")]:
        assert shown in done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_script_has_each_line_where_its_page_has_it(name: str) -> None:
    page = (DOCS / name).read_text()
    there = page.splitlines()
    lines = script_of(page).splitlines()
    assert [line for line in lines if line] == [
        line for block in blocks(page, "python") for line in block.splitlines() if line
    ]
    assert all(line in ("", own) for line, own in zip(lines, there, strict=False))


def test_pages_that_print_something_are_pages() -> None:
    assert set(PRINTED) <= set(EXAMPLES)


def test_every_public_package_has_its_page_in_the_reference() -> None:
    """What of each is missing there is a warning of Sphinx: see ``docs/conf.py``."""
    index = (DOCS / "reference" / "index.md").read_text()
    own = {n for n in flops_fit.__all__ if not inspect.ismodule(getattr(flops_fit, n))}
    for name in own - {"__version__"}:
        assert f"\n   {name}\n" in index, name
    for module in set(flops_fit.__all__) - own:
        assert f"({module}.md)" in index, module


def test_every_finding_of_a_fit_is_explained() -> None:
    """Each code that the source writes out stands in the table, once, and none that it does not know."""
    section = FITTING.split("## Findings")[1].split("## A law of your own")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    codes_of_rows = [code for row in rows for code in re.findall(r"`(\w+)`", row)]
    told = set(codes_of_rows)
    assert len(told) == len(codes_of_rows)
    written = set(re.findall(r'Diagnostic\(\s*"(\w+)"', SOURCE))
    findings = tomllib.loads((FIT / "findings.toml").read_text())
    codes = {words.get("code", key) for key, words in findings.items()}
    written |= {code for code in codes if "{" not in code}
    assert written <= told
    ending = re.compile(r"^(?:E|kappa|R_D|R_N|q|r)(?=_(?:un)?identified)|(?<=held_out_top_)[12]$")
    for code in told - written:
        assert ending.sub("", code) in SOURCE, code


def test_commands_in_documents_are_commands_with_options_that_there_are() -> None:
    commands = typer.main.get_command(app)
    lines = []
    for page in [ROOT / "README.md", *PAGES]:
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
    from flops_fit.cli.program import EXIT_CODES

    assert set(re.findall(r"^\| (\d+) \|", CLI, re.MULTILINE)) == set(
        re.findall(r"\b\d+\b", EXIT_CODES)
    )
