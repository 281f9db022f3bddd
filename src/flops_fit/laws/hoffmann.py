"""The additive law of the Chinchilla paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.laws.inverse import size_of_rest
from flops_fit.laws.kappa import log_above, log_term, split_optimum
from flops_fit.laws.law import ClosedForm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Hoffmann(ClosedForm):
    """L(N, D) = E + A/N^α + B/D^β (Hoffmann et al. 2022, arXiv:2203.15556, eq. 2).

    E is the irreducible loss, A/N^α the price of finite size, B/D^β that of finite data. For
    F(N) = k·N the optimum has a closed form (their eq. 4): N* = G·(C/k)^a and D* = (C/k)^b / G
    with G = (αA/βB)^{1/(α+β)}, a = β/(α+β) and b = α/(α+β).

    Examples
    --------
    >>> law = Hoffmann(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    >>> f"{law.loss(70e9, 1.4e12):.4f}"
    '1.9366'
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    name: ClassVar[str] = "hoffmann"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^β"

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units."""
        n_term, d_term = log_term(self.A, self.alpha, N), log_term(self.B, self.beta, D)
        return self.E + np.exp(np.minimum(n_term, 690.0)) + np.exp(np.minimum(d_term, 690.0))

    def _tokens_for(self, N: Floats, loss: Floats) -> Floats:
        other = log_term(self.A, self.alpha, N)
        return size_of_rest(log_above(loss, self.E), other, self.B, self.beta)

    def _params_for(self, D: Floats, loss: Floats) -> Floats:
        other = log_term(self.B, self.beta, D)
        return size_of_rest(log_above(loss, self.E), other, self.A, self.alpha)

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        return split_optimum(self.A, self.B, self.alpha, self.beta, C / k)
