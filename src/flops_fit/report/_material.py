"""What figures and pages are made of: the fit, and what came with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from flops_fit.fit import Fit, Prediction
from flops_fit.records import Diagnostic, Run
from flops_fit.report._data import Path, optimal_path
from flops_fit.tune import Collapse, Tuning

__all__ = ["Material", "material"]


@dataclass(frozen=True)
class Material:
    """All that a figure or a section of the page may show.

    Attributes
    ----------
    fit, level
        The fitted law, and the level of all intervals.
    predictions
        The rows of the Chinchilla table, cheapest first; the last one is put in words.
    findings
        Those of the fit and any others.
    runs
        Runs with their states, where they were made here.
    provenance
        Facts by name beside those that the page finds itself: a seed, where records lie.
    title
        What the page is called.
    tuning, collapse
        What was tried before the sweep, and its training curves on one scale, where there are such.
    """

    fit: Fit
    level: float = 0.9
    predictions: tuple[Prediction, ...] = ()
    findings: tuple[Diagnostic, ...] = ()
    runs: tuple[Run, ...] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)
    title: str = "Compute-optimal training"
    tuning: Tuning | None = None
    collapse: Collapse | None = None

    @cached_property
    def paths(self) -> dict[str, Path]:
        """N*, D* and the loss over compute, predicted once for all figures."""
        return optimal_path(self.fit, self.level)


def material(
    fit: Fit,
    level: float = 0.9,
    *,
    predictions: Sequence[Prediction] | None = None,
    diagnostics: Sequence[Diagnostic] = (),
    runs: Sequence[Run] = (),
    provenance: Mapping[str, str] | None = None,
    title: str | None = None,
    tuning: Tuning | None = None,
    collapse: Collapse | None = None,
) -> Material:
    """Material with predictions at each budget of the fitted runs where none are given."""
    rows = predictions or [fit.predict(float(b), level) for b in sorted(set(fit.runs.budget))]
    return Material(
        fit,
        level,
        tuple(rows),
        (*fit.diagnostics, *diagnostics),
        tuple(runs),
        dict(provenance or {}),
        title or Material.title,
        tuning,
        collapse,
    )
