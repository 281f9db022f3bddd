"""The sources of the answer: runs, runs left out, methods with their papers, versions."""

import hashlib
import math
import platform
import re
import tomllib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from html import escape
from typing import TypeVar

import numpy as np

from flops_fit._version import __version__
from flops_fit.fit.fit import Fit
from flops_fit.flops.functions import InterpolatedFlops
from flops_fit.laws import LAWS
from flops_fit.records import Run
from flops_fit.report.figures import ReportData
from flops_fit.report.table import Cell, asset, html_table, paragraph
from flops_fit.text import format_count, format_duration, listed

_MAX_ROWS = 3000  # more make the page slow
_MAX_LABELS = 100  # of runs left out for one reason

_T = TypeVar("_T")


def _number(value: float | None, show: str | Callable[[float], str] = ".4g") -> Cell:
    """A cell that sorts by its value, shown by a format or a function."""
    if value is None:
        return Cell("–")
    return Cell(format(value, show) if isinstance(show, str) else show(value), float(value))


_COLUMNS: dict[str, Callable[[Run], Cell]] = {
    "run": lambda r: Cell(r.experiment.label),
    "state": lambda r: Cell(": ".join(filter(None, (r.state, r.reason))), wide=bool(r.reason)),
    "N": lambda r: Cell(f"{r.experiment.params.total:,}", r.experiment.params.total),
    "D": lambda r: Cell(f"{r.tokens:,}", r.tokens),
    "FLOPs": lambda r: Cell(f"{r.flops:.4g}", r.flops),
    "loss": lambda r: _number(r.loss, ".4f"),
    "± s.e.": lambda r: _number(r.loss_se, ".4f"),
    "time": lambda r: Cell(format_duration(r.seconds), r.seconds),
    "epochs": lambda r: _number(r.epochs, ".2g"),
    "units/s": lambda r: _number(r.units_per_second or None, format_count),
    "MFU": lambda r: _number(r.mfu, lambda v: f"{100 * v:.3g} %"),
    "FLOPs spent": lambda r: _number(r.flops_spent if r.flops_shared else None),
    "resumed": lambda r: _number(r.resumed or None, ".0f"),
    "seed": lambda r: Cell(str(r.experiment.seed), r.experiment.seed),
    "id": lambda r: Cell(r.experiment.id[:12]),
}
_OPTIONAL = ("epochs", "units/s", "MFU", "FLOPs spent", "resumed")  # shown if a run has one


def runs_table(m: ReportData) -> str:
    """The runs of the sweep, or else the rows that the law was fitted to."""
    if not m.runs:
        return _fitted_runs(m.fit)
    columns = {
        name: cell
        for name, cell in _COLUMNS.items()
        if name not in _OPTIONAL or any(cell(r).text != "–" for r in m.runs)
    }
    largest = sorted(m.runs, key=lambda r: -r.flops)
    table = _table(columns, largest, "Every run of the sweep with its state.")
    return paragraph(f"{_total_flops(m.runs)}.") + table


def _fitted_runs(fit: Fit) -> str:
    outliers = {o.label for o in fit.outliers}
    scale, unit = (100.0, " %") if fit.loss_space == "log" else (1.0, "")
    runs = fit.runs
    columns: dict[str, Callable[[int], Cell]] = {
        "run": lambda i: Cell(runs.labels[i]),
        "state": lambda i: Cell("outlier" if runs.labels[i] in outliers else "fitted"),
        "N": lambda i: _number(runs.params[i], format_count),
        "D": lambda i: _number(runs.tokens[i], format_count),
        "FLOPs": lambda i: _number(runs.flops[i]),
        "loss": lambda i: _number(runs.loss[i], ".4f"),
        "loss − law": lambda i: _number(scale * fit.residuals[i], lambda v: f"{v:+.2f}{unit}"),
        "weight": lambda i: _number(fit.weights[i], ".2f"),
    }
    largest = sorted(range(len(runs)), key=lambda i: -runs.flops[i])
    caption = "Every fitted run, with its distance from the law and its weight in the fit."
    return _table(columns, largest, caption)


def _table(columns: dict[str, Callable[[_T], Cell]], items: Sequence[_T], caption: str) -> str:
    note = "Click a column to sort by it."
    if len(items) > _MAX_ROWS:
        note = f"The largest {_MAX_ROWS:,} of {len(items):,} by FLOPs."
    rows = ([cell(item) for cell in columns.values()] for item in items[:_MAX_ROWS])
    return html_table(list(columns), rows, f"{caption} {note}", sortable=True)


