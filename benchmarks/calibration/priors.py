"""Other settings of the misfit's prior, and what the other families would have chosen for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.calibration.methods import drawn
from benchmarks.calibration.scores import Score, Summary
from benchmarks.calibration.sweeps import cuts, load
from benchmarks.common.report import Result, Table, at_most
from flops_fit.fit import fit_runs
from flops_fit.fit.misfit_mean import MisfitPrior

Floats = NDArray[np.float64]

SHIPPED = "as shipped"
SETTINGS: Mapping[str, MisfitPrior] = {
    SHIPPED: MisfitPrior(),
    "amplitude .0035": MisfitPrior(amplitude=0.0035),
    "amplitude .014": MisfitPrior(amplitude=0.014),
    "window ×2.5": MisfitPrior(window=2.5),
    "window ×8": MisfitPrior(window=8.0),
    "tilt 0": MisfitPrior(tilt=0.0),
    "tilt 1": MisfitPrior(tilt=1.0),
    "lengths .8–2": MisfitPrior(lengths=(0.8, 1.3, 2.0)),
    "lengths 2–5": MisfitPrior(lengths=(2.0, 3.2, 5.0)),
    "drift 1.5": MisfitPrior(drift=1.5),
    "drift 4.5": MisfitPrior(drift=4.5),
}
_LOSS_WEIGHT = 10.0  # a Winkler score of ln L is about a tenth of that of ln N*
_RESAMPLES = 2000


@dataclass(frozen=True)
class Scored:
    """One held-out budget under one setting."""

    sweep: str
    size: Score
    loss: Score

    @property
    def total(self) -> float:
        """The two Winkler scores together."""
        return self.size.winkler + _LOSS_WEIGHT * self.loss.winkler


@cache
def _scores(folder: Path | None) -> dict[str, list[Scored]]:
    out: dict[str, list[Scored]] = {name: [] for name in SETTINGS}
    for sweep in load(folder):
        for cut in cuts(sweep):
            evidence = fit_runs(cut.left)._evidence
            for name, prior in SETTINGS.items():
                changed = replace(evidence, prior=prior)
                for budget in cut.budgets:
                    said, v = drawn(changed, budget), budget.vertex
                    size = Score.of(sweep.family, said["N*"], v.log_n, v.log_n_se)
                    loss = Score.of(sweep.family, said["loss"], v.log_loss, v.log_loss_se)
                    out[name].append(Scored(sweep.name, size, loss))
    return out


def priors(folder: Path | None, quick: bool) -> Result:
    """Is the shipped prior as good as the best that all other families would choose?"""
    found = _scores(folder)
    rows = []
    for name, scored in found.items():
        size, loss = (Summary.of([getattr(s, part) for s in scored]) for part in ("size", "loss"))
        rows.append(
            (
                name,
                f"{size.rms:.3f}",
                f"{100 * size.cover[0]:.0f}",
                f"{size.winkler:.3f}",
                f"{100 * loss.median_error:.2f}",
                f"{100 * loss.cover[0]:.0f}",
                f"{100 * loss.winkler:.2f}",
            )
        )
    columns = ("rms ln N*", "90 % hold", "Winkler", "median |loss|, %", "90 % hold ", "Winkler, %")
    tables = [Table("Settings of the prior, pooled", ("setting", *columns), tuple(rows))]
    families = sorted({s.size.family for s in found[SHIPPED]})
    chosen = {f: min(SETTINGS, key=lambda name: _mean_of_others(found[name], f)) for f in families}
    lost = np.array(
        [
            shipped.total - found[chosen[shipped.size.family]][i].total
            for i, shipped in enumerate(found[SHIPPED])
        ]
    )
    low, middle, high = _over_sweeps(lost, [s.sweep for s in found[SHIPPED]])
    picks = tuple((f, chosen[f]) for f in families)
    note = f"shipped loses {middle:.3f} [{low:.3f}, {high:.3f}] of the score against these choices"
    title = "Chosen by the other families"
    tables.append(Table(title, ("family left out", "setting"), picks, (note,)))
    return tables, [at_most("low end of the score lost against other families' choice", low, 0.0)]


def _mean_of_others(scored: Sequence[Scored], left_out: str) -> float:
    """Families count alike."""
    rest = [s for s in scored if s.size.family != left_out]
    names = sorted({s.size.family for s in rest})
    return float(np.mean([np.mean([s.total for s in rest if s.size.family == n]) for n in names]))


def _over_sweeps(values: Floats, sweeps: Sequence[str]) -> tuple[float, float, float]:
    """The mean with its 90 % interval, whole sweeps resampled."""
    names = sorted(set(sweeps))
    sums = np.array([[values[i], 1.0] for i in range(len(values))])
    per = np.array([sums[[s == n for s in sweeps]].sum(axis=0) for n in names])
    picks = np.random.default_rng(0).integers(len(names), size=(_RESAMPLES, len(names)))
    totals = per[picks].sum(axis=1)
    low, high = np.quantile(totals[:, 0] / totals[:, 1], [0.05, 0.95])
    return float(low), float(np.mean(values)), float(high)
