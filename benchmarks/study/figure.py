"""The curves of a sweep, and above it the budget that it predicted, with what was measured there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit import Fit, RunTable
from flops_fit.report import isoflop, style


def draw(
    fit: Fit, top: RunTable, said: dict[str, Any], vertex: tuple[float, float], path: Path
) -> None:
    """The budget of ``top`` was held out of the fit; ``said`` is the prediction of it at 90 %."""
    data = isoflop.isoflop_data(fit)
    N = np.geomspace(top.params.min() / 1.15, top.params.max() * 1.15, 100)
    C = float(top.budget.mean())
    predicted = said["optimal_params"], said["expected_loss"]
    ahead = isoflop.IsoflopCurve(
        C,
        top.params,
        top.loss,
        np.arange(len(top)),
        N,
        fit.law.loss(N, C / fit.flops(N)),
        *predicted,
        vertex,
    )
    figure = isoflop.draw_isoflop(replace(data, curves=(*data.curves, ahead)))
    (ax,) = figure.axes
    spans = said["intervals"]
    ax.plot(spans["optimal_params"], [predicted[1]] * 2, color=style.INK, lw=1.0, zorder=6)
    ax.plot([predicted[0]] * 2, spans["expected_loss"], color=style.INK, lw=1.0, zorder=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=300)
