"""Refits to resampled runs: a few Newton steps from the fit, no search."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, InputError
from flops_fit.fit._levenberg import descend
from flops_fit.fit._newton import polish
from flops_fit.fit._sandwich import covariance
from flops_fit.fit._solve import Solution
from flops_fit.laws import Law

__all__ = ["BootstrapKind", "constants", "drawn_laws", "refits"]

Floats = NDArray[np.float64]
BootstrapKind = Literal["case", "wild", "parametric"]

_STEPS = 25  # of one refit of a law without exact derivatives


def constants(solution: Solution, n: int, kind: str, seed: int) -> Floats:
    """The law's constants over ``n`` refits, shape (n, len(law.params))."""
    if solution.full is None:
        laws = drawn_laws(solution, n, kind, seed)
        return np.array([list(law.params.values()) for law in laws]).reshape(n, -1)
    thetas = refits(solution, n, kind, seed)
    return solution.points.constants(thetas)[:, : len(solution.law.params)]


def drawn_laws(solution: Solution, n: int, kind: str, seed: int) -> list[Law]:
    """The laws that ``n`` refits end at."""
    thetas = refits(solution, n, kind, seed)
    if solution.full is None:
        return [solution.law_at(theta) for theta in thetas]
    return [solution.points.law_at(theta, solution.law.name) for theta in thetas]


def refits(solution: Solution, n: int, kind: str, seed: int) -> Floats:
    """θ of ``n`` refits, shape (n, k): all six of the κ family, else the free ones of ``theta``.

    - ``"case"``: runs (clusters of runs, where there are some) drawn with replacement, as integer
      weights on the same points.
    - ``"wild"``: fitted values plus residuals/(1−h) times ±1 (Davidson & Flachaire 2008).
    - ``"parametric"``: fitted values plus normal noise of the residuals' robust sd.
    """
    weights, targets = _resampled(solution, n, kind, seed)
    if solution.full is None:
        return _own_refits(solution, weights, targets)
    free = np.ones(6, dtype=bool)
    free[5] = "kappa" in solution.law.params
    start = np.repeat(solution.full[None], n, axis=0)
    return polish(start, solution.points, weights, solution.delta, free, targets=targets).theta


def _own_refits(solution: Solution, weights: Floats, targets: Floats) -> Floats:
    """Each from the fit's own θ; one that does not improve on it stays there."""
    model = solution.model_at
    if model is None:
        raise FitError(
            f"expected a solution that can be refitted; {type(solution.law).__name__} has none."
        )
    return np.array(
        [
            descend(model, solution.theta, z, w, solution.delta, _STEPS).theta
            for w, z in zip(weights, targets, strict=True)
        ]
    ).reshape(len(weights), len(solution.theta))


def _resampled(solution: Solution, n: int, kind: str, seed: int) -> tuple[Floats, Floats]:
    """Weights and targets of each resample, both of shape (n, runs)."""
    if kind not in ("case", "wild", "parametric"):
        raise InputError(f"expected kind='case', 'wild' or 'parametric'; got {kind!r}.")
    rng = np.random.default_rng(seed)
    points, used = solution.points, np.flatnonzero(solution.weights)
    weights, targets = solution.weights, points.z
    if kind == "case":
        _, units = np.unique(
            used if points.groups is None else points.groups[used], return_inverse=True
        )
        count = int(units.max()) + 1
        drawn = np.zeros((n, len(points.z)))
        drawn[:, used] = rng.multinomial(count, np.full(count, 1 / count), size=n)[:, units.ravel()]
        weights = drawn * solution.weights
    else:
        fitted = points.z - solution.residuals
        if kind == "wild":
            leverage = np.minimum(covariance(solution).leverage, 0.9)
            noise = (
                rng.choice([-1.0, 1.0], size=(n, len(fitted))) * solution.residuals / (1 - leverage)
            )
        else:
            noise = rng.normal(0.0, solution.residual_sd, size=(n, len(fitted)))
        targets = fitted + noise
        if not points.log:
            targets = np.maximum(targets, 1e-6)
    shape = (n, len(points.z))
    return np.broadcast_to(weights, shape), np.broadcast_to(targets, shape)
