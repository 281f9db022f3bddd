"""Whether the runs speak against the law's form, and what of it they could not tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.adaptive.candidates import Candidates
from flops_fit.adaptive.criterion import DRIFT, Criterion, criterion, with_drift
from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.intervals import Evidence
from flops_fit.fit.surface import derivatives, model_values
from flops_fit.fit.window import WindowRule
from flops_fit.flops.functions import FlopsFunction
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_percent

_RUNS = 3
_BAD = 2.0  # rms of three normal errors above this: once in 130


@dataclass(frozen=True)
class Check:
    """Three dearest runs, foretold before they were made.

    Attributes
    ----------
    flops
        Of each run.
    errors
        ln(L/foretold) of each.
    scaled
        The same in standard deviations, of the run's noise and the prediction together.
    """

    flops: tuple[float, ...]
    errors: tuple[float, ...]
    scaled: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Whether the errors are what noise makes."""
        return float(np.sqrt(np.mean(np.square(self.scaled)))) < _BAD

    def __str__(self) -> str:
        errors = ", ".join(f"{100 * e:+.2g} %" for e in self.errors)
        word = "as noise would have it" if self.passed else "more than noise: the form may be wrong"
        return (
            f"check: {len(self.errors)} runs of up to {max(self.flops):.2g} FLOPs missed what was "
            f"foretold by {errors}: {word}"
        )


def predict_largest(of: Criterion | None, chosen: Candidates) -> list[tuple[float, float]]:
    """(ln L, standard deviation) of runs to be made; NaN where nothing is known."""
    if of is None:
        return [(float("nan"), float("nan"))] * len(chosen)
    level = model_values(of.theta, of.points_at(chosen))[0] + np.log(of.points.scale)
    best = np.log(of.law.optimal(chosen.flops, of.evidence.flops).params)
    rows = of.rows(chosen)
    spread = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(of.information), rows)
    sd = of.sd(np.log(chosen.params) - best) * np.sqrt(1 + spread)
    return list(zip(level.tolist(), sd.tolist(), strict=True))


def check_of(
    losses: Sequence[float], foretold: Sequence[tuple[float, float]], made: Sequence[Candidates]
) -> Check | None:
    """The check on the three dearest runs that were foretold; ``None`` where there are fewer."""
    C = np.concatenate([c.flops for c in made])
    level, sd = np.array(foretold).T
    with np.errstate(invalid="ignore", divide="ignore"):
        error = np.log(np.asarray(losses)) - level
    known = np.flatnonzero(np.isfinite(error))
    if len(known) < _RUNS:
        return None
    top = known[np.argsort(-C[known], kind="stable")[:_RUNS]]
    return Check(
        tuple(C[top].tolist()), tuple(error[top].tolist()), tuple((error[top] / sd[top]).tolist())
    )


Floats = NDArray[np.float64]

_LOOSE = (
    0.1  # an e-fold; what a drift may be before runs say, where it is asked whether there is one
)
_FAR = 2.5
_NORMAL = 1.645  # of a 90 % interval
_SURE = 0.01
_SLOW = 0.01  # an e-fold: what real tables leave open at the least


@dataclass(frozen=True)
class Form:
    """A test of exponents that drift: the law's own are constant over all sizes and all data.

    Attributes
    ----------
    drifts
        By how much the exponents of N and of D change for each e-fold, as the runs have it.
    errors
        Their standard deviations.
    p_value
        Of an F test that both are nought.
    shift
        ln N* at the target with these drifts, less that without.
    allowance
        How far ln N* at the target would be off by drifts of .01 an e-fold, root mean square.
    """

    drifts: tuple[float, float]
    errors: tuple[float, float]
    p_value: float
    shift: float
    allowance: float

    @property
    def told(self) -> bool:
        """Whether the runs speak against the form."""
        return self.p_value < _SURE

    def widened(self, best: float, span: tuple[float, float]) -> tuple[float, float]:
        """A 90 % interval around ``best``, widened by the allowance as by one standard deviation."""
        more = _NORMAL * self.allowance
        low, high = (float(np.hypot(np.log(edge / best), more)) for edge in span)
        return best * float(np.exp(-low)), best * float(np.exp(high))

    @property
    def trusted(self) -> float:
        """τ for runs to come, that of any law or as large as the drifts that the runs speak for."""
        return float(np.sqrt(np.mean(np.square(self.drifts)))) if self.told else DRIFT

    def __str__(self) -> str:
        a, b = self.drifts
        if self.told:
            return (
                f"form: doubtful (p = {self.p_value:.1g}): the exponents change by {a:+.2g} and {b:+.2g} "
                f"for each e-fold of N and D, which would move N* by {100 * np.expm1(self.shift):+.2g} %"
            )
        return (
            f"form: nothing speaks against it (p = {self.p_value:.2g}), but exponents that change by "
            f"{_SLOW:g} an e-fold would move N* by {format_percent(np.expm1(self.allowance))}, "
            f"and these runs see only changes beyond {2 * min(self.errors):.2g}"
        )


def form_of(evidence: Evidence, of: Criterion) -> Form:
    """A score test for drifts, in the coordinates of the criterion.

    One Gauss–Newton step from the fitted law towards the law with drifts; a residual counts for
    two and a half standard deviations at most.
    """
    from scipy.special import fdtrc

    solution = evidence.solution
    kept = solution.weights > 0
    d = with_drift(derivatives(of.theta[None], solution.points).gradient[0].T, solution.points)
    x = np.log(evidence.runs.params)
    best = np.log(of.law.optimal(evidence.runs.flops, evidence.flops).params)
    sd = of.sd(x - best)
    rows = (d / sd[:, None])[kept]
    loose = of.information.copy()
    loose[[6, 7], [6, 7]] += _LOOSE**-2 - of.drift**-2
    residuals = np.clip(solution.residuals / sd, -_FAR, _FAR)[kept]
    step = np.linalg.solve(loose, rows.T @ residuals)
    covariance = np.linalg.inv(loose)[6:, 6:]
    drifts = step[6:]
    gain = float(drifts @ np.linalg.solve(covariance, drifts))
    dof = max(of.dof - 2, 1)
    # The noise so far is of the law without drifts, and holds what they would explain.
    F = gain / 2 * dof / max(of.dof - gain, 1.0)
    return Form(
        (float(drifts[0]), float(drifts[1])),
        (float(np.sqrt(covariance[0, 0])), float(np.sqrt(covariance[1, 1]))),
        float(fdtrc(2, dof, F)),
        float(of.direction @ step),
        float(_SLOW * np.sqrt(np.sum(of.bias**2))),
    )


def settled(runs: RunTable, flops: FlopsFunction, target: float) -> tuple[Evidence, Form]:
    """The fit that a sweep goes by, and whether its runs speak against the law's form.

    The runs lie where they tell most if the form is right, far from N* and at little compute: then
    each counts alike. Where they speak against it, those near N* and of most compute say more, by
    the window of :func:`flops_fit.fit_runs`.
    """
    evidence = quick_fit(runs, flops)
    form = form_of(evidence, criterion(evidence, target))
    return (quick_fit(runs, flops, window_of(form)) if form.told else evidence), form


def window_of(form: Form) -> WindowRule:
    """All runs alike, or the window that fits of other runs have."""
    return "auto" if form.told else None
