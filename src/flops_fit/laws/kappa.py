"""The κ-law: an additive law inside a power, which lets the two terms interact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.laws.inverse import size_of_rest
from flops_fit.laws.law import ClosedForm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Kappa(ClosedForm):
    """L(N, D) = E + (A/N^α + B/D^β)^κ.

    κ = 1 is the additive law of Hoffmann et al.; κ < 1 makes a lack of parameters and a lack of
    data add up to less than their sum. It is the supervised law of Busbridge et al. 2025,
    "Distillation Scaling Laws" (arXiv:2502.08606), who call the power γ.

    The compute-optimal split does not depend on κ: a monotone function of the sum has its minimum
    where the sum has, so N* = (αA/βB)^{1/(α+β)}·(C/k)^{β/(α+β)} for F(N) = k·N.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    kappa: float

    name: ClassVar[str] = "kappa"
    formula: ClassVar[str] = "L = E + (A/N^α + B/D^β)^κ"

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units."""
        n_term, d_term = log_term(self.A, self.alpha, N), log_term(self.B, self.beta, D)
        return self.E + np.exp(np.minimum(self.kappa * np.logaddexp(n_term, d_term), 690.0))

    def _tokens_for(self, N: Floats, loss: Floats) -> Floats:
        total, other = log_above(loss, self.E) / self.kappa, log_term(self.A, self.alpha, N)
        return size_of_rest(total, other, self.B, self.beta)

    def _params_for(self, D: Floats, loss: Floats) -> Floats:
        total, other = log_above(loss, self.E) / self.kappa, log_term(self.B, self.beta, D)
        return size_of_rest(total, other, self.A, self.alpha)

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        return split_optimum(self.A, self.B, self.alpha, self.beta, C / k)


def split_optimum(A: float, B: float, alpha: float, beta: float, product: Floats) -> Floats:
    """N* where N·D = C/k: (αA/βB)^{1/(α+β)}·(C/k)^{β/(α+β)} (Hoffmann et al. 2022, eq. 4)."""
    total = alpha + beta
    A, B = max(A, 1e-300), max(B, 1e-300)
    log_g = (np.log(alpha) + np.log(A) - np.log(beta) - np.log(B)) / total
    return np.asarray(np.exp(np.clip(log_g + beta / total * np.log(product), -300.0, 300.0)))


def log_term(scale: float, exponent: float, size: ArrayLike) -> Floats:
    """Log of scale/size^exponent, where neither overflows."""
    log_scale = np.log(scale) if scale > 0 else -np.inf
    return np.asarray(log_scale - exponent * np.log(np.asarray(size, dtype=np.float64)))


def log_above(loss: Floats, floor: float) -> Floats:
    """Log of loss − floor; −inf where the loss is no higher."""
    above = np.asarray(loss - floor)
    return np.where(above > 0, np.log(np.where(above > 0, above, 1.0)), -np.inf)
