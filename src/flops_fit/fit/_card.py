"""A fit as a small table, for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flops_fit.records import Diagnostic
from flops_fit.text import card, count

if TYPE_CHECKING:
    from flops_fit.fit._fit import Fit

__all__ = ["fit_card"]


def fit_card(fit: Fit) -> str:
    """The law with its constants, the optimum at the largest run's compute, and what to beware of."""
    best = fit.optimal(fit.largest_compute)
    rows = [["constant", "value"], *([k, f"{v:.4g}"] for k, v in fit.law.params.items())]
    notes = [
        f"{len(fit.runs)} runs fitted, {len(fit.excluded)} left out; scatter {100 * fit.residual_sd:.2g} %.",
        f"At C = {fit.largest_compute:.3g}, the largest run's: N* = {count(best.params)}, "
        f"D* = {count(best.tokens)} {fit.runs.unit}.",
        *_told(fit.diagnostics),
    ]
    return card(f"{fit.law.formula} · trust: {fit.trust}", rows, notes)


def _told(diagnostics: Sequence[Diagnostic]) -> list[str]:
    return [str(d) for d in diagnostics if d.severity in ("warning", "critical")]
