"""Fit a law of the user's own: log parameters, numeric Jacobian, scipy's trust region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import FitError
from flops_fit.fit._newton import huber
from flops_fit.fit._solve import DeltaRule, Solution, mad_delta
from flops_fit.fit._surface import Points
from flops_fit.laws import Law
from flops_fit.table import RunTable

__all__ = ["solve_generic"]

Floats = NDArray[np.float64]

_FLOOR = 1e-12
_FARTHEST = 300.0  # a parameter beyond e^±300 stays there, inside floating point


@dataclass(frozen=True)
class _OwnLawAt:
    """The law for values of its log parameters."""

    law: type[Law]
    names: tuple[str, ...]

    def __call__(self, theta: Floats) -> Law:
        values = np.exp(np.clip(theta, -_FARTHEST, _FARTHEST))
        return self.law(**dict(zip(self.names, values.tolist(), strict=True)))


def solve_generic(
    law: type[Law],
    runs: RunTable,
    points: Points,
    weights: Floats,
    delta: DeltaRule,
    warm: Solution | None = None,
) -> Solution:
    """Fit a law whose parameters are positive, from its own :meth:`~flops_fit.laws.Law.starts`.

    Unlike the built-in laws it has neither exact curvature nor a batched bootstrap.
    """
    names = tuple(f.name for f in fields(law))
    if warm is not None:
        starts = [warm.theta]
    else:
        given = law.starts(runs.params, runs.tokens, runs.loss)
        starts = [_log_start(law, names, values) for values in given]
    if not starts:
        raise FitError(
            f"expected {law.__name__}.starts to find constants near these runs; it found none. "
            "Check the units of N, D and the loss, or fit law='auto'."
        )

    law_at = _OwnLawAt(law, names)

    def residuals_at(theta: Floats) -> Floats:
        # A trial step may leave floating point; what comes of it is clipped and not taken.
        with np.errstate(all="ignore"):
            predicted = np.asarray(law_at(theta).loss(runs.params, runs.tokens)) / points.scale
        predicted = np.where(np.isfinite(predicted), np.clip(predicted, 1e-100, 1e100), 1e100)
        return np.asarray(points.z - (np.log(predicted) if points.log else predicted))

    used = np.inf if delta == "mad" else float(delta)
    ends = [_minimise(residuals_at, start, weights, used) for start in starts]
    best = min(ends, key=lambda e: e[1])
    for _ in range(20 if delta == "mad" else 0):
        previous, used = used, mad_delta(residuals_at(best[0]), weights, len(names))
        best = _minimise(residuals_at, best[0], weights, used)
        if abs(used - previous) <= 1e-6 * used:
            break
    theta, objective, converged = best
    agree = sum(
        _minimise(residuals_at, e[0], weights, used)[1] <= objective * (1 + 1e-6) for e in ends
    )
    residuals = residuals_at(theta)
    return Solution(
        law=law_at(theta),
        theta=theta,
        law_at=law_at,
        residuals=residuals,
        jacobian=-_jacobian(residuals_at, theta),
        weights=weights,
        delta=used,
        objective=float(np.sum(weights * huber(residuals, used))),
        starts=len(starts),
        agree=int(agree),
        converged=converged,
        bounds=tuple(f"{n} ≈ 0 (its floor)" for n, t in zip(names, theta, strict=True) if t < -200),
        names=names,
        points=points,
    )


def _log_start(law: type[Law], names: tuple[str, ...], values: object) -> Floats:
    if not isinstance(values, dict) or set(values) != set(names):
        raise FitError(
            f"expected {law.__name__}.starts to return dicts with the keys {list(names)}; "
            f"got {values!r}."
        )
    return np.log(np.maximum([float(values[n]) for n in names], _FLOOR))


def _minimise(
    residuals_at: Callable[[Floats], Floats], start: Floats, weights: Floats, delta: float
) -> tuple[Floats, float, bool]:
    """Weighted Huber by iterated least squares on √ω-weighted residuals."""
    from scipy.optimize import least_squares

    def scaled(theta: Floats) -> Floats:
        r = residuals_at(theta)
        # Σ of squares of these is 2·Σ w ρ_δ, so plain least squares minimises Huber's loss.
        return np.asarray(np.sign(r) * np.sqrt(2 * weights * huber(r, delta)))

    found = least_squares(
        scaled, start, method="trf", x_scale="jac", xtol=1e-14, ftol=1e-14, gtol=1e-14
    )
    return np.asarray(found.x), float(found.cost), bool(found.success)


def _jacobian(
    residuals_at: Callable[[Floats], Floats], theta: Floats, step: float = 1e-5
) -> Floats:
    columns = []
    for i in range(len(theta)):
        move = np.zeros_like(theta)
        move[i] = step
        columns.append((residuals_at(theta + move) - residuals_at(theta - move)) / (2 * step))
    return np.column_stack(columns)
