"""Fit one law to weighted runs: starts, robust scale, polish, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit.newton import grid_starts, huber, polish
from flops_fit.fit.surface import LOWER, UPPER, Points, derivatives, model_values
from flops_fit.laws.kappa import Hoffmann, Kappa
from flops_fit.laws.law import Law


class FitStatus(StrEnum):
    """How the solver ended."""

    OK = "The fit converged, and its starts agree."
    BOUND_HIT = "The fit converged with a parameter on its bound: the runs do not determine it."
    STARTS_DISAGREE = "The fit converged, and few of its starts agree: the runs allow several laws."
    NOT_CONVERGED = "The solver stopped before it converged: do not use this fit."

    @property
    def usable(self) -> bool:
        """Whether the point estimate is a minimum at all."""
        return self is not FitStatus.NOT_CONVERGED


class BoundKind(StrEnum):
    """In which way the runs leave a parameter undetermined."""

    FLOOR = "at its floor, zero"
    LOWER = "at its lower bound"
    UPPER = "at its upper bound"
    VANISHED = "≈ 0 (its term vanishes)"
    NO_EFFECT = "without effect"


@dataclass(frozen=True)
class Bound:
    """A parameter that ended where the runs do not determine it."""

    parameter: str
    kind: BoundKind

    @property
    def leaves_optimum(self) -> bool:
        """Whether N*(C) is still determined: E shifts all losses alike, κ joins two terms."""
        limits = (BoundKind.LOWER, BoundKind.UPPER)
        return self.parameter == "E" or (self.parameter == "kappa" and self.kind in limits)

    def __str__(self) -> str:
        return f"{self.parameter} {self.kind}"


Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
DeltaRule = float | Literal["mad"]

_FREE = {
    Hoffmann.name: np.array([True, True, True, True, True, False]),
    Kappa.name: np.ones(6, dtype=bool),
}
_KAPPAS = np.log([0.25, 0.4, 0.6, 0.8, 1.0, 1.5])
_TUNING = 1.345  # 95 % efficient under normal noise (Huber 1981, §4.5)
_AGREE_WITHIN = 1e-6
_DELTA_ROUNDS = 12
_ROUGH, _ROUND = 12, 2  # iterations before the polish that counts
_ROUNDING = 1e-18  # objectives below this a run are those of noiseless losses
_SEARCH_RUNS = 4000  # enough to find every basin; the polish then takes all runs


@dataclass(frozen=True, eq=False)
class Solution:
    """One law fitted to weighted runs.

    Attributes
    ----------
    theta
        The solver's coordinates that are free and on no bound, shape (k,).
    law_at
        The law for any values of those coordinates.
    residuals
        z − model in the loss space of the fit, shape (runs,).
    jacobian
        Of the model with respect to ``theta``, shape (runs, k).
    bounds
        The parameters that ended on a bound.
    full
        The κ family's θ with all six coordinates; ``None`` for any other law.
    held
        Parameters that the runs do not determine, and the limit each was held at.
    model_at
        The model of ``points.z`` for any θ, for laws outside the κ family.
    """

    law: Law
    theta: Floats
    law_at: Callable[[Floats], Law]
    residuals: Floats
    jacobian: Floats
    weights: Floats
    delta: float
    objective: float
    starts: int
    agree: int
    converged: bool
    bounds: tuple[Bound, ...]
    names: tuple[str, ...]
    points: Points
    full: Floats | None = None
    held: Mapping[str, float] = field(default_factory=dict)
    model_at: Callable[[Floats], Floats] | None = None

    @property
    def status(self) -> FitStatus:
        """How the solver ended."""
        if not self.converged:
            return FitStatus.NOT_CONVERGED
        if self.bounds:
            return FitStatus.BOUND_HIT
        if self.starts > 1 and self.agree < 2:
            return FitStatus.STARTS_DISAGREE
        return FitStatus.OK

    @property
    def optimum_lost(self) -> tuple[Bound, ...]:
        """The bounds that leave no optimum N*(C)."""
        return tuple(b for b in self.bounds if not b.leaves_optimum)

    @property
    def dof(self) -> int:
        """Runs that weigh anything, less the parameters fitted to them."""
        return int(np.count_nonzero(self.weights)) - len(self.law.params)

    @property
    def residual_sd(self) -> float:
        """Robust standard deviation of the residuals: relative noise in log space."""
        return robust_sd(self.residuals, self.weights, len(self.law.params))

    @property
    def noise_sd(self) -> float:
        """Root mean square residual over the degrees of freedom: what one new run scatters by."""
        mean = float(np.average(self.residuals**2, weights=self.weights))
        count = int(np.count_nonzero(self.weights))
        return float(np.sqrt(mean * count / max(count - len(self.law.params), 1)))


@dataclass(frozen=True, eq=False)
class _SurfaceAt:
    """The law for values of the free coordinates, the others staying where the fit left them."""

    points: Points
    theta: Floats
    index: NDArray[np.intp]
    name: str

    def __call__(self, values: Floats) -> Law:
        full = self.theta.copy()
        full[self.index] = values
        return self.points.law_at(full, self.name)


def free_of(name: str) -> Bools:
    """Which of the κ family's six coordinates a law of that name fits."""
    return _FREE[name]


