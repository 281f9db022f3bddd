"""One self-contained HTML page."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flops_fit._version import __version__
from flops_fit.errors import OutputError
from flops_fit.fit import Fit, Prediction
from flops_fit.records import Diagnostic, Run
from flops_fit.report._figures import draw_all
from flops_fit.report._table import answer_in_words, approaches_table, chinchilla_table
from flops_fit.text import count, seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["write_report"]

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem;
       color: #222; background: #fff; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; } svg { max-width: 100%; height: auto; }
.warning { color: #8a4b00; } .critical { color: #a40000; font-weight: 600; }
p.answer { white-space: pre-line; }
"""


def write_report(
    fit: Fit,
    path: str | Path,
    *,
    predictions: Sequence[Prediction] | None = None,
    diagnostics: Iterable[Diagnostic] = (),
    runs: Sequence[Run] = (),
) -> Path:
    """The answer, the figures, every finding and every run as one page without external files.

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

    Raises
    ------
    OutputError
        ``path`` cannot be written.
    """
    rows = list(predictions or [fit.predict(float(b)) for b in sorted(set(fit.runs.budget))])
    findings = [*fit.diagnostics, *diagnostics]
    parts = [
        "<h1>Compute-optimal training</h1>",
        f'<p class="answer">{html.escape(answer_in_words(fit, rows[-1], findings))}</p>',
        _table(chinchilla_table(rows)),
        *(f"<h2>{_TITLES[str(f.get_label())]}</h2>{_svg(f)}" for f in draw_all(fit)),
        "<h2>The law</h2>",
        f"<p>{html.escape(_law(fit))}</p>",
        "<h2>Three approaches</h2>",
        _table(approaches_table(fit)),
        "<h2>Findings</h2>",
        _findings(findings),
        _excluded(fit),
        _runs(runs),
        f"<p>flops-fit {__version__}</p>",
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Compute-optimal training</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    path = Path(path)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"report: {path} cannot be written ({error.strerror}).") from error
    return path


_TITLES = {
    "isoflop": "Loss against size at each budget",
    "optimum": "The compute-optimal path",
    "loss": "Loss along it",
    "residuals": "How far the runs lie from the law",
}


def _law(fit: Fit) -> str:
    constants = ", ".join(f"{k} = {v:.4g}" for k, v in fit.law.params.items())
    return (
        f"{fit.law.formula} with {constants}. {str(fit.status).rstrip('.')}. FLOPs: {fit.flops.description}. "
        f"Huber δ = {fit.delta:.3g} on {'log ' if fit.loss_space == 'log' else ''}residuals; "
        f"{fit.starts_agree} of {fit.starts} starts agree."
    )


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    label = html.escape(_TITLES[str(figure.get_label())], quote=True)
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _table(markdown: str) -> str:
    lines = markdown.splitlines()
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("| ")
    ]
    head = "".join(f"<th>{html.escape(c)}</th>" for c in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in rows[1:]
    )
    note = html.escape(lines[-1])
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div><p>{note}</p>'


def _findings(diagnostics: Iterable[Diagnostic]) -> str:
    items = [
        f'<li class="{d.severity}"><b>{d.severity}</b>: {html.escape(d.message)}'
        f"{' → ' + html.escape(d.action) if d.action else ''}</li>"
        for d in diagnostics
    ]
    return f"<ul>{''.join(items)}</ul>" if items else "<p>None.</p>"


def _excluded(fit: Fit) -> str:
    if not fit.excluded:
        return ""
    items = "".join(
        f"<li>{html.escape(e.label)}: {html.escape(e.reason)}</li>" for e in fit.excluded
    )
    return f"<h2>Runs left out of the fit</h2><ul>{items}</ul>"


_OPTIONAL: tuple[tuple[str, Callable[[Run], str]], ...] = (  # shown where a run has one
    ("epochs", lambda r: "–" if r.epochs is None else f"{r.epochs:.2g}"),
    ("units/s", lambda r: count(r.units_per_second) if r.units_per_second else "–"),
    ("MFU", lambda r: "–" if r.mfu is None else f"{100 * r.mfu:.3g} %"),
    ("FLOPs spent", lambda r: f"{r.flops_spent:.4g}" if r.flops_shared else "–"),
)


def _runs(runs: Sequence[Run]) -> str:
    if not runs:
        return ""
    optional = [(name, show) for name, show in _OPTIONAL if any(show(r) != "–" for r in runs)]
    names = ("run", "state", "N", "D", "FLOPs", "loss", "± s.e.", "time")
    head = "".join(f"<th>{n}</th>" for n in [*names, *(name for name, _ in optional)])
    body = []
    for r in runs:
        loss = "–" if r.loss is None else f"{r.loss:.4f}"
        error = "–" if r.loss_se is None else f"{r.loss_se:.4f}"
        cells = (
            r.experiment.label,
            r.state,
            f"{r.experiment.params.total:,}",
            f"{r.tokens:,}",
            f"{r.flops:.4g}",
            loss,
            error,
            seconds(r.seconds),
            *(show(r) for _, show in optional),
        )
        body.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    total = f"<p>{math.fsum(r.flops_spent for r in runs):.4g} FLOPs in all, each counted once.</p>"
    return f'<h2>Runs</h2>{total}<div class="scroll"><table><tr>{head}</tr>{"".join(body)}</table></div>'
