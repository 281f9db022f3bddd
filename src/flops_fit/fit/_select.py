"""Which law the runs support: the κ-law only where they tell κ from 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flops_fit.fit._newton import polish
from flops_fit.fit._sandwich import covariance
from flops_fit.fit._solve import Solution

__all__ = ["Choice", "choose"]

_LEVEL = 0.05
_SPARE_RUNS = 3


@dataclass(frozen=True)
class Choice:
    """Whether the κ-law was chosen, the p values of the tests and the reason in words."""

    kappa: bool
    wald_p: float | None
    tau_p: float | None
    reason: str


def choose(additive: Solution, kappa: Solution) -> Choice:
    """The κ-law where a test rejects κ = 1 at 5 %, else the additive law.

    Two tests: Wald's on ln κ with its HC3 error, and the robust τ-test (Ronchetti 1982;
    Hampel et al. 1986, §7.2), 2(Σρ_additive − Σρ_κ)/σ² against F(1, runs − 6), both sums at the
    δ and scale of the κ fit.
    """
    from scipy.special import fdtrc, stdtr

    if kappa.dof < _SPARE_RUNS:
        return Choice(False, None, None, f"{kappa.dof + 6} runs are too few to test κ")
    if not kappa.converged:
        return Choice(False, None, None, "the κ-law did not converge")
    if any(b.startswith(("A ", "B ", "alpha", "beta")) for b in kappa.bounds):
        return Choice(False, None, None, f"the κ-law ended on a bound ({', '.join(kappa.bounds)})")
    assert kappa.full is not None
    ln_kappa = float(kappa.full[5])
    if abs(ln_kappa) < 1e-6:
        return Choice(False, None, None, "κ is 1")
    tau_p = float(fdtrc(1, kappa.dof, _tau(additive, kappa)))
    cov = covariance(kappa)
    wald_p = None
    if cov.matrix is not None and "kappa" in kappa.names:
        i = kappa.names.index("kappa")
        error = float(np.sqrt(cov.matrix[i, i]))
        wald_p = float(2 * stdtr(cov.dof, -abs(ln_kappa) / max(error, 1e-300)))
    supported = tau_p < _LEVEL or (wald_p is not None and wald_p < _LEVEL)
    tests = f"τ-test p = {tau_p:.2g}"
    if wald_p is not None:
        tests = f"Wald p = {wald_p:.2g}, {tests}"
    word = "support" if supported else "do not support"
    return Choice(
        supported, wald_p, tau_p, f"the runs {word} κ ≠ 1 (κ = {np.exp(ln_kappa):.3g}; {tests})"
    )


def _tau(additive: Solution, kappa: Solution) -> float:
    """The τ statistic; both fits at the κ fit's δ."""
    assert additive.full is not None
    free = np.array([True] * 5 + [False])
    refit = polish(additive.full[None], kappa.points, kappa.weights, kappa.delta, free)
    w, r = kappa.weights, kappa.residuals
    drop = max(float(refit.objective[0]) - kappa.objective, 0.0)
    # E ψ² / E ψ′ takes the place of the variance, as in the asymptotics of M-estimators. Under
    # unequal weights a weighted sum of squares falls by Σw²/Σw of it per parameter.
    score = np.clip(r, -kappa.delta, kappa.delta)
    total = float(np.sum(w))
    spare = kappa.dof / int(np.count_nonzero(w))
    variance = float(np.sum((w * score) ** 2)) / total / spare
    bend = max(float(np.sum(w * (np.abs(r) <= kappa.delta))) / total, 0.05)
    return 2 * drop / max(variance / bend, 1e-300)
