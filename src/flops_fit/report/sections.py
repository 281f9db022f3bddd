"""The sections of the page, from the answer to where it comes from."""

from __future__ import annotations

import hashlib
import html
import math
import platform
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import numpy as np

from flops_fit._version import __version__
from flops_fit.fit.fit import Fit
from flops_fit.records import Diagnostic, Run
from flops_fit.report.elements import Cell, markdown_table, paragraph, table
from flops_fit.report.figures import ReportData, draw_figures
from flops_fit.report.methods import bibtex, methods
from flops_fit.report.panel import panel
from flops_fit.report.svg import inline_svg
from flops_fit.report.table import answer_in_words, approaches_table, chinchilla_table, verdict
from flops_fit.text import format_count, format_duration

_MOST = 3000  # rows: more make a page slow, and nobody reads them there

_T = TypeVar("_T")
_Column = tuple[str, Callable[[Run], Cell]]


def _known(value: float | None, show: Callable[[float], str]) -> Cell:
    return Cell("–") if value is None else Cell(show(value), float(value))


_COLUMNS: tuple[_Column, ...] = (
    ("run", lambda r: Cell(r.experiment.label)),
    (
        "state",
        lambda r: Cell(f"{r.state}: {r.reason}" if r.reason else r.state, wide=bool(r.reason)),
    ),
    ("N", lambda r: Cell(f"{r.experiment.params.total:,}", r.experiment.params.total)),
    ("D", lambda r: Cell(f"{r.tokens:,}", r.tokens)),
    ("FLOPs", lambda r: Cell(f"{r.flops:.4g}", r.flops)),
    ("loss", lambda r: _known(r.loss, lambda v: f"{v:.4f}")),
    ("± s.e.", lambda r: _known(r.loss_se, lambda v: f"{v:.4f}")),
    ("time", lambda r: Cell(format_duration(r.seconds), r.seconds)),
)
_OPTIONAL: tuple[_Column, ...] = (  # shown where a run has one
    ("epochs", lambda r: _known(r.epochs, lambda v: f"{v:.2g}")),
    ("units/s", lambda r: _known(r.units_per_second or None, format_count)),
    ("MFU", lambda r: _known(r.mfu, lambda v: f"{100 * v:.3g} %")),
    ("FLOPs spent", lambda r: _known(r.flops_spent if r.flops_shared else None, "{:.4g}".format)),
    ("resumed", lambda r: _known(r.resumed or None, "{:.0f}".format)),
)
_IDENTITY: tuple[_Column, ...] = (
    ("seed", lambda r: Cell(str(r.experiment.seed), r.experiment.seed)),
    ("id", lambda r: Cell(r.experiment.id[:12])),
)


def runs_table(m: ReportData) -> str:
    """The runs that were made here, or else the rows that the law was fitted to."""
    return _made(m.runs) if m.runs else _fitted(m.fit)


def _made(runs: Sequence[Run]) -> str:
    optional = [c for c in _OPTIONAL if any(c[1](r).text != "–" for r in runs)]
    columns = (*_COLUMNS, *optional, *_IDENTITY)
    total = f"{math.fsum(r.flops_spent for r in runs):.4g} FLOPs in all, each counted once."
    shown, more = _most(sorted(runs, key=lambda r: -r.flops), "by FLOPs")
    return paragraph(total) + table(
        [name for name, _ in columns],
        ([show(r) for _, show in columns] for r in shown),
        f"Every run of the sweep with its state. {more}",
        sortable=True,
    )


def _fitted(fit: Fit) -> str:
    far = {o.label for o in fit.outliers}
    percent = fit.loss_space == "log"
    runs, rows = fit.runs, []
    order = sorted(range(len(runs)), key=lambda i: -runs.flops[i])
    shown, more = _most(order, "by FLOPs")
    for i in shown:
        residual = float(fit.residuals[i]) * (100 if percent else 1)
        weight = float(fit.weights[i])
        state = "outlier" if runs.labels[i] in far else "fitted"
        rows.append(
            [
                Cell(runs.labels[i]),
                Cell(state),
                *(Cell(format_count(float(v[i])), float(v[i])) for v in (runs.params, runs.tokens)),
                Cell(f"{runs.flops[i]:.4g}", float(runs.flops[i])),
                Cell(f"{runs.loss[i]:.4f}", float(runs.loss[i])),
                Cell(f"{residual:+.2f}{' %' if percent else ''}", residual),
                Cell(f"{weight:.2f}", weight),
            ]
        )
    head = ["run", "state", "N", "D", "FLOPs", "loss", "loss over law", "weight"]
    caption = f"Every run that the law was fitted to, with how far it lies from it. {more}"
    return table(head, rows, caption, sortable=True)


