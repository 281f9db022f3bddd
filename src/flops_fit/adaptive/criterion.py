"""How much runs would tell about N* at a target, and whether they contradict the law's form.

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
from flops_fit.fit.fitting import quick_fit
from flops_fit.fit.intervals import Evidence, gradient_of, student_t
from flops_fit.fit.surface import Points, derivatives, model_values
from flops_fit.fit.surface_solver import NAMES, SurfaceSolver
from flops_fit.fit.window import WindowRule
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.kappa import Kappa
from flops_fit.laws.law import Law
from flops_fit.table.run_table import RunTable
from flops_fit.text import format_percent

Floats = NDArray[np.float64]

LEVEL = 0.9
_DRIFT = 0.001  # τ

# Prior standard deviations for any scaling law: E, u, v, p, q, ln κ.
_PRIOR_SD = np.array([0.5, 2.0, 2.0, 0.25, 0.25, 0.7])
_PRIOR_NOISE = 0.003  # of a run, before residuals are known; public sets show .2 to .8 %
_PRIOR_NOISE_RUNS = 4.0  # how many runs that guess counts for
_ARM_DISTANCE = np.log(2.2)  # runs further from N* are on the arms
_FULL_ARM = np.log(5.0)  # the distance that `arms` refers to
_ARM_PRIOR_RUNS = 8  # of the common variance, towards which each side shrinks
_EXCHANGE_ROUNDS = 8

_TEST_DRIFT = 0.1  # per e-fold: the prior of a drift where it is tested
_MOST_RESIDUAL = 2.5  # standard deviations that a residual counts for in the test
_NORMAL_90 = 1.645
_DOUBT_P = 0.01
_SLOW_DRIFT = 0.01  # per e-fold: what real tables leave open at the least


@dataclass(frozen=True, eq=False)
class Criterion:
    """The information of the runs so far, and what more would add.

    ``information`` is M, shape (8, 8), and ``direction`` c, shape (8,): six coordinates ``theta`` of the
    law and two drifts of prior standard deviation ``drift``. ``noise`` is the relative σ of a run near
    N*, ``arms`` the variance of a run at N*/5 or 5·N* over that.
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
    def of_fit(cls, evidence: Evidence, target: float, drift: float = _DRIFT) -> Criterion:
        """What the runs of a fit tell about N*(target) if κ is free and exponents drift within τ."""
        solution = evidence.solution
        theta, points = solution.coordinates, solution.points
        free = replace(solution, theta=theta, names=NAMES, solver=SurfaceSolver(Kappa, points))
        c = gradient_of(free, log_optimum(target, evidence.flops))[0]
        # At the optimum (x, y) a drift a adds a·x to the slope p, and −a·x²/2 to the term.
        best = solution.law.optimal(target, evidence.flops)
        x = float(np.log(best.params)) - points.x_mean
        y = float(np.log(best.tokens)) - points.y_mean
        direction = np.append(c, [x * c[3] + x**2 / 2 * c[1], y * c[4] + y**2 / 2 * c[2]])
        kept = solution.weights > 0
        residuals, runs = solution.residuals[kept], evidence.runs.select(kept)
        dof = max(len(residuals) - len(theta), 1)
        prior = np.diag(np.append(_PRIOR_SD, [drift, drift]) ** -2)
        blank = cls(prior, direction, drift, 0.0, 1.0, dof, theta, evidence, target)
        noise, arms = _noise(residuals, blank.distance(runs), dof)
        blank = replace(blank, noise=noise, arms=arms)
        rows = blank.gradients(points)[kept] / blank.sd(runs)[:, None]
        return replace(blank, information=prior + rows.T @ rows)

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

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The fit's 90 % interval of N* at the target."""
        if self.evidence.no_interval:
            return None
        return self.evidence.span(self.evidence.optima(self.target).params, LEVEL)

    @property
    def half_width(self) -> float:
        """Half the log width of the 90 % interval of N* at the target; infinite if there is none.

        The wider of the fit's own and that of the mean square error by one common noise and drifts of
        size τ: a small sandwich may be narrow by luck, and a sweep would stop by luck too often.
        """
        if self.interval is None:
            return float("inf")
        low, high = self.interval
        c = self.direction[:6]
        noise = c @ np.linalg.solve(self.information[:6, :6], c)
        mean_square = float(noise + self.drift**2 * np.sum(self.bias**2))
        return max(float(np.log(high / low)) / 2, self.half_width_of(mean_square))

    def half_width_of(self, variance: float, more_runs: int = 0) -> float:
        """Half the log width of a 90 % interval of this variance, after ``more_runs``."""
        return student_t(LEVEL, self.dof + more_runs) * float(np.sqrt(variance))

    def distance(self, runs: Candidates | RunTable) -> Floats:
        """ln(N/N*) of runs by the fitted law."""
        best = np.log(self.evidence.law.optimal(runs.flops, self.evidence.flops).params)
        return np.asarray(np.log(runs.params) - best)

    def sd(self, runs: Candidates | RunTable) -> Floats:
        """Noise of runs, which may grow with their distance from N*."""
        growth = 1 + (self.arms - 1) * np.minimum((self.distance(runs) / _FULL_ARM) ** 2, 2.0)
        return np.asarray(self.noise * np.sqrt(growth))

    def gradients(self, points: Points) -> Floats:
        """∂ ln L/∂(θ, drifts), shape (runs, 8); a drift a acts like a·x²/2 less of u."""
        J = derivatives(self.theta[None], points).gradient[0].T
        return np.column_stack([J, -J[:, 1] * points.x**2 / 2, -J[:, 2] * points.y**2 / 2])

    def rows(self, runs: Candidates) -> Floats:
        """J/σ of runs to come, shape (candidates, 8)."""
        return np.asarray(self.gradients(self._points_at(runs)) / self.sd(runs)[:, None])

    def after(self, runs: Candidates) -> float:
        """The variance once these are made too."""
        rows = self.rows(runs)
        M = self.information + rows.T @ rows
        return float(self.direction @ np.linalg.solve(M, self.direction))

    def predictions(self, runs: Candidates) -> list[tuple[float, float]]:
        """(ln L, standard deviation) of runs to come, noise included."""
        level = model_values(self.theta, self._points_at(runs))[0] + np.log(self.points.scale)
        rows = self.rows(runs)
        spread = np.einsum("ij,jk,ik->i", rows, np.linalg.inv(self.information), rows)
        sd = self.sd(runs) * np.sqrt(1 + spread)
        return list(zip(level.tolist(), sd.tolist(), strict=True))

    def _points_at(self, runs: Candidates) -> Points:
        """Runs to come in the coordinates of the fit; they have no losses."""
        x, y = np.log(runs.params) - self.points.x_mean, np.log(runs.tokens) - self.points.y_mean
        return replace(self.points, x=x, y=y, z=np.zeros(len(runs)), groups=None)


