"""What the answer rests on: the runs, those left out, the methods with their papers, versions."""

from __future__ import annotations

import hashlib
import html
import math
import platform
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

import numpy as np

from flops_fit._version import __version__
from flops_fit.fit.fit import Fit
from flops_fit.flops.functions import InterpolatedFlops
from flops_fit.laws import LAWS
from flops_fit.records import Run
from flops_fit.report.figures import ReportData
from flops_fit.report.table import Cell, asset, html_table, paragraph
from flops_fit.text import format_count, format_duration

_MAX_ROWS = 3000  # more make a page slow, and nobody reads them there
_MAX_LABELS = 100  # of runs left out for one reason

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
    ("loss", lambda r: _known(r.loss, "{:.4f}".format)),
    ("± s.e.", lambda r: _known(r.loss_se, "{:.4f}".format)),
    ("time", lambda r: Cell(format_duration(r.seconds), r.seconds)),
)
_OPTIONAL: tuple[_Column, ...] = (  # shown if a run has one
    ("epochs", lambda r: _known(r.epochs, "{:.2g}".format)),
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
    """The runs of the sweep, or else the rows that the law was fitted to."""
    return _sweep_runs(m.runs) if m.runs else _fitted_runs(m.fit)


def _sweep_runs(runs: Sequence[Run]) -> str:
    optional = [c for c in _OPTIONAL if any(c[1](r).text != "–" for r in runs)]
    columns = (*_COLUMNS, *optional, *_IDENTITY)
    shown, note = _largest(sorted(runs, key=lambda r: -r.flops))
    return paragraph(f"{_total_flops(runs)}.") + html_table(
        [name for name, _ in columns],
        ([show(r) for _, show in columns] for r in shown),
        f"Every run of the sweep with its state. {note}",
        sortable=True,
    )


def _fitted_runs(fit: Fit) -> str:
    outliers = {o.label for o in fit.outliers}
    percent = fit.loss_space == "log"
    runs, rows = fit.runs, []
    shown, note = _largest(sorted(range(len(runs)), key=lambda i: -runs.flops[i]))
    for i in shown:
        residual = float(fit.residuals[i]) * (100 if percent else 1)
        weight = float(fit.weights[i])
        rows.append(
            [
                Cell(runs.labels[i]),
                Cell("outlier" if runs.labels[i] in outliers else "fitted"),
                Cell(format_count(float(runs.params[i])), float(runs.params[i])),
                Cell(format_count(float(runs.tokens[i])), float(runs.tokens[i])),
                Cell(f"{runs.flops[i]:.4g}", float(runs.flops[i])),
                Cell(f"{runs.loss[i]:.4f}", float(runs.loss[i])),
                Cell(f"{residual:+.2f}{' %' if percent else ''}", residual),
                Cell(f"{weight:.2f}", weight),
            ]
        )
    head = ["run", "state", "N", "D", "FLOPs", "loss", "loss − law", "weight"]
    caption = f"Every fitted run, with its distance from the law and its weight in the fit. {note}"
    return html_table(head, rows, caption, sortable=True)


def _largest(items: Sequence[_T]) -> tuple[Sequence[_T], str]:
    if len(items) <= _MAX_ROWS:
        return items, "Click a column to sort by it."
    note = f"The largest {_MAX_ROWS:,} of {len(items):,} by FLOPs; runs.csv has them all."
    return items[:_MAX_ROWS], note


def _total_flops(runs: Sequence[Run]) -> str:
    return f"{math.fsum(r.flops_spent for r in runs):.4g} FLOPs in all, each counted once"


def excluded_list(m: ReportData) -> str:
    """Runs left out, each with its reason; runs with equal reasons stand together."""
    by_reason: dict[str, list[str]] = {}
    for e in m.fit.excluded:
        by_reason.setdefault(e.reason, []).append(e.label)
    items = []
    for reason, labels in by_reason.items():
        more = len(labels) - _MAX_LABELS
        names = ", ".join(labels[:_MAX_LABELS]) + (f" and {more:,} more" if more > 0 else "")
        items.append(f"<li>{html.escape(names)}: {html.escape(reason)}</li>")
    return f"<ul>{''.join(items)}</ul>" if items else ""


def methods_section(m: ReportData) -> str:
    """A methods paragraph and BibTeX."""
    text, keys = methods(m)
    return (
        f'<p id="methods-text">{html.escape(text)}</p>'
        '<p><button type="button" data-copy="bibtex" hidden>Copy BibTeX</button></p>'
        f'<pre id="bibtex" tabindex="0" aria-label="BibTeX">{html.escape(bibtex(keys))}</pre>'
    )


def methods(m: ReportData) -> tuple[str, tuple[str, ...]]:
    """A paragraph that could stand in a paper, and the keys of the papers that it cites."""
    fit = m.fit
    form = {"muennighoff": "muennighoff2023", "kaplan": "kaplan2020"}.get(fit.law.name)
    kappa = any(a.law.name == "kappa" for a in fit.alternatives)
    sentences = [
        f"We fitted {fit.law.formula} to {len(fit.runs)} runs at {len(set(fit.runs.budget))} compute "
        f"budgets from {fit.runs.flops.min():.3g} to {fit.largest_compute:.3g} training FLOPs "
        "(approach 3 of [hoffmann2022])."
    ]
    if fit.law.name == "kappa":
        sentences.append("The form is that of [busbridge2025].")
    elif kappa:
        sentences.append("The form was compared with that of [busbridge2025].")
    if form is not None:
        sentences.append(f"The form is that of [{form}].")
    sentences.append(_residuals(fit))
    if fit.window.used and fit.window.factor is not None:
        sentences.append(
            f"The fit uses runs within a factor {fit.window.factor:.3g} of the optimal size at their compute."
        )
    sentences += [_optimum(fit), _intervals(m)]
    if fit.approaches[2].headline and fit.law.name in LAWS:
        sentences.append("Optima over training and inference follow [sardana2024].")
    sentences.append(
        f"Training FLOPs per {fit.runs.unit.removesuffix('s')}: {fit.flops.description}."
    )
    if not isinstance(fit.flops, InterpolatedFlops):
        sentences.append("C = F(N)·D follows [kaplan2020].")
    if fit.excluded:
        sentences.append(f"{len(fit.excluded)} runs were left out, each with its reason.")
    sentences.append(f"All computations used flops-fit {__version__} [flopsfit].")
    text = " ".join(s for s in sentences if s)
    cited = dict.fromkeys(re.findall(r"\[(\w+)\]", text))
    return text, tuple(key for key in cited if key in papers())


def _residuals(fit: Fit) -> str:
    quantity = "the log held-out loss" if fit.loss_space == "log" else "the held-out loss"
    if fit.delta == float("inf"):
        return f"Least squares on residuals of {quantity}."
    return (
        f"We minimised the sum of Huber's loss [huber1964] with δ = {fit.delta:.2g} over residuals of "
        f"{quantity} from {fit.starts} starts, of which {fit.starts_agree} agree."
    )


def _optimum(fit: Fit) -> str:
    source = {
        "surface": "The optimum minimises the fitted loss over N with D = C/F(N).",
        "isoflop": "The optimum is read from a power law through the minima of IsoFLOP parabolas "
        "(approach 2 of [hoffmann2022]).",
        "envelope": "The optimum is read from a power law through the envelope (approach 1 of "
        "[hoffmann2022]).",
    }
    return next((source[a.name] for a in fit.approaches if a.headline), "")


def _intervals(m: ReportData) -> str:
    used = {p.interval_method for p in m.predictions}
    if "HC3 sandwich" in used:
        return (
            f"Intervals ({100 * m.level:g} %) use an HC3 sandwich covariance [mackinnon1985] with "
            "Student's t and the delta method on the log scale."
        )
    if "case bootstrap" in used:
        return f"Intervals ({100 * m.level:g} %) are percentiles of a case bootstrap."
    return "No interval is given."


def papers() -> dict[str, str]:
    """BibTeX entries by their keys."""
    entries = asset("papers.bib").strip().split("\n\n")
    return {entry.partition("{")[2].partition(",")[0]: entry for entry in entries}


def bibtex(keys: Sequence[str]) -> str:
    """Entries of these papers and of the software."""
    software = (
        "@software{flopsfit,\n  title = {flops-fit: compute-optimal training for any PyTorch model},\n"
        f"  author = {{The flops-fit developers}}, version = {{{__version__}}}\n}}"
    )
    return "\n\n".join([*(papers()[key] for key in keys), software])


def provenance(m: ReportData) -> str:
    """Versions, date, digest, devices and other facts about how the answer was made."""
    versions = {f"{k} {v}" for r in m.runs for k, v in r.versions.items()}
    facts = {
        "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "flops-fit": __version__,
        "Python": f"{platform.python_version()}, {_versions('numpy', 'scipy', 'matplotlib')}",
        "Fitted on": platform.platform(),
        "Digest of the fitted runs": _digest(m.fit),
        "Runs": _states(m),
        "Model": ", ".join(sorted({r.experiment.model for r in m.runs})),
        "Trained on": ", ".join(sorted({r.device for r in m.runs if r.device})),
        "Trained with": ", ".join(sorted(versions)),
        "Seeds": "one per run, in the table of runs" if m.runs else "",
        **m.provenance,
    }
    notes = "".join(paragraph(note) for note in m.fit.runs.notes)
    rows = "".join(
        f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items() if v
    )
    return f'<dl class="facts">{rows}</dl>{notes}'


def _versions(*names: str) -> str:
    known = []
    for name in names:
        try:
            known.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)


def _digest(fit: Fit) -> str:
    """SHA-256 of N, D, C and loss of every fitted run, in order."""
    columns = np.column_stack([fit.runs.params, fit.runs.tokens, fit.runs.flops, fit.runs.loss])
    return "SHA-256 " + hashlib.sha256(columns.astype("<f8").tobytes()).hexdigest()[:16]


def _states(m: ReportData) -> str:
    parts = [f"{len(m.fit.runs)} fitted, {len(m.fit.excluded)} left out"]
    parts += [f"{n} {state}" for state, n in Counter(r.state for r in m.runs).items()]
    return "; ".join([*parts, *([_total_flops(m.runs)] if m.runs else [])])