def robust_sd(residuals: Floats, weights: Floats, parameters: int) -> float:
    """1.4826·MAD of the residuals that weigh anything, corrected for the fitted parameters."""
    r = residuals[weights > 0]
    spread = 1.4826 * float(np.median(np.abs(r - np.median(r))))
    return spread * float(np.sqrt(len(r) / max(len(r) - parameters, 1)))


def mad_delta(residuals: Floats, weights: Floats, parameters: int) -> float:
    """Huber's δ at 1.345 robust standard deviations; never below 1e-9, the noise of rounding."""
    return max(_TUNING * robust_sd(residuals, weights, parameters), 1e-9)


def solve_surface(
    name: str,
    points: Points,
    weights: Floats,
    delta: DeltaRule,
    warm: Floats | None = None,
    additive: Floats | None = None,
) -> Solution:
    """Fit the additive law or the κ-law.

    Parameters
    ----------
    name
        ``"hoffmann"`` or ``"kappa"``.
    points, weights
        The runs, and how much each counts.
    delta
        Huber's δ in the loss space of the fit (``inf``: least squares), or ``"mad"``: δ and fit
        are iterated until they agree.
    warm
        θ of a fit to nearly the same runs; the search for starts is then skipped.
    additive
        θ of the additive law on these runs, where it is known already: the κ-law continues it.
    """
    free = _FREE[name]
    if warm is not None:
        starts, count = np.atleast_2d(np.where(free, warm, 0.0)), np.ones(1, dtype=np.intp)
    else:
        few, light = _sample(points, weights)
        starts = _search(name, few, light, delta, additive)
        count = np.ones(len(starts), dtype=np.intp)
        if few is not points:
            starts, count = _basins(starts, few, light, delta, free)
    theta, used = _settle(starts, points, weights, delta, free)
    final = polish(theta, points, weights, used, free)
    best = int(np.argmin(final.objective))
    lowest = float(final.objective[best])
    level = final.objective <= lowest * (1 + _AGREE_WITHIN) + _ROUNDING * len(points.z)
    return _solution(
        name,
        final.theta[best],
        points,
        weights,
        used,
        (int(np.sum(count)), int(np.sum(count[level]))),
        bool(final.converged[best]),
    )


def _sample(points: Points, weights: Floats) -> tuple[Points, Floats]:
    """The runs to look for starts in: all, or an even pick of those that weigh anything."""
    if len(points.z) <= _SEARCH_RUNS:
        return points, weights
    kept = np.flatnonzero(weights)
    order = np.random.default_rng(0).permutation(kept)[:_SEARCH_RUNS]
    some = replace(points, x=points.x[order], y=points.y[order], z=points.z[order], groups=None)
    return some, weights[order]


def _search(
    name: str, points: Points, weights: Floats, delta: DeltaRule, additive: Floats | None
) -> Floats:
    starts = additive[None] if additive is not None else _additive_starts(points, weights, delta)
    return _kappa_starts(starts, points, weights, delta) if name == Kappa.name else starts


def _basins(
    starts: Floats, points: Points, weights: Floats, delta: DeltaRule, free: Bools
) -> tuple[Floats, NDArray[np.intp]]:
    """One start for each different end that a sample's starts come to, and how many come to it."""
    wide = _wide_delta(starts[:1], points, weights, delta)
    ends = polish(starts, points, weights, wide, free)
    level = np.round(np.log(np.maximum(ends.objective, 1e-300)) / _AGREE_WITHIN)
    _, first, count = np.unique(level, return_index=True, return_counts=True)
    return ends.theta[first], count


