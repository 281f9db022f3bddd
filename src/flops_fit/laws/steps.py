"""The batch beside size and data: too few steps cost, and too few units in each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import check_number
from flops_fit.flops.functions import Floats
from flops_fit.laws.kappa import additive_start
from flops_fit.laws.law import Law

_STARTS = (0.4, 0.7, 1.2)  # γ
_SHARE = 0.02  # of the loss, that the batch costs in the middle of the runs


@dataclass(frozen=True)
class Steps(Law):
    """L = E + A/N^α + B/D^β + G/S^γ + H/b^γ with batches of b units and S = D/b optimizer steps.

    A large batch leaves few steps, as in L(N, S) of Kaplan et al. 2020 (arXiv:2001.08361, §5) and McCandlish
    et al. 2018 (arXiv:1812.06162), and a small one has noisy ones. At D units the last two terms have
    their sum 2√(GH)·D^{−γ/2}·cosh(γ ln(b/b*)), so it is least at b* = (H/G)^{1/(2γ)}·√D. This form is of this
    library. Losses are those at the best rate for each batch. The optimum is that of batches of
    ``batch_units``, or of the best at each D where that is 0, the default.

    >>> law = Steps(1.5, 60.0, 400.0, 0.25, 0.3, G=8.0, H=100.0, gamma=0.6)
    >>> f"best {law.best_batch(2e10):.3g}, 1 % above its loss {law.largest_batch(1e9, 2e10, 0.01):.3g}"
    'best 1.16e+06, 1 % above its loss 5.6e+06'
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    G: float
    H: float
    gamma: float
    batch_units: float = 0.0

    name: ClassVar[str] = "steps"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^β + G/S^γ + H/b^γ, S = D/b"
    covariates: ClassVar[tuple[str, ...]] = ("batch_units",)
    conditions: ClassVar[tuple[str, ...]] = ("batch_units",)

    def __post_init__(self) -> None:
        expected = "units in a batch, or 0 for the best"
        check_number("batch_units", self.batch_units, at_least=0, expected=expected)

    def with_batch(self, batch_units: float) -> Steps:
        """The law of batches of so many units; of the best at each D for 0."""
        return replace(self, batch_units=batch_units)

    def best_batch(self, D: ArrayLike) -> Any:
        """The batch b* = (H/G)^{1/(2γ)}·√D with the least loss on D units, whatever N is."""
        D = np.asarray(D, dtype=np.float64)
        best = np.exp(0.5 * (math.log(self.H / self.G) / self.gamma + np.log(D)))
        return float(best) if best.ndim == 0 else best

    def largest_batch(self, N: ArrayLike, D: ArrayLike, excess: float) -> Any:
        """The batch, above the best, whose loss is ``excess`` of that of the best above it.

        With excess x it is b*·exp(arcosh(1 + x·L*/(2√(GH)·D^{−γ/2}))/γ).

        Parameters
        ----------
        N, D
            Parameters and units; they broadcast.
        excess
            How much more the loss may be, relatively: 0.01 for 1 %. InputError where it is negative.
        """
        check_number("excess", excess, at_least=0)
        best, lowest = self.best_batch(D), self.with_batch(0.0).loss(N, D)
        least = (
            2 * math.sqrt(self.G * self.H) * np.asarray(D, dtype=np.float64) ** (-self.gamma / 2)
        )
        largest = best * np.exp(np.arccosh(1 + excess * lowest / least) / self.gamma)
        return float(largest) if np.ndim(largest) == 0 else largest

    def loss(self, N: ArrayLike, D: ArrayLike, batch_units: ArrayLike | None = None) -> Any:
        """Loss at N parameters and D units in batches of ``batch_units`` (the law's)."""
        N, D = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        own = self.batch_units or self.best_batch(D)
        b = np.asarray(own if batch_units is None else batch_units, dtype=np.float64)
        of_batch = self.G * (D / b) ** -self.gamma + self.H * b**-self.gamma
        return self.E + self.A * N**-self.alpha + self.B * D**-self.beta + of_batch

    @classmethod
    def starts(
        cls, N: Floats, D: Floats, loss: Floats, batch_units: Floats | None = None
    ) -> Sequence[Mapping[str, float]]:
        """The additive law that ignores batches, and both costs alike in the middle of the runs."""
        b = np.sqrt(D) if batch_units is None else batch_units
        law, each = additive_start(N, D, loss), 0.5 * _SHARE * float(np.median(loss))
        steps, batch = (math.exp(float(np.mean(np.log(x)))) for x in (D / b, b))
        return [
            {**law, "G": each * steps**gamma, "H": each * batch**gamma, "gamma": gamma}
            for gamma in _STARTS
        ]
