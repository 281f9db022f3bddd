"""Every run with its state, and every run that was left out with its reason."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from flops_fit.fit import Fit
from flops_fit.records import Run
from flops_fit.report._elements import Cell, paragraph, table
from flops_fit.report._material import Material
from flops_fit.text import count, seconds

__all__ = ["excluded_list", "runs_table"]

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
    ("time", lambda r: Cell(seconds(r.seconds), r.seconds)),
)
_OPTIONAL: tuple[_Column, ...] = (  # shown where a run has one
    ("epochs", lambda r: _known(r.epochs, lambda v: f"{v:.2g}")),
    ("units/s", lambda r: _known(r.units_per_second or None, count)),
    ("MFU", lambda r: _known(r.mfu, lambda v: f"{100 * v:.3g} %")),
    ("FLOPs spent", lambda r: _known(r.flops_spent if r.flops_shared else None, "{:.4g}".format)),
    ("resumed", lambda r: _known(r.resumed or None, "{:.0f}".format)),
)
_IDENTITY: tuple[_Column, ...] = (
    ("seed", lambda r: Cell(str(r.experiment.seed), r.experiment.seed)),
    ("id", lambda r: Cell(r.experiment.id[:12])),
)


def runs_table(m: Material) -> str:
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
                *(Cell(count(float(v[i])), float(v[i])) for v in (runs.params, runs.tokens)),
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


def excluded_list(m: Material) -> str:
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
