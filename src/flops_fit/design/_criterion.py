"""How much runs would tell about N* at a target: the variance of ln N* and how to lower it.

With J the Jacobian of ln L in the law's six coordinates θ (κ free, whatever was fitted), σ the
noise of a run and P a weak prior, M = P + Σ JJᵀ/σ² is the information of the runs and cᵀM⁻¹c the
variance of ln N*(C), c = ∂ ln N*/∂θ. Choosing runs that minimise it is c-optimal design (Elfving
1952; Atkinson, Donev & Tobias 2007, §10.4) at the fitted constants.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flops_fit.design._points import Candidates
from flops_fit.fit import Evidence, Points, derivatives, gradient_of
from flops_fit.laws import Law

__all__ = ["Criterion", "criterion", "exchange", "log_optimum"]

Floats = NDArray[np.float64]

# Standard deviations of what is known of any scaling law before its runs: E, u, v, p, q, ln κ.
_PRIOR = np.array([0.5, 2.0, 2.0, 0.25, 0.25, 0.7])
_NOISE = 0.003  # of a run, before residuals say; public sets show .2 to .8 %
_NOISE_RUNS = 4.0  # what that guess weighs
_FAR = np.log(2.2)
_WIDE = np.log(5.0)
_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class Criterion:
    """The information of the runs so far, and what more would add.

    Attributes
    ----------
    information
        M, shape (6, 6).
    direction
        c, shape (6,).
    noise
        σ of a run near the optimum of its budget, relative.
    arms
        Variance of a run at N*/5 or 5·N* over that of one at N*.
    dof
        Degrees of freedom of the fit.
    """

    information: Floats
    direction: Floats
    noise: float
    arms: float
    dof: int
    theta: Floats
    points: Points
    law: Law
    evidence: Evidence

    @property
    def variance(self) -> float:
        """Of ln N* at the target, from the runs so far."""
        return float(self.direction @ np.linalg.solve(self.information, self.direction))

    def rows(self, runs: Candidates) -> Floats:
        """J/σ of runs to come, shape (candidates, 6)."""
        where = replace(
            self.points,
            x=np.log(runs.params) - self.points.x_mean,
            y=np.log(runs.tokens) - self.points.y_mean,
            z=np.zeros(len(runs)),
            groups=None,
        )
        J = derivatives(self.theta[None], where).gradient[0].T
        best = np.log(self.law.optimal(runs.flops, self.evidence.flops).params)
        return np.asarray(J / self.sd(np.log(runs.params) - best)[:, None])

    def sd(self, distance: Floats) -> Floats:
        """Noise of runs at ln(N/N*)."""
        grown = 1 + (self.arms - 1) * np.minimum((distance / _WIDE) ** 2, 2.0)
        return np.asarray(self.noise * np.sqrt(grown))

    def after(self, rows: Floats) -> float:
        """The variance once runs of these rows of J/σ are there too."""
        M = self.information + rows.T @ rows
        return float(self.direction @ np.linalg.solve(M, self.direction))


def log_optimum(target: float, flops: object) -> object:
    """Ln N*(target) as a quantity of a law."""

    def quantity(law: Law) -> Floats:
        return np.array([np.log(law.optimal(target, flops).params)])  # type: ignore[arg-type]

    return quantity


def criterion(evidence: Evidence, target: float) -> Criterion:
    """What the runs of a fit know about N*(target) if κ is free."""
    solution = evidence.solution
    assert solution.full is not None
    theta = solution.full
    law = solution.law
    free = replace(solution, theta=theta, law_at=lambda t: solution.points.law_at(t, "kappa"))
    direction = gradient_of(free, log_optimum(target, evidence.flops))[0]  # type: ignore[arg-type]
    kept = solution.weights > 0
    d = derivatives(theta[None], solution.points).gradient[0].T[kept]
    runs = evidence.runs.select(kept)
    distance = np.log(runs.params) - np.log(law.optimal(runs.flops, evidence.flops).params)
    residuals = solution.residuals[kept]
    dof = max(len(residuals) - len(theta), 1)
    noise, arms = _noise(residuals, distance, dof)
    blank = Criterion(
        np.diag(_PRIOR**-2), direction, noise, arms, dof, theta, solution.points, law, evidence
    )
    rows = d / blank.sd(distance)[:, None]
    return replace(blank, information=blank.information + rows.T @ rows)


def _noise(residuals: Floats, distance: Floats, dof: int) -> tuple[float, float]:
    """σ near the optimum, and how much larger its square is on the arms where the residuals tell."""
    count = len(residuals)
    scale = count / dof
    variance = (np.sum(residuals**2) + _NOISE_RUNS * _NOISE**2) / (dof + _NOISE_RUNS)
    far = np.abs(distance) > _FAR
    if min(np.sum(far), np.sum(~far)) < 5:
        return float(np.sqrt(variance)), 1.0
    # Each side shrinks towards the common variance, as if by eight more runs of it.
    own = [
        (np.sum(residuals[side] ** 2) * scale + 8 * variance) / (np.sum(side) + 8)
        for side in (~far, far)
    ]
    ratio = float(own[1] / own[0])
    if ratio < 1.5:
        return float(np.sqrt(variance)), 1.0
    return float(np.sqrt(own[0])), min(ratio, 16.0)


def exchange(
    of: Criterion, runs: Candidates, count: int, spend: float, fixed: tuple[int, ...] = ()
) -> list[int]:
    """Positions of up to ``count`` runs for at most ``spend`` FLOPs, of least variance.

    Fedorov's exchange (1972): slots are filled and refilled one at a time with what lowers the
    variance most within what is left to spend, until no change helps. ``fixed`` are in already.
    """
    rows = of.rows(runs)
    chosen = list(fixed)
    slots: list[int | None] = [None] * (count - len(chosen))
    cost = runs.prices
    for _ in range(_ROUNDS):
        changed = False
        for s in range(len(slots)):
            others = [*chosen, *(i for j, i in enumerate(slots) if j != s and i is not None)]
            left = spend - float(np.sum(cost[others])) if others else spend
            inverse = np.linalg.inv(of.information + rows[others].T @ rows[others])
            pull = rows @ (inverse @ of.direction)
            gain = pull**2 / (1 + np.einsum("ij,jk,ik->i", rows, inverse, rows))
            allowed = cost <= left * (1 + 1e-9)
            if not runs.repeats:
                allowed[others] = False
            gain = np.where(allowed, gain, -1.0)
            best = int(np.argmax(gain))
            if gain[best] < 0:
                best_or_none = None
            else:
                old = slots[s]
                if old is not None and gain[best] <= gain[old] * (1 + 1e-9):
                    continue
                best_or_none = best
            changed = changed or best_or_none != slots[s]
            slots[s] = best_or_none
        if not changed:
            break
    return [*chosen, *sorted(i for i in slots if i is not None)]