def _total_flops(runs: Sequence[Run]) -> str:
    return f"{math.fsum(r.flops_spent for r in runs):.4g} FLOPs in all, each counted once"


def excluded_list(m: ReportData) -> str:
    """Runs left out, grouped by reason."""
    by_reason = defaultdict(list)
    for e in m.fit.excluded:
        by_reason[e.reason].append(e.label)
    items = [
        f"<li>{escape(listed(labels, _MAX_LABELS, ', '))}: {escape(reason)}</li>"
        for reason, labels in by_reason.items()
    ]
    return f"<ul>{''.join(items)}</ul>" if items else ""


def methods_section(m: ReportData) -> str:
    """A methods paragraph and BibTeX."""
    text, keys = methods(m)
    return (
        f'<p id="methods-text">{escape(text)}</p>'
        '<p><button type="button" data-copy="bibtex" hidden>Copy BibTeX</button></p>'
        f'<pre id="bibtex" tabindex="0" aria-label="BibTeX">{escape(bibtex(keys))}</pre>'
    )


def methods(m: ReportData) -> tuple[str, tuple[str, ...]]:
    """A methods paragraph for a paper, and the keys of the papers that it cites."""
    fit = m.fit
    sources = {"kappa": "busbridge2025", "muennighoff": "muennighoff2023", "kaplan": "kaplan2020"}
    drawn = any(p.interval_method != "none" for p in m.answers)
    others = {a.law.name for a in fit.alternatives} - {fit.law.name}
    holds: dict[str, bool] = {
        "compared": "kappa" in others,
        "form": fit.law.name in sources,
        "squares": fit.delta == math.inf,
        "huber": fit.delta < math.inf,
        "window": fit.window.used and fit.window.factor is not None,
        **{a.name: a.headline for a in fit.approaches},
        "intervals": drawn,
        "no_intervals": not drawn,
        "inference": fit.approaches[2].headline and fit.law.name in LAWS,
        "compute": not isinstance(fit.flops, InterpolatedFlops),
        "excluded": bool(fit.excluded),
    }
    sentences = tomllib.loads(asset("methods.toml"))
    surfaces = fit._evidence.posterior if drawn else None
    text = " ".join(words for name, words in sentences.items() if holds.get(name, True)).format(
        fit=fit, runs=len(fit.runs), budgets=len(set(fit.runs.budget)), least=fit.runs.flops.min(),
        source=sources.get(fit.law.name), level=100 * m.level,
        quantity="the log held-out loss" if fit.loss_space == "log" else "the held-out loss",
        surfaces=0 if surfaces is None else len(surfaces),
        amplitude=0 if surfaces is None else 100 * surfaces.amplitude,
        unit=fit.runs.unit.removesuffix("s"), excluded=len(fit.excluded), version=__version__,
    )  # fmt: skip
    cited = dict.fromkeys(re.findall(r"\[(\w+)\]", text))
    return text, tuple(key for key in cited if key in papers())


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
    import matplotlib
    import scipy

    runs, fitted = m.runs, m.fit.runs
    columns = np.column_stack([fitted.params, fitted.tokens, fitted.flops, fitted.loss])
    states = [f"{len(fitted)} fitted, {len(m.fit.excluded)} left out"]
    states += [f"{n} {state}" for state, n in Counter(r.state for r in runs).items()]
    states += [_total_flops(runs)] if runs else []
    libraries = [f"{lib.__name__} {lib.__version__}" for lib in (np, scipy, matplotlib)]
    facts = {
        "Written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "flops-fit": __version__,
        "Python": ", ".join([platform.python_version(), *libraries]),
        "Fitted on": platform.platform(),
        # N, D, C and loss of every fitted run, in order
        "Digest of the fitted runs": "SHA-256 "
        + hashlib.sha256(columns.astype("<f8").tobytes()).hexdigest()[:16],
        "Runs": "; ".join(states),
        "Columns read": "; ".join(fitted.recognised),
        "Model": ", ".join(sorted({r.experiment.model for r in runs})),
        "Trained on": ", ".join(sorted({r.device for r in runs if r.device})),
        "Trained with": ", ".join(sorted({" ".join(v) for r in runs for v in r.versions.items()})),
        "Seeds": "one per run, in the table of runs" if runs else "",
        **(m.provenance or {}),
    }
    notes = "".join(paragraph(note) for note in fitted.notes)
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items() if v)
    return f'<dl class="facts">{rows}</dl>{notes}'
