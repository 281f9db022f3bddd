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

import numpy as np

from flops_fit._version import __version__
from flops_fit.fit import Fit
from flops_fit.records import Diagnostic
from flops_fit.report._elements import markdown_table, paragraph
from flops_fit.report._figures import draw_figures
from flops_fit.report._material import Material
from flops_fit.report._methods import bibtex, methods
from flops_fit.report._panel import panel
from flops_fit.report._runs_table import excluded_list, runs_table
from flops_fit.report._svg import inline_svg
from flops_fit.report._table import (
    answer_in_words,
    approaches_table,
    chinchilla_table,
    verdict,
)
from flops_fit.text import count

__all__ = ["SECTIONS", "Section"]


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
    render: Callable[[Material], str]


def answer(m: Material) -> str:
    """The answer in words, and what to trust."""
    lead, *rest = answer_in_words(m.fit, m.predictions[-1], m.findings).splitlines()
    trust = verdict(m.fit, m.findings).replace("far", "no")
    kind = {"ok": "ok", "caution": "warning", "no": "critical"}[trust]
    badge = f'<p><span class="trust {kind}">Trust in this answer: {trust}</span></p>'
    return paragraph(lead, "answer lead") + badge + paragraph("\n".join(rest), "answer")


def chinchilla(m: Material) -> str:
    """Optima at the budgets."""
    return markdown_table(chinchilla_table(m.predictions), "Optima at each budget")


def figures(m: Material) -> str:
    """Every figure with its caption."""
    items = []
    for drawn in draw_figures(m):
        kind = drawn.kind
        items.append(
            f"<figure><h3>{html.escape(kind.title)}</h3>{inline_svg(drawn.figure, kind.title, kind.caption)}"
            f"<figcaption>{html.escape(kind.caption)}</figcaption></figure>"
        )
    return f'<div class="figures">{"".join(items)}</div>'


def law(m: Material) -> str:
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


def approaches(m: Material) -> str:
    """What approaches 1, 2 and 3 say."""
    return markdown_table(approaches_table(m.fit), "Three approaches")


def tuning(m: Material) -> str:
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
            count(c.params),
            count(c.units),
            f"{c.recipe_lr:.3g}",
            "–" if best is None else f"{c.lr * best:.3g}",
            f"{c.lr * m.tuning.factor(c.params):.3g}",
            *("–" if r is None else f"{r:.2%}" for r in regrets),
            "–" if c.noise_scale is None else count(c.noise_scale),
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


def findings(m: Material) -> str:
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


def how(m: Material) -> str:
    """A methods paragraph and BibTeX."""
    text, keys = methods(m)
    return (
        f'<p id="methods-text">{html.escape(text)}</p>'
        '<p><button type="button" data-copy="bibtex" hidden>Copy BibTeX</button></p>'
        f'<pre id="bibtex" tabindex="0" aria-label="BibTeX">{html.escape(bibtex(keys))}</pre>'
    )


def provenance(m: Material) -> str:
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


def _states(m: Material) -> str:
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
