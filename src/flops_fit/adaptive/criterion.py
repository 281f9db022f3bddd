"""How much runs would tell about N* at a target: the variance of ln N* and how to lower it.

With J the Jacobian of ln L in the law's six coordinates θ (κ free, whatever was fitted), σ the
noise of a run and P a weak prior, M = P + Σ JJᵀ/σ² is the information of the runs and cᵀM⁻¹c the
variance of ln N*(C), c = ∂ ln N*/∂θ. Choosing runs that minimise it is c-optimal design (Elfving
1952; Atkinson, Donev & Tobias 2007, §10.4) at the fitted constants.

Such runs are as cheap as the law allows, and the law may be wrong. So θ has two more coordinates:
by how much the exponents of N and of D change for each e-fold of it, with prior mean 0 and standard
deviation τ. Runs that cannot distinguish a slow drift from none count less the further the target
lies beyond them (Box & Draper 1959: variance and bias together).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flops_fit.adaptive.candidates import Candidates
from flops_fit.fit.intervals import Evidence, gradient_of, student_t
from flops_fit.fit.surface import Points, derivatives, model_values
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.kappa import Kappa
from flops_fit.laws.law import Law

Floats = NDArray[np.float64]

LEVEL = 0.9
DRIFT = 0.001  # τ

# Prior standard deviations for any scaling law: E, u, v, p, q, ln κ.
_PRIOR_SD = np.array([0.5, 2.0, 2.0, 0.25, 0.25, 0.7])
_PRIOR_NOISE = 0.003  # of a run, before residuals are known; public sets show .2 to .8 %
_PRIOR_NOISE_RUNS = 4.0  # how many runs that guess counts for
_ARM_DISTANCE = np.log(2.2)  # runs further from N* are on the arms
_FULL_ARM = np.log(5.0)  # the distance that `arms` refers to
_ARM_PRIOR_RUNS = 8  # of the common variance, towards which each side shrinks
_EXCHANGE_ROUNDS = 8


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
        τ, the prior standard deviation of a drift.
    noise
        σ of a run near the optimum of its budget, relative.
    arms
        Variance of a run at N*/5 or 5·N* over that of one at N*.
    dof
        Degrees of freedom of the fit.
    theta
        The law's six coordinates.
    evidence
        The fit.
    target
        The compute C of N*(C).
    """

    information: Floats
    direction: Floats
    drift: float
    noise: float
    arms: float
    dof: int
    theta: Floats
    evidence: Evidence
    target: float

    @classmethod
    def of_fit(cls, evidence: Evidence, target: float, drift: float = DRIFT) -> Criterion:
        """What the runs of a fit tell about N*(target) if κ is free and exponents drift within τ."""
        solution = evidence.solution
        theta, law, points = solution.coordinates, solution.law, solution.points
        free = replace(solution, theta=theta, law_at=lambda t: points.law_at(t, Kappa))
        c = gradient_of(free, log_optimum(target, evidence.flops))[0]
        # At the optimum (x, y) a drift a adds a·x to the slope p, and −a·x²/2 to the term.
        best = law.optimal(target, evidence.flops)
        x = float(np.log(best.params)) - points.x_mean
        y = float(np.log(best.tokens)) - points.y_mean
        direction = np.append(c, [x * c[3] + x**2 / 2 * c[1], y * c[4] + y**2 / 2 * c[2]])
        kept = solution.weights > 0
        residuals = solution.residuals[kept]
        runs = evidence.runs.select(kept)
        distance = np.log(runs.params) - np.log(law.optimal(runs.flops, evidence.flops).params)
        dof = max(len(residuals) - len(theta), 1)
        noise, arms = _noise(residuals, distance, dof)
        prior = np.diag(np.append(_PRIOR_SD, [drift, drift]) ** -2)
        blank = cls(prior, direction, drift, noise, arms, dof, theta, evidence, target)
        rows = blank.gradients(points)[kept] / blank.sd(distance)[:, None]
        return replace(blank, information=prior + rows.T @ rows)

    @property
    def law(self) -> Law:
        """The fitted law."""
        return self.evidence.law

    @property
    def points(self) -> Points:
        """The runs in the coordinates of the fit."""
        return self.evidence.solution.points

    @property
    def variance(self) -> float:
        """Of ln N* at the target, from the runs so far."""
        return float(self.direction @ np.linalg.solve(self.information, self.direction))

    @property
    def bias(self) -> Floats:
        """The error of ln N* as fitted for each unit of the two drifts, shape (2,)."""
        M, cross = self.information[:6, :6], self.information[:6, 6:]
        explained = np.linalg.solve(M, cross).T @ self.direction[:6]
        return np.asarray(self.direction[6:] - explained)

    @property
    def mean_square(self) -> float:
        """Mean square error of ln N* as fitted: noise, and drifts of size τ, which no fit has."""
        c = self.direction[:6]
        noise = c @ np.linalg.solve(self.information[:6, :6], c)
        return float(noise + self.drift**2 * np.sum(self.bias**2))

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The fit's 90 % interval of N* at the target."""
        quantity = log_optimum(self.target, self.evidence.flops)
        return self.evidence.intervals(quantity, ("N*",), LEVEL).spans[0]

    @property
    def half_width(self) -> float:
        """Half the log width of the 90 % interval of N* at the target; infinite if there is none.

        The wider of the fit's own and that by one common noise with κ free and exponents that
        drift: a small sandwich may be narrow by luck, and a sweep that stops when it is narrow
        would stop by luck too often.
        """
        if self.interval is None:
            return float("inf")
        low, high = self.interval
        return max(float(np.log(high / low)) / 2, self.half_width_of(self.mean_square))

    def half_width_of(self, variance: float, more_runs: int = 0) -> float:
        """Half the log width of a 90 % interval of this variance, after ``more_runs``."""
        return student_t(LEVEL, self.dof + more_runs) * float(np.sqrt(variance))

    def distance(self, params: Floats, compute: Floats) -> Floats:
        """ln(N/N*) of runs by the fitted law."""
        best = np.log(self.law.optimal(compute, self.evidence.flops).params)
        return np.asarray(np.log(params) - best)

    def gradients(self, points: Points) -> Floats:
        """∂ ln L/∂(θ, drifts) of runs, shape (runs, 8).

        A drift a takes u − p·x to u − p·x − a·x²/2, so that it acts like x²/2 less of u.
        """
        J = derivatives(self.theta[None], points).gradient[0].T
        return np.column_stack([J, -J[:, 1] * points.x**2 / 2, -J[:, 2] * points.y**2 / 2])

    def rows(self, runs: Candidates) -> Floats:
        """J/σ of runs to come, shape (candidates, 8)."""
        sd = self.sd(self.distance(runs.params, runs.flops))
        return np.asarray(self.gradients(self._points_at(runs)) / sd[:, None])

    def sd(self, distance: Floats) -> Floats:
        """Noise of runs at ln(N/N*)."""
        growth = 1 + (self.arms - 1) * np.minimum((distance / _FULL_ARM) ** 2, 2.0)
        return np.asarray(self.noise * np.sqrt(growth))

    def after(self, rows: Floats) -> float:
        """The variance once runs with these rows of J/σ are made too."""
        M = self.information + rows.T @ rows
        return float(self.direction @ np.linalg.solve(M, self.direction))

    def predictions(self, runs: Candidates) -> list[tuple[float, float]]:
        """(ln L, standard deviation) of runs to come, noise included."""
        level = model_values(self.theta, self._points_at(runs))[0] + np.log(self.points.scale)
        rows = self.rows(runs)
        spread = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(self.information), rows)
        sd = self.sd(self.distance(runs.params, runs.flops)) * np.sqrt(1 + spread)
        return list(zip(level.tolist(), sd.tolist(), strict=True))

    def _points_at(self, runs: Candidates) -> Points:
        """Runs to come in the coordinates of the fit; they have no losses."""
        return replace(
            self.points,
            x=np.log(runs.params) - self.points.x_mean,
            y=np.log(runs.tokens) - self.points.y_mean,
            z=np.zeros(len(runs)),
            groups=None,
        )