def log_optimum(target: float, flops: FlopsFunction) -> Callable[[Law], Floats]:
    """Ln N*(target) as a quantity of a law."""
    return lambda law: np.array([np.log(law.optimal(target, flops).params)])


def _noise(residuals: Floats, distance: Floats, dof: int) -> tuple[float, float]:
    """σ near the optimum, and its square on the arms over that, where the residuals show more."""
    prior = _PRIOR_NOISE_RUNS * _PRIOR_NOISE**2
    variance = (np.sum(residuals**2) + prior) / (dof + _PRIOR_NOISE_RUNS)
    even = float(np.sqrt(variance)), 1.0
    far = np.abs(distance) > _ARM_DISTANCE
    if min(np.sum(far), np.sum(~far)) < 5:
        return even
    scale = len(residuals) / dof
    near_variance, far_variance = (
        (np.sum(residuals[side] ** 2) * scale + _ARM_PRIOR_RUNS * variance)
        / (np.sum(side) + _ARM_PRIOR_RUNS)
        for side in (~far, far)
    )
    ratio = float(far_variance / near_variance)
    return even if ratio < 1.5 else (float(np.sqrt(near_variance)), min(ratio, 16.0))


def exchange(
    criterion: Criterion, runs: Candidates, count: int, spend: float, fixed: tuple[int, ...] = ()
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


@dataclass(frozen=True)
class Form:
    """A test for exponents that drift: those of the law are constant over all sizes and all data.

    Attributes
    ----------
    drifts
        By how much the exponents of N and of D change for each e-fold, estimated from the runs.
    errors
        Their standard deviations.
    p_value
        Of an F test that both are zero.
    shift
        ln N* at the target with these drifts, less that without.
    allowance
        Error of ln N* at the target from drifts of .01 an e-fold, root mean square.
    """

    drifts: tuple[float, float]
    errors: tuple[float, float]
    p_value: float
    shift: float
    allowance: float

    @property
    def doubtful(self) -> bool:
        """Whether the runs contradict the form."""
        return self.p_value < _DOUBT_P

    @property
    def window(self) -> WindowRule:
        """All runs alike, or the window that :func:`flops_fit.fit_runs` has by default."""
        return "auto" if self.doubtful else None

    @property
    def drift(self) -> float:
        """τ for runs to come, that of any law, or the estimated drifts if the form is doubtful."""
        return float(np.sqrt(np.mean(np.square(self.drifts)))) if self.doubtful else _DRIFT

    def widened(self, best: float, interval: tuple[float, float]) -> tuple[float, float]:
        """A 90 % interval around ``best``, widened by the allowance as by one standard deviation."""
        more = _NORMAL_90 * self.allowance
        low, high = (float(np.hypot(np.log(edge / best), more)) for edge in interval)
        return best * float(np.exp(-low)), best * float(np.exp(high))

    def __str__(self) -> str:
        a, b = self.drifts
        if self.doubtful:
            return (
                f"form: doubtful (p = {self.p_value:.1g}): the exponents change by {a:+.2g} and {b:+.2g} "
                f"for each e-fold of N and D, which would move N* by {100 * np.expm1(self.shift):+.2g} %"
            )
        return (
            f"form: no sign against it (p = {self.p_value:.2g}), but exponents that change by "
            f"{_SLOW_DRIFT:g} an e-fold would move N* by {format_percent(np.expm1(self.allowance))}, "
            f"and these runs detect only changes beyond {2 * min(self.errors):.2g}"
        )


def form_of(criterion: Criterion) -> Form:
    """A score test: one Gauss–Newton step from the fitted law towards the law with drifts."""
    from scipy.special import fdtrc

    solution = criterion.evidence.solution
    kept = solution.weights > 0
    sd = criterion.sd(criterion.evidence.runs)
    rows = (criterion.gradients(solution.points) / sd[:, None])[kept]
    loose = criterion.information.copy()
    loose[[6, 7], [6, 7]] += _TEST_DRIFT**-2 - criterion.drift**-2
    residuals = np.clip(solution.residuals / sd, -_MOST_RESIDUAL, _MOST_RESIDUAL)[kept]
    step = np.linalg.solve(loose, rows.T @ residuals)
    covariance = np.linalg.inv(loose)[6:, 6:]
    drifts = step[6:]
    gain = float(drifts @ np.linalg.solve(covariance, drifts))
    dof = max(criterion.dof - 2, 1)
    # The noise so far is of the law without drifts, and includes what they would explain.
    F = gain / 2 * dof / max(criterion.dof - gain, 1.0)
    return Form(
        (float(drifts[0]), float(drifts[1])),
        (float(np.sqrt(covariance[0, 0])), float(np.sqrt(covariance[1, 1]))),
        float(fdtrc(2, dof, F)),
        float(criterion.direction @ step),
        float(_SLOW_DRIFT * np.sqrt(np.sum(criterion.bias**2))),
    )


def fit_and_form(runs: RunTable, flops: FlopsFunction, target: float) -> tuple[Evidence, Form]:
    """The fit that a sweep uses, and whether its runs contradict the law's form.

    Its runs lie far from N* and at little compute, so each counts alike; if they contradict the form,
    those near N* and of most compute count more, by the window of :func:`flops_fit.fit_runs`.
    """
    evidence = quick_fit(runs, flops)
    form = form_of(Criterion.of_fit(evidence, target))
    return (quick_fit(runs, flops, form.window) if form.doubtful else evidence), form
