"""What the pages need that Sphinx does not do: formulas as MathML, pictures by their own code, attributes."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

DOCS = Path(__file__).parent
PICTURES = DOCS / "_pictures"
DRAWN = ("gallery.md", "tutorial.md")
"""Pages whose code saves the pictures that they show."""
SHARED = tomllib.loads((DOCS / "attributes.toml").read_text(encoding="utf-8"))
"""Sentences about attributes that no docstring names: they mean the same wherever they stand."""

log = logging.getLogger(__name__)


def inline(translator: Any, node: nodes.math) -> None:
    """A formula in a line. Browsers draw MathML by themselves, so a page asks nothing of a network."""
    translator.body.append(tex2mathml(node.astext(), as_block=False))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """A formula by itself; one that is wider than a phone scrolls."""
    formula = tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="formula">{formula}</div>\n')
    raise nodes.SkipNode


def script_of(page: Path) -> str:
    """The Python of a page, up to the section in which it trains."""
    text = page.read_text(encoding="utf-8").partition("## A sweep of your own")[0]
    return "\n".join(re.findall(r"^```python\n(.*?)^```", text, re.S | re.M))


def draw(app: Sphinx) -> None:
    """Run the pages that draw, where their pictures are older than they or the library."""
    for name in DRAWN:
        page, folder = DOCS / name, PICTURES / Path(name).stem
        done, sources = folder / "done", [page, *Path(app.confdir, "../src").rglob("*.py")]
        if done.is_file() and done.stat().st_mtime > max(s.stat().st_mtime for s in sources):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
        run = subprocess.run(  # noqa: S603 - the pages' own code
            [sys.executable, "-c", script_of(page)],
            cwd=folder, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if run.returncode:
            log.warning("%s does not run:\n%s", name, run.stderr)
        done.touch()


def sentences(text: str) -> list[str]:
    """The sentences of a docstring, and the parts of one that semicolons divide."""
    plain = re.sub(r"\s+", " ", text)
    return re.split(r"(?<=[.;:]) (?=[A-Z`])", plain)


def attributes(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """One sentence for each field of a class: the one of its docstring that names it, else the shared one."""
    listed = any(line.startswith((":ivar", ":param")) for line in lines)
    if what != "class" or not dataclasses.is_dataclass(obj) or listed:
        return
    said = sentences(inspect.getdoc(obj) or "")
    lines.append("")
    fields = [f for f in dataclasses.fields(obj) if not f.name.startswith("_")]
    for field in fields:
        own = SHARED.get(obj.__name__, {}).get(field.name)
        named = next((s for s in said if f"``{field.name}``" in s), None)
        shared = SHARED["any"].get(field.name)
        alone = named and sum(f"``{f.name}``" in named for f in fields) == 1
        sentence = own or (named if alone else shared or named)
        if sentence is None:
            log.warning("no sentence says what %s.%s is: docs/attributes.toml", name, field.name)
        else:
            lines.append(f":ivar {field.name}: {sentence.rstrip('.;:')}.")
    lines.append("")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("builder-inited", draw)
    app.connect("autodoc-process-docstring", attributes, priority=550)
    return {"parallel_read_safe": True}