def _most(items: Sequence[_T], how: str) -> tuple[Sequence[_T], str]:
    if len(items) <= _MOST:
        return items, "A click on a column sorts by it."
    return items[:_MOST], f"The largest {_MOST:,} of {len(items):,} {how}; runs.csv has them all."


def excluded_list(m: ReportData) -> str:
    """Runs left out, each with its reason; equal reasons are told once."""
    if not m.fit.excluded:
        return ""
    by_reason: dict[str, list[str]] = {}
    for e in m.fit.excluded:
        by_reason.setdefault(e.reason, []).append(e.label)
    items = []
    for reason, labels in by_reason.items():
        some = ", ".join(labels[:100]) + (
            f" and {len(labels) - 100:,} more" if len(labels) > 100 else ""
        )
        items.append(f"<li>{html.escape(some)}: {html.escape(reason)}</li>")
    return f"<ul>{''.join(items)}</ul>"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    name, title
        Its anchor, and what stands above it and in the list of contents.
    render
        From the material to HTML; empty where there is nothing to say, and the section is left out.
    """

    name: str
    title: str
    render: Callable[[ReportData], str]


def answer(m: ReportData) -> str:
    """The answer in words, and what to trust."""
    lead, *rest = answer_in_words(m.fit, m.predictions[-1], m.findings).splitlines()
    trust = verdict(m.fit, m.findings).replace("far", "no")
    kind = {"ok": "ok", "caution": "warning", "no": "critical"}[trust]
    badge = f'<p><span class="trust {kind}">Trust in this answer: {trust}</span></p>'
    return paragraph(lead, "answer lead") + badge + paragraph("\n".join(rest), "answer")


def chinchilla(m: ReportData) -> str:
    """Optima at the budgets."""
    return markdown_table(chinchilla_table(m.predictions), "Optima at each budget")


def figures(m: ReportData) -> str:
    """Every figure with its caption."""
    items = []
    for drawn in draw_figures(m):
        kind = drawn.kind
        items.append(
            f"<figure><h3>{html.escape(kind.title)}</h3>{inline_svg(drawn.figure, kind.title, kind.caption)}"
            f"<figcaption>{html.escape(kind.caption)}</figcaption></figure>"
        )
    return f'<div class="figures">{"".join(items)}</div>'


def law(m: ReportData) -> str:
    """The law with its constants."""
    fit = m.fit
    greek = {"alpha": "α", "beta": "β", "kappa": "κ"}
    constants = ", ".join(f"{greek.get(k, k)} = {v:.4g}" for k, v in fit.law.params.items())
    return paragraph(
        f"{fit.law.formula} with {constants}. {str(fit.status).rstrip('.')}. FLOPs: "
        f"{fit.flops.description}. Huber δ = {fit.delta:.3g} on "
        f"{'log ' if fit.loss_space == 'log' else ''}residuals; {fit.starts_agree} of {fit.starts} "
        "starts agree."
    )


def approaches(m: ReportData) -> str:
    """What approaches 1, 2 and 3 say."""
    return markdown_table(approaches_table(m.fit), "Three approaches")


def tuning(m: ReportData) -> str:
    """What was tried before the sweep: each size and length with its best rate and regrets."""
    if m.tuning is None:
        return ""
    head = (
        f"| N | D ({m.tuning.unit}) | Rate of the recipe | Best | Used | Regret of the recipe "
        "| Regret left | Noise scale |"
    )
    rows = [head, "|---" * 8 + "|"]
    for i, c in enumerate(m.tuning.cells):
        best = m.tuning.lr.cells[i].factor
        regrets = (m.tuning.untuned_regret(i), m.tuning.left_regret(i))
        cells = (
            format_count(c.params),
            format_count(c.units),
            f"{c.recipe_lr:.3g}",
            "–" if best is None else f"{c.lr * best:.3g}",
            f"{c.lr * m.tuning.factor(c.params):.3g}",
            *("–" if r is None else f"{r:.2%}" for r in regrets),
            "–" if c.noise_scale is None else format_count(c.noise_scale),
        )
        rows.append(f"| {' | '.join(cells)} |")
    noise = m.tuning.seed_sd
    rows.append(
        "Rates are at the recipe's batch. Regret is what a rate costs, as a share of the loss. "
        + ("" if noise is None else f"The noise of a seed is {noise:.2%}. ")
        + "A batch below the gradient's noise scale wastes little data."
    )
    lead = paragraph(m.tuning.in_words())
    return lead + markdown_table("\n".join(rows), "Where hyper-parameters were tried")


_ORDER = ("critical", "warning", "note", "ok")


def findings(m: ReportData) -> str:
    """Every finding with what to do next, the worst first; what is in order is folded away."""
    told = sorted(m.findings, key=lambda d: _ORDER.index(d.severity))
    open_, fine = [d for d in told if d.severity != "ok"], [d for d in told if d.severity == "ok"]
    out = _list(open_) if open_ else paragraph("Nothing speaks against this fit.")
    if fine:
        word = "check" if len(fine) == 1 else "checks"
        out += f"<details><summary>{len(fine)} {word} found nothing wrong</summary>{_list(fine)}</details>"
    return out


def _list(found: Sequence[Diagnostic]) -> str:
    items = [
        f'<li class="{d.severity}"><b>{d.severity}</b> <span>{html.escape(d.message)}</span>'
        + (f'<span class="do">→ {html.escape(d.action)}</span>' if d.action else "")
        + "</li>"
        for d in found
    ]
    return f'<ul class="findings">{"".join(items)}</ul>'


def how(m: ReportData) -> str:
    """A methods paragraph and BibTeX."""
    text, keys = methods(m)
    return (
        f'<p id="methods-text">{html.escape(text)}</p>'
        '<p><button type="button" data-copy="bibtex" hidden>Copy BibTeX</button></p>'
        f'<pre id="bibtex" tabindex="0" aria-label="BibTeX">{html.escape(bibtex(keys))}</pre>'
    )


def provenance(m: ReportData) -> str:
    """Versions, date, digests, devices and what else is known of where this comes from."""
    facts = {
        "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "flops-fit": __version__,
        "Python": f"{platform.python_version()}, {_versions('numpy', 'scipy', 'matplotlib')}",
        "Fitted on": platform.platform(),
        "Digest of the fitted runs": _digest(m.fit),
        "Runs": _states(m),
    }
    versions = sorted({f"{k} {v}" for r in m.runs for k, v in r.versions.items()})
    devices = sorted({r.device for r in m.runs if r.device})
    models = sorted({r.experiment.model for r in m.runs})
    for name, values in (
        ("Model", models),
        ("Trained on", devices),
        ("Trained with", versions),
    ):
        if any(values):
            facts[name] = ", ".join(values)
    if m.runs:
        facts["Seeds"] = "each run's own, in the table of runs"
    facts |= m.provenance
    notes = "".join(paragraph(note) for note in m.fit.runs.notes)
    rows = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items() if v
    )
    return f'<dl class="facts">{rows}</dl>{notes}'


def _versions(*names: str) -> str:
    found = []
    for name in names:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _digest(fit: Fit) -> str:
    """SHA-256 of N, D, C and loss of every fitted run, in order."""
    columns = np.column_stack([fit.runs.params, fit.runs.tokens, fit.runs.flops, fit.runs.loss])
    return "SHA-256 " + hashlib.sha256(columns.astype("<f8").tobytes()).hexdigest()[:16]


def _states(m: ReportData) -> str:
    states = Counter(r.state for r in m.runs)
    told = [f"{len(m.fit.runs)} fitted, {len(m.fit.excluded)} left out"]
    told += [f"{n} {state}" for state, n in states.items()]
    if m.runs:
        told.append(
            f"{math.fsum(r.flops_spent for r in m.runs):.4g} FLOPs in all, each counted once"
        )
    return "; ".join(told)


# A section more is an entry more; one that renders nothing is left out with its link.
SECTIONS: tuple[Section, ...] = (
    Section("answer", "Answer", answer),
    Section("table", "Optima at each budget", chinchilla),
    Section("what-if", "What if", panel),
    Section("figures", "Figures", figures),
    Section("tuning", "Hyper-parameters", tuning),
    Section("law", "The law", law),
    Section("approaches", "Three approaches", approaches),
    Section("findings", "Findings", findings),
    Section("runs", "Runs", runs_table),
    Section("excluded", "Runs left out of the fit", excluded_list),
    Section("methods", "Methods", how),
    Section("provenance", "Where this comes from", provenance),
)
