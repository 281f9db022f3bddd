"""The law of Kaplan et al.: no irreducible loss, data and size inside one power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.laws.inverse import size_of_rest
from flops_fit.laws.law import ClosedForm

Floats = NDArray[np.float64]

_EXPONENTS = np.geomspace(0.02, 0.8, 25)
_STARTS = 4


@dataclass(frozen=True)
class Kaplan(ClosedForm):
    """L(N, D) = ((N_c/N)^{α_N/α_D} + D_c/D)^{α_D} (Kaplan et al. 2020, arXiv:2001.08361, eq. 1.5).

    The κ-law with E = 0, A = N_c^{α_N/α_D}, α = α_N/α_D, B = D_c, β = 1 and κ = α_D. A monotone
    function of the sum is least where the sum is, so for F(N) = k·N, with r = α_N/α_D,
    N* = (r·N_c^r/D_c · C/k)^{1/(1+r)}: N* ∝ C^a with a = α_D/(α_N + α_D). That is 0.575 for the
    paper's joint fit (its Table 2); its N* ∝ C^0.73 comes from another law, L(N, S_min).

    Examples
    --------
    >>> law = Kaplan(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
    >>> f"{law.loss(1.5e9, 2.2e10):.3f}, a = {law.exponent:.3f}"
    '2.313, a = 0.575'
    """

    N_c: float
    D_c: float
    alpha_N: float
    alpha_D: float

    name: ClassVar[str] = "kaplan"
    formula: ClassVar[str] = "L = ((N_c/N)^(α_N/α_D) + D_c/D)^α_D"

    @property
    def exponent(self) -> float:
        """The a of N* ∝ C^a where F(N) = k·N."""
        return self.alpha_D / (self.alpha_N + self.alpha_D)

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        """Loss at N parameters and D units."""
        inside = np.logaddexp(self._n_term(N), self._d_term(D))
        return np.exp(np.minimum(self.alpha_D * inside, 690.0))

    def _n_term(self, N: ArrayLike) -> Floats:
        log_n = np.log(np.asarray(N, dtype=np.float64))
        return np.asarray((self.alpha_N / self.alpha_D) * (np.log(self.N_c) - log_n))

    def _d_term(self, D: ArrayLike) -> Floats:
        return np.asarray(np.log(self.D_c) - np.log(np.asarray(D, dtype=np.float64)))

    @classmethod
    def starts(cls, N: Floats, D: Floats, loss: Floats) -> Sequence[Mapping[str, float]]:
        """Where (α_N, α_D) of a grid fit best: given both, L^{1/α_D} is linear in N_c^r and D_c."""
        found = []
        for alpha_N in _EXPONENTS:
            for alpha_D in _EXPONENTS:
                law = _given_exponents(float(alpha_N), float(alpha_D), N, D, loss)
                if law is not None:
                    misfit = float(np.sum(np.abs(np.log(loss / law.loss(N, D)))))
                    found.append((misfit, law.params))
        found.sort(key=lambda pair: pair[0])
        return [params for _, params in found[:_STARTS]]

    def _tokens_for(self, N: Floats, loss: Floats) -> Floats:
        return size_of_rest(np.log(loss) / self.alpha_D, self._n_term(N), self.D_c, 1.0)

    def _params_for(self, D: Floats, loss: Floats) -> Floats:
        # In units of N_c, whose power α_N/α_D may overflow.
        total, r = np.log(loss) / self.alpha_D, self.alpha_N / self.alpha_D
        return self.N_c * size_of_rest(total, self._d_term(D), 1.0, r)

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        r = self.alpha_N / self.alpha_D
        log_n = np.log(r) + r * np.log(self.N_c) - np.log(self.D_c) + np.log(C / k)
        return np.asarray(np.exp(np.clip(log_n / (1 + r), -300.0, 300.0)))


def _given_exponents(
    alpha_N: float, alpha_D: float, N: Floats, D: Floats, loss: Floats
) -> Kaplan | None:
    """N_c and D_c by relative least squares, where both come out positive."""
    r = alpha_N / alpha_D
    log_n, log_d, log_l = np.mean(np.log(N)), np.mean(np.log(D)), np.mean(np.log(loss))
    target = (np.log(loss) - log_l) / alpha_D
    powers = np.column_stack([-r * (np.log(N) - log_n) - target, -(np.log(D) - log_d) - target])
    if np.max(powers) > 300:
        return None
    terms = np.exp(powers)
    scale, *_ = np.linalg.lstsq(terms, np.ones(len(N)), rcond=None)
    if np.any(scale <= 0):
        return None
    log_n_c = log_n + (np.log(scale[0]) + log_l / alpha_D) / r
    log_d_c = log_d + np.log(scale[1]) + log_l / alpha_D
    if max(abs(log_n_c), abs(log_d_c)) > 600:
        return None
    return Kaplan(float(np.exp(log_n_c)), float(np.exp(log_d_c)), alpha_N, alpha_D)
