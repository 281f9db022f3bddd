"""One self-contained HTML page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from flops_fit._version import __version__
from flops_fit.errors import OutputError
from flops_fit.files import write_output
from flops_fit.fit.fit import Fit
from flops_fit.fit.prediction import Prediction
from flops_fit.records import Diagnostic, Run
from flops_fit.report.figures import ReportData, report_data
from flops_fit.report.sections import SECTIONS
from flops_fit.report.svg import colours_of, dark_colour
from flops_fit.tune.effects import Collapse
from flops_fit.tune.tuning import Tuning

# What a browser may do with the page: nothing but show it. No request can leave.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(
    fit: Fit,
    path: str | Path,
    *,
    predictions: Sequence[Prediction] | None = None,
    diagnostics: Iterable[Diagnostic] = (),
    runs: Sequence[Run] = (),
    level: float = 0.9,
    title: str | None = None,
    provenance: Mapping[str, str] | None = None,
    tuning: Tuning | None = None,
    collapse: Collapse | None = None,
) -> Path:
    """The answer, a panel of what-ifs, the figures, every finding and every run as one page.

    It has no external files and makes no request. Its what-if panel computes in the page what
    :meth:`flops_fit.fit.Fit.predict` does.

    Parameters
    ----------
    fit
        The fitted law.
    path
        Where the page goes.
    predictions
        The rows of the table; by default one for each budget of the fitted runs.
    diagnostics
        Findings besides those of the fit.
    runs
        The runs with their states, where they were made here.
    level
        Of the intervals in figures and panel.
    title
        Of the page.
    provenance
        More facts by name for its last section, such as a seed.
    tuning, collapse
        What was tried of hyper-parameters before the sweep, and its training curves on one scale.

    Raises
    ------
    OutputError
        ``path`` cannot be written.
    """
    m = report_data(
        fit,
        level,
        predictions=predictions,
        diagnostics=tuple(diagnostics),
        runs=runs,
        provenance=provenance,
        title=title,
        tuning=tuning,
        collapse=collapse,
    )
    text = page(m)
    path = Path(path)
    try:
        write_output(path, text)
    except OSError as error:
        raise OutputError(f"report: {path} cannot be written ({error.strerror}).") from error
    return path


def page(m: ReportData) -> str:
    """The page as text: every section that has something to say, and links to them."""
    shown = [(section, section.render(m)) for section in SECTIONS]
    shown = [(section, body) for section, body in shown if body]
    links = "".join(f'<li><a href="#{s.name}">{html.escape(s.title)}</a></li>' for s, _ in shown)
    body = "".join(
        f'<section id="{s.name}" aria-labelledby="{s.name}-head"><h2 id="{s.name}-head">'
        f"{html.escape(s.title)}</h2>{text}</section>"
        for s, text in shown
    )
    title = html.escape(m.title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="icon" href="data:,"><style>{_style(body)}</style></head><body>'
        '<a class="skip" href="#main">Skip to the answer</a>'
        f'<header><h1>{title}</h1><button type="button" id="theme">Theme</button></header>'
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
        f'<main id="main">{body}</main>'
        f"<footer>Made by flops-fit {__version__}. This page stands alone: it loads nothing.</footer>"
        f"<script>{_asset('law.js')}{_asset('page.js')}</script></body></html>\n"
    )


def _style(body: str) -> str:
    """The style sheet, with the figures' colours for light and for dark paper."""
    codes = colours_of([body])
    light = "".join(f"--c{c}:#{c};" for c in codes)
    dark = "".join(f"--c{c}:{dark_colour(c)};" for c in codes)
    general = _asset("page.css")
    start = general.index("DARK {")
    end = general.index("}", start)
    own = general[start + len("DARK {") : end].strip() + dark
    auto = f"@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {own} }} }}"
    chosen = f"@media screen {{ :root[data-theme=dark] {{ {own} }} }}"
    return f":root {{ {light} }}\n{general[:start]}{auto}\n{chosen}{general[end + 1 :]}"


def _asset(name: str) -> str:
    return (files("flops_fit.report") / "assets" / name).read_text(encoding="utf-8")
