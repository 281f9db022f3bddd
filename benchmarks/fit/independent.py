"""A judge that shares nothing with the library: the papers' objective, and scipy to minimise it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import minimize

from flops_fit import reference
from flops_fit.laws import Law
from flops_fit.table import RunTable

DELTA = 1e-3


def chinchilla_runs() -> RunTable:
    """The 240 points that Besiroglu et al. 2024 keep: losses strictly below the fifth largest."""
    table = reference.runs("hoffmann2022_epoch")
    return table.select(table.loss < np.sort(table.loss)[-5])


def huber_sum(
    residuals: np.ndarray, delta: float = DELTA, weights: np.ndarray | None = None
) -> float:
    """Σ w·ρ_δ(r) with ρ = ½r² inside δ."""
    size = np.abs(residuals)
    rho = np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
    return float(np.sum(rho if weights is None else weights * rho))


def objective_of_losses(predicted: Sequence[float], runs: RunTable, delta: float = DELTA) -> float:
    """The summed log-Huber objective of any method's predicted losses."""
    return huber_sum(np.log(runs.loss) - np.log(np.asarray(predicted)), delta)


@dataclass(frozen=True)
class LogHuber:
    """Hoffmann et al. 2022, eq. 3, summed, for the additive law or (with ``kappa``) the κ-law.

    θ is (a, b, e, α, β, ln κ): the model of ln L is LSE(e, κ·LSE(a − αx, b − βy)), κ = 1 held unless
    ``kappa``. ``unit`` multiplies the objective, so that scipy's absolute tolerances mean something.
    """

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    weights: np.ndarray
    kappa: bool = False
    delta: float = DELTA
    unit: float = 1e3

    @classmethod
    def of(cls, runs: RunTable, weights: np.ndarray | None = None, kappa: bool = False) -> LogHuber:
        """The problem with ln N and ln D centred."""
        x, y = np.log(runs.params), np.log(runs.tokens)
        ones = np.ones(len(runs)) if weights is None else weights
        return cls(x - x.mean(), y - y.mean(), np.log(runs.loss), ones, kappa)

    @classmethod
    def raw(cls, runs: RunTable, weights: np.ndarray | None = None) -> LogHuber:
        """The additive problem as the papers pose it: nothing centred, nothing scaled."""
        ones = np.ones(len(runs)) if weights is None else weights
        x, y = np.log(runs.params), np.log(runs.tokens)
        return cls(x, y, np.log(runs.loss), ones, unit=1.0)

    def value(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Objective and gradient."""
        a, b, e, alpha, beta = theta[:5]
        kappa = np.exp(theta[5]) if self.kappa else 1.0
        s, t = a - alpha * self.x, b - beta * self.y
        inner = np.logaddexp(s, t)
        model = np.logaddexp(e, kappa * inner)
        n_share, falling = np.exp(s - inner), np.exp(kappa * inner - model)
        r = self.z - model
        score = -self.weights * np.clip(r, -self.delta, self.delta)
        pull = score * falling * kappa
        n_pull, d_pull = pull * n_share, pull * (1 - n_share)
        floor = float(np.sum(score * np.exp(e - model)))
        gradient = [n_pull.sum(), d_pull.sum(), floor, -n_pull @ self.x, -d_pull @ self.y]
        if self.kappa:
            gradient.append(pull @ inner)
        objective = huber_sum(r, self.delta, self.weights)
        return self.unit * objective, self.unit * np.array(gradient)

    def descend(self, start: np.ndarray, method: str, rounds: int = 1) -> tuple[float, np.ndarray]:
        """The objective and θ where scipy stops, begun anew up to ``rounds`` times while it gains."""
        theta, best = np.asarray(start, dtype=float), np.inf
        options = {"gtol": 1e-11} if rounds > 1 else {}
        for _ in range(rounds):
            out = minimize(self.value, theta, jac=True, method=method, options=options)
            theta, gain = out.x, best - out.fun
            best = min(best, float(out.fun))
            if gain <= 1e-13 * best:
                break
        return best / self.unit, theta

    def minimum(self, starts: np.ndarray) -> list[float]:
        """The objective reached from each start by BFGS, begun anew until nothing is gained."""
        return [self.descend(start, "BFGS", rounds=10)[0] for start in starts]

    def theta_of(self, law: Law, runs: RunTable) -> np.ndarray:
        """θ of a law in these coordinates."""
        p = law.params
        x_mean = float(np.mean(np.log(runs.params) - self.x))
        y_mean = float(np.mean(np.log(runs.tokens) - self.y))
        a, b = np.log(p["A"]) - p["alpha"] * x_mean, np.log(p["B"]) - p["beta"] * y_mean
        theta = [a, b, np.log(max(p["E"], 1e-12)), p["alpha"], p["beta"]]
        return np.array([*theta, np.log(p["kappa"])] if self.kappa else theta)


def random_starts(count: int, seed: int) -> np.ndarray:
    """Starts over all that an additive law could be, in centred coordinates."""
    rng = np.random.default_rng(seed)
    low = np.array([-4.0, -4.0, -2.0, 0.02, 0.02])
    high = np.array([1.0, 1.0, 1.0, 1.5, 1.5])
    return rng.uniform(low, high, size=(count, 5))


def paper_starts() -> np.ndarray:
    """243 of the 4,500 starts of Hoffmann et al. 2022, appendix D.3: three values a parameter."""
    axes = ([0, 10, 20], [0, 10, 20], [-1, 0, 1], [0, 1, 2], [0, 1, 2])
    return np.array(list(product(*axes)), dtype=float)
