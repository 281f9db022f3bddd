"""Repeated data with over-fitting: a loss that falls with the first repeats, and rises with too many."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.flops.functions import Bools, Floats
from flops_fit.laws.kappa import Repeating, additive_start, check_supply
from flops_fit.laws.law import FlopsLike, as_flops, log_compute
from flops_fit.laws.optimum import bisect, least_size, positive_per_unit

_MOST_EPOCHS = 1e6  # beyond which the loss counts as still falling
_MOST_COMPUTE = 1e40  # times less than the best size can use
_SECTIONS = 80  # of a bisection: ln D to rounding
_SIZES = np.geomspace(1e4, 1e14, 2001)  # among which the best size for a supply is


@dataclass(frozen=True)
class Overfit(Repeating):
    """L = E + A/N^α + B/D^β + P·N^γ/U^δ·ln(1 + R/R₀) with U unique units and R = D/U − 1 repeats.

    The first three terms are the additive law, repeats counted as new; the last is the price of seeing
    the same units again, which grows with the model and shrinks with the supply. Additive as in Lovelace
    et al. 2026 (arXiv:2605.01640), with N and U as in arXiv:2605.09189. Without repetition (``unique`` = ∞,
    the default) it is the additive law.

    >>> law = Overfit(2.1, 60.0, 5e4, 0.25, 0.5, 0.5, 1.2, 1.0, 60.0).with_unique(1e9)
    >>> f"{law.best_epochs(1e8):.0f} epochs of a small model, {law.best_epochs(1e9):.0f} of a large one"
    '48 epochs of a small model, 9 of a large one'
    """

    P: float
    gamma: float
    delta: float
    R_0: float
    unique: float = float("inf")

    name: ClassVar[str] = "overfit"
    formula: ClassVar[str] = "L = E + A/N^α + B/D^β + P·N^γ/U^δ·ln(1 + R/R_0), R = D/U − 1"

    def loss(self, N: ArrayLike, D: ArrayLike, unique: ArrayLike | None = None) -> Any:
        """Loss at N parameters and D units seen, of which ``unique`` (the law's) are different."""
        N, D = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        U = self._supply(unique)
        repeats = np.maximum(D / U - 1.0, 0.0)
        return self.fresh.loss(N, D) + self._price(N, U) * np.log1p(repeats / self.R_0)

    def _price(self, N: Floats, U: Floats) -> Floats:
        """P·N^γ/U^δ, zero without a limit to the supply."""
        return np.asarray(self.P * N**self.gamma * U**-self.delta)

    def best_epochs(self, N: ArrayLike, unique: ArrayLike | None = None) -> Any:
        """Epochs over ``unique`` units (the law's) from which the loss of N parameters rises.

        1 where the first repeat already hurts, ``inf`` beyond a million epochs or without a limit.
        """
        N = np.asarray(N, dtype=np.float64)
        N, U = np.broadcast_arrays(N, self._supply(unique))
        finite = np.where(np.isinf(U), 1.0, U)

        def falls(epochs: Floats) -> Bools:
            """Whether −dL/d ln D is positive: β·B/D^β above the price times e/(R₀ + e − 1)."""
            gain = self.beta * self.B * (finite * epochs) ** -self.beta
            price = self._price(N, finite) * epochs / (self.R_0 + epochs - 1)
            return np.asarray(gain > price)

        low, high = np.zeros(N.shape), np.full(N.shape, np.log(_MOST_EPOCHS))
        _, high = bisect(lambda log_epochs: ~falls(np.exp(log_epochs)), low, high, _SECTIONS)
        never = np.isinf(U) | falls(np.full(N.shape, _MOST_EPOCHS))
        epochs = np.where(never, np.inf, np.where(falls(np.ones(N.shape)), np.exp(high), 1.0))
        return float(epochs) if epochs.ndim == 0 else epochs

    def best_size(self, unique: float | None = None) -> tuple[float, float, float]:
        """N, epochs and loss that no compute can improve on with ``unique`` units (the law's).

        Beyond that size, trained as long as it pays, a smaller model wins. ``inf`` where none does.
        """
        U = check_supply(self.unique if unique is None else unique)
        if np.isinf(U):
            return float("inf"), 1.0, self.E
        epochs = np.minimum(self.best_epochs(_SIZES, U), _MOST_EPOCHS)
        losses = self.loss(_SIZES, U * epochs, U)
        i = int(np.argmin(losses))
        size = float(_SIZES[i]) if i < len(_SIZES) - 1 else float("inf")
        return size, float(epochs[i]), float(losses[i])

    def reaches(self, loss: float) -> bool:
        """Whether any size and length reach ``loss`` with the law's unique units."""
        return super().reaches(loss) if np.isinf(self.unique) else loss >= self.best_size()[2]

    def compute_for(self, loss: float, flops_per_unit: FlopsLike = 6.0) -> float:
        """See :meth:`Law.compute_for`; more than the best size can use is never needed."""
        if np.isinf(self.unique) or not self.reaches(loss):
            return super().compute_for(loss, flops_per_unit)
        (size, epochs, _), flops = self.best_size(), as_flops(flops_per_unit)
        most = float(positive_per_unit(flops, np.asarray(size))) * self.unique * epochs
        return float(np.exp(log_compute(self, loss, flops, most, math.log(_MOST_COMPUTE))))

    def _tokens_for(self, N: Floats, loss: Floats) -> Floats:
        epochs = np.minimum(self.best_epochs(N), _MOST_EPOCHS)  # up to which the loss falls
        return least_size(lambda D: self.loss(N, D), loss, epochs * self.unique)

    def _params_for(self, D: Floats, loss: Floats) -> Floats:
        repeats = np.maximum(D / self.unique - 1.0, 0.0) / self.R_0
        price = self.gamma * self._price(np.ones(D.shape), self._supply(None)) * np.log1p(repeats)
        with np.errstate(divide="ignore"):  # without repeats it falls with every N
            most = (self.alpha * self.A / price) ** (1 / (self.alpha + self.gamma))
        return least_size(lambda N: self.loss(N, D), loss, most)

    @classmethod
    def starts(
        cls, N: Floats, D: Floats, loss: Floats, unique: Floats | None = None
    ) -> Sequence[Mapping[str, float]]:
        """The additive law of the runs of few epochs, or of all, with prices of several sizes."""
        U = D if unique is None else np.minimum(unique, D)
        few = D <= 4.0 * U
        few = few if np.sum(few) > 10 and np.ptp(np.log(N[few])) > 0.5 else np.ones(len(N), bool)
        n, u = np.exp(np.mean(np.log(N))), np.exp(np.mean(np.log(U)))
        law = additive_start(N[few], D[few], loss[few])
        law["E"] = 0.8 * float(min(law["E"], loss.min()))
        return [
            {**law, "P": size * u**delta / n**gamma, "gamma": gamma, "delta": delta, "R_0": R_0}
            for gamma, delta in ((0.7, 0.7), (1.2, 0.8))
            for size, R_0 in ((0.1, 5.0), (0.5, 50.0))
        ]

    def _optimal_size(self, C: Floats, flops: Any) -> Floats:
        if np.isinf(self.unique):
            return self.fresh._optimal_size(C, flops)
        return super()._optimal_size(C, flops)