def log_optimum(target: float, flops: FlopsFunction) -> Callable[[Law], Floats]:
    """Ln N*(target) as a quantity of a law."""

    def quantity(law: Law) -> Floats:
        return np.array([np.log(law.optimal(target, flops).params)])

    return quantity


def _noise(residuals: Floats, distance: Floats, dof: int) -> tuple[float, float]:
    """σ near the optimum, and its square on the arms over that, where the residuals show more."""
    scale = len(residuals) / dof
    variance = (np.sum(residuals**2) + _PRIOR_NOISE_RUNS * _PRIOR_NOISE**2) / (
        dof + _PRIOR_NOISE_RUNS
    )
    far = np.abs(distance) > _ARM_DISTANCE
    if min(np.sum(far), np.sum(~far)) < 5:
        return float(np.sqrt(variance)), 1.0
    near_variance, far_variance = (
        (np.sum(residuals[side] ** 2) * scale + _ARM_PRIOR_RUNS * variance)
        / (np.sum(side) + _ARM_PRIOR_RUNS)
        for side in (~far, far)
    )
    ratio = float(far_variance / near_variance)
    if ratio < 1.5:
        return float(np.sqrt(variance)), 1.0
    return float(np.sqrt(near_variance)), min(ratio, 16.0)


def exchange(
    criterion: Criterion,
    runs: Candidates,
    count: int,
    spend: float,
    fixed: tuple[int, ...] = (),
) -> list[int]:
    """Positions of up to ``count`` runs for at most ``spend`` FLOPs, of least variance.

    Fedorov's exchange (1972): slots are filled and refilled one at a time with the run that lowers
    the variance most within what is left to spend, until no change helps. ``fixed`` are in already.
    """
    rows, cost = criterion.rows(runs), runs.prices
    slots: list[int | None] = [None] * (count - len(fixed))
    taken = list(fixed)
    M = criterion.information + rows[taken].T @ rows[taken]
    left = spend - float(np.sum(cost[taken]))
    for _ in range(_EXCHANGE_ROUNDS):
        changed = False
        for s, old in enumerate(slots):
            if old is not None:
                M, left = M - np.outer(rows[old], rows[old]), left + cost[old]
                taken.remove(old)
            inverse = np.linalg.inv(M)
            pull = rows @ (inverse @ criterion.direction)
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