def _additive_starts(points: Points, weights: Floats, delta: DeltaRule) -> Floats:
    starts = grid_starts(points, weights)
    wide = _wide_delta(starts[:1], points, weights, delta)
    return polish(starts, points, weights, wide, _FREE[Hoffmann.name], iterations=_ROUGH).theta


def _kappa_starts(additive: Floats, points: Points, weights: Floats, delta: DeltaRule) -> Floats:
    """Continue the additive solution in κ: hold κ at each of a few values, fit the rest."""
    wide = _wide_delta(additive[:1], points, weights, delta)
    starts = np.repeat(additive[:1], len(_KAPPAS), axis=0)
    starts[:, 5] = _KAPPAS
    return polish(starts, points, weights, wide, _FREE[Hoffmann.name], iterations=_ROUGH).theta


def _wide_delta(theta: Floats, points: Points, weights: Floats, delta: DeltaRule) -> float:
    """A δ to begin with: wide enough for curvature, narrow enough to ignore outliers."""
    wide = mad_delta(points.z - model_values(theta, points)[0], weights, 5)
    return wide if delta == "mad" else max(wide, float(delta))


def _settle(
    starts: Floats, points: Points, weights: Floats, delta: DeltaRule, free: Bools
) -> tuple[Floats, float]:
    """δ, and every start polished near it; for ``"mad"`` δ follows the best start's residuals."""
    if delta != "mad":
        return starts, float(delta)
    parameters = int(np.sum(free))
    residuals = points.z - model_values(starts, points)
    used = min(mad_delta(r, weights, parameters) for r in residuals)
    first = polish(starts, points, weights, used, free, iterations=60)
    order = np.argsort(first.objective, kind="stable")
    theta = first.theta[order]
    best, previous = theta[:1], used
    for rounds in range(_DELTA_ROUNDS):
        used = mad_delta(points.z - model_values(best, points)[0], weights, parameters)
        if abs(used - previous) <= 1e-4 * previous:
            break
        if rounds >= 5:  # δ and median can chase each other between two runs
            used = float(np.sqrt(used * previous))
        best = polish(best, points, weights, used, free, iterations=_ROUND).theta
        previous = used
    return np.vstack([best, theta[1:]]), used


def _solution(
    name: str,
    theta: Floats,
    points: Points,
    weights: Floats,
    delta: float,
    starts: tuple[int, int],
    converged: bool,
) -> Solution:
    d = derivatives(theta[None], points)
    residuals = points.z - d.model[0]
    bounds, held = _bounds(theta, points, name)
    loose = _FREE[name] & ~held
    index = np.flatnonzero(loose)
    return Solution(
        law=points.law_at(theta, name),
        theta=theta[index],
        law_at=_SurfaceAt(points, theta, index, name),
        residuals=residuals,
        jacobian=d.gradient[0, index].T,
        weights=weights,
        delta=delta,
        objective=float(np.sum(weights * huber(residuals, delta))),
        starts=starts[0],
        agree=starts[1],
        converged=converged,
        bounds=bounds,
        names=tuple(("E", "A", "B", "alpha", "beta", "kappa")[i] for i in index),
        points=points,
        full=theta,
    )


def _bounds(theta: Floats, points: Points, name: str) -> tuple[tuple[Bound, ...], Bools]:
    """The bounds, and a mask of the coordinates that do not move."""
    bounds = []
    at_lower = theta <= LOWER
    at_upper = theta >= UPPER
    held = at_lower | at_upper
    if name == Hoffmann.name:
        held[5] = at_lower[5] = at_upper[5] = False
    if held[0]:
        bounds.append(Bound("E", BoundKind.FLOOR))
        held[0] = False  # its error still belongs to the loss's interval
    for i, label in ((3, "alpha"), (4, "beta"), (5, "kappa")):
        if held[i]:
            bounds.append(Bound(label, BoundKind.LOWER if at_lower[i] else BoundKind.UPPER))
    value = np.exp(points.z) if points.log else points.z
    for i, slope, position, label in ((1, 3, points.x, "A"), (2, 4, points.y, "B")):
        largest = float(np.max(np.exp(np.minimum(theta[i] - theta[slope] * position, 50)) / value))
        if largest < 1e-5:
            bounds.append(Bound(label, BoundKind.VANISHED))
            held[i] = held[slope] = True
    return tuple(bounds), held
