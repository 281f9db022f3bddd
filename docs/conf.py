"""How Sphinx builds the pages and the reference: ``make docs``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import flops_fit

sys.path.insert(0, str(Path(__file__).parent))

project = "flops-fit"
author = copyright = "The flops-fit developers"
version = release = flops_fit.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "pages",
]
exclude_patterns = ["_build", "_pictures"]
html_math_renderer = "mathml"
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autosummary_imported_members = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Types of other packages are named and not linked: their inventories would need a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|matplotlib|narwhals|numpy|pathlib|torch|typing)\..*"),
    (r"py:class", r"(flops_fit\.report\._data\.)?(Axes|Figure|nn\.Module|Optimizer|Path|Tensor)"),
    # What the library hands to itself, and numbers of figures: described where they are returned.
    (r"py:class", r"flops_fit\.\w+\.[a-z_]+\.\w+"),
    (r"py:class", r"(flops_fit\.objective\.)?(DataSpec|ModelSpec|Objective)"),
    (r"py:class", r"Compile|FigureData|Isoflop|Size|Trials|Workers"),
]

html_theme = "pydata_sphinx_theme"
html_title = "flops-fit"
html_copy_source = False
html_static_path = ["_static"]
html_extra_path = ["llms.txt"]
html_css_files = ["site.css"]
html_theme_options = {"navbar_align": "left", "header_links_before_dropdown": 9}
# Pages without pages below them need no list of these.
html_sidebars: dict[str, list[str]] = {
    name: []
    for name in ["index", "tutorial", "gallery", "methods", "limits", "faq", "design", "changelog"]
}

log = logging.getLogger(__name__)
PACKAGES = (
    "flops_fit",
    "flops_fit.adaptive",
    "flops_fit.errors",
    "flops_fit.examples",
    "flops_fit.execute",
    "flops_fit.fit",
    "flops_fit.flops",
    "flops_fit.laws",
    "flops_fit.mup",
    "flops_fit.plan",
    "flops_fit.recipes",
    "flops_fit.reference",
    "flops_fit.report",
    "flops_fit.store",
    "flops_fit.trackers",
    "flops_fit.train",
    "flops_fit.tune",
)
"""Where public names live; the first that has one documents it."""


def public_names() -> dict[str, Any]:
    """Each public object by the name under which it is documented."""
    found: dict[str, Any] = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            named = isinstance(thing, type) or callable(thing)
            if not named or all(thing is not other for other in found.values()):
                found[f"{package}.{name}"] = thing
    return {name: thing for name, thing in found.items() if name not in PACKAGES}


PUBLIC = public_names()


def spellings(node: pending_xref) -> Iterator[str]:
    """The names that a reference may mean, from the most particular."""
    target = node["reftarget"]
    places = [node.get("py:class"), node.get("py:module"), "flops_fit", *PACKAGES]
    yield target
    for place in places:
        if place:
            yield f"{place}.{target}"


def documented_name(path: str) -> str | None:
    """Where the object at an import path is documented: fit.Fit.predict is Fit.predict."""
    parts = path.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        try:
            thing: Any = importlib.import_module(".".join(parts[:cut]))
            thing = getattr(thing, parts[cut])
        except (ImportError, AttributeError):
            continue
        for name, public in PUBLIC.items():
            if public is thing:
                return ".".join([name, *parts[cut + 1 :]])
    return None


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """A docstring names things by where it stands; they are documented where users import them."""
    if node.get("refdomain") != "py":
        return None
    python = env.domains.python_domain
    for path in spellings(node):
        name = documented_name(path) if path.startswith("flops_fit.") else None
        if name in python.objects:
            return python.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, content)
    return None


def split_names(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """``a, b`` with one description, under Attributes, becomes a and b with that description."""
    if "Attributes" not in lines:
        return
    start = lines.index("Attributes") + 2
    split: list[str] = []
    place = start
    while place < len(lines):
        header = lines[place]
        if place + 1 < len(lines) and re.fullmatch("-+", lines[place + 1]) and header:
            break
        place += 1
        text: list[str] = []
        while place < len(lines) and (lines[place].startswith(" ") or not lines[place]):
            text.append(lines[place])
            place += 1
        for each in header.split(", "):
            split += [each, *text]
    lines[start:place] = split


def shorten_types(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Attributes' types by their last names, as parameters' are, and arrays as arrays."""
    for i, line in enumerate(lines):
        if line.startswith(":vartype"):
            field, types = re.fullmatch(r"(:vartype [^:]*:)(.*)", line).groups()
            types = re.sub(r"numpy\.ndarray\[tuple.*?\]\]", "numpy.ndarray", types)
            lines[i] = field + re.sub(r"(?<![\w.~])(?=(?:\w+\.)+\w)", "~", types)


def complain_of_gaps(app: Sphinx, env: BuildEnvironment) -> None:
    """Every public name is in the reference."""
    for name in PUBLIC:
        if name not in env.domains.python_domain.objects and name != "flops_fit.__version__":
            log.warning("%s is public and not in the reference", name)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-docstring", split_names, priority=400)
    app.connect("autodoc-process-docstring", shorten_types, priority=600)
    app.connect("env-check-consistency", complain_of_gaps)
    app.connect("missing-reference", resolve)
