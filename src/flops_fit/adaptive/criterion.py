"""How much runs would tell about N* at a target: the variance of ln N* and how to lower it.

With J the Jacobian of ln L in the law's six coordinates θ (κ free, whatever was fitted), σ the
noise of a run and P a weak prior, M = P + Σ JJᵀ/σ² is the information of the runs and cᵀM⁻¹c the
variance of ln N*(C), c = ∂ ln N*/∂θ. Choosing runs that minimise it is c-optimal design (Elfving
1952; Atkinson, Donev & Tobias 2007, §10.4) at the fitted constants.

Such runs are as cheap as the law allows, and the law may be wrong. So θ has two more coordinates:
by how much the exponents of N and of D change for each e-fold of it, known beforehand to be nought
within τ. Runs that cannot tell a slow drift from none are worth the less the further the target lies
beyond them (Box & Draper 1959: variance and bias together).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flops_fit.adaptive.candidates import Candidates
from flops_fit.fit.intervals import Evidence, gradient_of
from flops_fit.fit.surface import Points, derivatives
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.kappa import Kappa
from flops_fit.laws.law import Law

Floats = NDArray[np.float64]

# Standard deviations of what is known of any scaling law before its runs: E, u, v, p, q, ln κ.
_PRIOR = np.array([0.5, 2.0, 2.0, 0.25, 0.25, 0.7])
DRIFT = 0.001  # τ
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
        M, shape (8, 8): six coordinates of the law and two drifts of its exponents.
    direction
        c, shape (8,).
    drift
        τ, the standard deviation of a drift before runs say.
    noise
        σ of a run near the optimum of its budget, relative.
    arms
        Variance of a run at N*/5 or 5·N* over that of one at N*.
    dof
        Degrees of freedom of the fit.
    """

    information: Floats
    direction: Floats
    drift: float
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

    @property
    def bias(self) -> Floats:
        """How far ln N* as fitted is off for each unit of the two drifts, shape (2,)."""
        M, cross = self.information[:6, :6], self.information[:6, 6:]
        told = np.linalg.solve(M, cross).T @ self.direction[:6]
        return np.asarray(self.direction[6:] - told)

    @property
    def mean_square(self) -> float:
        """Of the error of ln N* as fitted: of noise, and of drifts of size τ, which no fit has."""
        c = self.direction[:6]
        noise = c @ np.linalg.solve(self.information[:6, :6], c)
        return float(noise + self.drift**2 * np.sum(self.bias**2))

    def points_at(self, runs: Candidates) -> Points:
        """Runs to come in the coordinates of the fit; they have no losses."""
        return replace(
            self.points,
            x=np.log(runs.params) - self.points.x_mean,
            y=np.log(runs.tokens) - self.points.y_mean,
            z=np.zeros(len(runs)),
            groups=None,
        )

    def rows(self, runs: Candidates) -> Floats:
        """J/σ of runs to come, shape (candidates, 8)."""
        where = self.points_at(runs)
        J = with_drift(derivatives(self.theta[None], where).gradient[0].T, where)
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


def log_optimum(target: float, flops: FlopsFunction) -> Callable[[Law], Floats]:
    """Ln N*(target) as a quantity of a law."""

    def quantity(law: Law) -> Floats:
        return np.array([np.log(law.optimal(target, flops).params)])

    return quantity


def with_drift(J: Floats, points: Points) -> Floats:
    """The gradient in θ, shape (runs, 6), and in the two drifts.

    A drift a takes u − p·x to u − p·x − a·x²/2, which is to the model what x²/2 less of u is.
    """
    return np.column_stack([J, -J[:, 1] * points.x**2 / 2, -J[:, 2] * points.y**2 / 2])


def _direction(c: Floats, x: float, y: float) -> Floats:
    """∂ ln N*/∂(θ, drifts) at the optimum (x, y): there the slope is p + a·x, the term −a·x²/2."""
    return np.append(c, [x * c[3] + x**2 / 2 * c[1], y * c[4] + y**2 / 2 * c[2]])


def criterion(evidence: Evidence, target: float, drift: float = DRIFT) -> Criterion:
    """What the runs of a fit know about N*(target) if κ is free and exponents drift within τ."""
    solution = evidence.solution
    theta = solution.coordinates
    law = solution.law
    free = replace(solution, theta=theta, law_at=lambda t: solution.points.law_at(t, Kappa))
    at = law.optimal(target, evidence.flops)
    direction = _direction(
        gradient_of(free, log_optimum(target, evidence.flops))[0],
        float(np.log(at.params)) - solution.points.x_mean,
        float(np.log(at.tokens)) - solution.points.y_mean,
    )
    kept = solution.weights > 0
    d = with_drift(derivatives(theta[None], solution.points).gradient[0].T, solution.points)[kept]
    runs = evidence.runs.select(kept)
    distance = np.log(runs.params) - np.log(law.optimal(runs.flops, evidence.flops).params)
    residuals = solution.residuals[kept]
    dof = max(len(residuals) - len(theta), 1)
    noise, arms = _noise(residuals, distance, dof)
    prior = np.diag(np.append(_PRIOR, [drift, drift]) ** -2)
    blank = Criterion(
        prior, direction, drift, noise, arms, dof, theta, solution.points, law, evidence
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
    rows, cost = of.rows(runs), runs.prices
    slots: list[int | None] = [None] * (count - len(fixed))
    taken = list(fixed)
    M = of.information + rows[taken].T @ rows[taken]
    left = spend - float(np.sum(cost[taken]))
    for _ in range(_ROUNDS):
        changed = False
        for s, old in enumerate(slots):
            if old is not None:
                M, left = M - np.outer(rows[old], rows[old]), left + cost[old]
                taken.remove(old)
            inverse = np.linalg.inv(M)
            pull = rows @ (inverse @ of.direction)
            gain = pull**2 / (1 + np.sum((rows @ inverse) * rows, axis=1))
            gain[cost > left + spend * 1e-9] = -1.0
            if not runs.repeats:
                gain[taken] = -1.0
            best = int(np.argmax(gain))
            new = None if gain[best] < 0 else best
            if new is not None and old is not None and gain[new] <= gain[old] * (1 + 1e-9):
                new = old
            if new is not None:
                M, left = M + np.outer(rows[new], rows[new]), left - cost[new]
                taken.append(new)
            changed, slots[s] = changed or new != old, new
        if not changed:
            break
    return [*fixed, *sorted(i for i in slots if i is not None)]
