"""Refits to resampled runs: a few Newton steps from the fit, no search."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError, InputError
from flops_fit.fit.generic import descend
from flops_fit.fit.newton import polish
from flops_fit.fit.sandwich import covariance
from flops_fit.fit.solver import Solution, free_of
from flops_fit.laws.law import Law

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
    return laws_at(solution, refits(solution, n, kind, seed))


def laws_at(solution: Solution, thetas: Floats) -> list[Law]:
    """The laws that the θ of refits stand for."""
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
    return refitted(solution, *_resampled(solution, n, kind, seed), solution.delta)


def refitted(solution: Solution, weights: Floats, targets: Floats, delta: float) -> Floats:
    """θ of refits from the fit's own θ, shape (n, k), to weights and targets of shape (n, runs).

    A law without exact derivatives takes 25 steps at most; one that does not improve stays there.
    """
    if solution.full is not None:
        start = np.repeat(solution.full[None], len(weights), axis=0)
        free = free_of(solution.law.name)
        return polish(start, solution.points, weights, delta, free, targets=targets).theta
    model = solution.model_at
    if model is None:
        raise FitError(
            f"expected a solution that can be refitted; {type(solution.law).__name__} has none."
        )
    return np.array(
        [
            descend(model, solution.theta, z, w, delta, _STEPS).theta
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
