"""The law of repeated data: each further epoch over the same units is worth less."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import InputError
from flops_fit.flops.functions import Floats, FlopsFunction, LinearFlops
from flops_fit.laws.kappa import Hoffmann
from flops_fit.laws.law import Law

_EXPONENTS = np.linspace(0.1, 0.9, 9)
_SCALES_D = (3.0, 15.0, 80.0)
_SCALES_N = (2.0, 10.0, 200.0)
_FEW_EPOCHS = 4.0  # up to which repeats are nearly as good as new (§6 of the paper)


@dataclass(frozen=True)
class Muennighoff(Law):
    """L = E + A/N'^α + B/D'^β with U unique units (Muennighoff et al. 2023, arXiv:2305.16264).

    D' = U + U·R*_D·(1 − e^{−R/R*_D}) with R = D/U − 1 repeats (their eq. 5); D' = D where D ≤ U.
    N' = U_N + U_N·R*_N·(1 − e^{−R_N/R*_N}) with R_N = N/U_N − 1, U_N = min(N, N*(U)) and N*(U) the
    size whose compute-optimal data is U (their eq. 6). After R*_D and R*_N repeats, of data and of
    parameters, 1 − 1/e of all that repetition can give is used up. Without repetition (``unique`` =
    ∞, the default) it is the additive law; :meth:`with_unique` sets ``unique``, which is not fitted.

    The law saturates: :meth:`~Law.compute_for` answers ``inf`` for losses below what any compute
    reaches. It cannot express a loss that *rises* with repetition.

    >>> law = Muennighoff(1.87, 521.0, 1488.0, 0.353, 0.353, 15.4, 5.3)
    >>> scarce = law.with_unique(25e9)
    >>> f"{law.loss(8.67e9, 178e9):.3f} fresh, {scarce.loss(8.67e9, 178e9):.3f} repeated"
    '2.191 fresh, 2.225 repeated'
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    R_D: float
    R_N: float
    unique: float = float("inf")

    name: ClassVar[str] = "muennighoff"
    formula: ClassVar[str] = "L = E + A/N'^α + B/D'^β, N' and D' saturating with repetition"
    covariates: ClassVar[tuple[str, ...]] = ("unique_tokens",)
    conditions: ClassVar[tuple[str, ...]] = ("unique",)
    limits: ClassVar[Mapping[str, float]] = {"R_N": float("inf"), "R_D": float("inf")}

    def __post_init__(self) -> None:
        self._supply(None)

    @property
    def fresh(self) -> Hoffmann:
        """The additive law that holds without repetition."""
        return Hoffmann(self.E, self.A, self.B, self.alpha, self.beta)

    def with_unique(self, unique: float) -> Muennighoff:
        """The law of (N, D) where only ``unique`` different units exist; positive, else InputError."""
        return replace(self, unique=float(unique))

    def loss(self, N: ArrayLike, D: ArrayLike, unique: ArrayLike | None = None) -> Any:
        """Loss at N parameters and D units seen, of which ``unique`` (the law's) are different."""
        return self.fresh.loss(self.effective_params(N, unique), self.effective_units(D, unique))

    def effective_units(self, D: ArrayLike, unique: ArrayLike | None = None) -> Floats:
        """D': how many fresh units the D seen are worth."""
        return _worth(np.asarray(D, dtype=np.float64), self._supply(unique), self.R_D)

    def effective_params(self, N: ArrayLike, unique: ArrayLike | None = None) -> Floats:
        """N': how many parameters N are worth with ``unique`` units to learn from."""
        best = self.size_for(self._supply(unique))
        return _worth(np.asarray(N, dtype=np.float64), best, self.R_N)

    def _supply(self, unique: ArrayLike | None) -> Floats:
        values = np.asarray(self.unique if unique is None else unique, dtype=np.float64)
        if not np.all(values > 0):
            raise InputError(
                f"expected a positive number of unique units (inf for no repetition); got {values}."
            )
        return values

    def size_for(self, unique: ArrayLike) -> Floats:
        """N*(U): the size whose compute-optimal data is U under C = k·N·D, from αA/N^α = βB/D^β."""
        log_u = np.log(np.asarray(unique, dtype=np.float64))
        log_ratio = np.log(self.alpha * self.A) - np.log(self.beta * self.B)
        log_size = (log_ratio + self.beta * log_u) / self.alpha
        return np.asarray(np.exp(np.clip(log_size, -690.0, 690.0)))

    @classmethod
    def starts(
        cls, N: Floats, D: Floats, loss: Floats, unique: Floats | None = None
    ) -> Sequence[Mapping[str, float]]:
        """The best additive law in D' for each of a few R*_D, with a few R*_N each.

        The runs of at most four epochs alone, where R*_D hardly matters, give one more.
        """
        U = D if unique is None else np.minimum(unique, D)
        starts = [_additive(N, _worth(D, U, R_D), loss) | {"R_D": R_D} for R_D in _SCALES_D]
        few = D <= _FEW_EPOCHS * U
        if np.sum(few) > 2 * len(cls.parameters()) and np.ptp(np.log(N[few])) > 0.5:
            known = _additive(N[few], D[few], loss[few])
            starts += [known | {"R_D": R_D} for R_D in _SCALES_D]
        return [{**start, "R_N": R_N} for start in starts for R_N in _SCALES_N]

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        return self.fresh._start_size(C, k)

    def _optimal_size(self, C: Floats, flops: FlopsFunction) -> Floats:
        if np.isinf(self.unique) and isinstance(flops, LinearFlops):
            return self.fresh._optimal_size(C, flops)
        return super()._optimal_size(C, flops)


def _additive(N: Floats, D: Floats, loss: Floats) -> dict[str, float]:
    """E, A, B, α and β on a grid of exponents: relative least squares, robustly compared."""
    log_n, log_d = np.mean(np.log(N)), np.mean(np.log(D))
    n, d = np.log(N / np.exp(log_n)), np.log(D / np.exp(log_d))
    best, values = np.inf, {}
    ones = np.ones_like(n)
    for alpha, beta in itertools.product(_EXPONENTS, repeat=2):
        terms = np.column_stack([ones, np.exp(-alpha * n), np.exp(-beta * d)]) / loss[:, None]
        solved = np.linalg.lstsq(terms, ones, rcond=None)[0]
        scale = np.maximum(solved, 0.02 * loss.min())
        misfit = float(np.sum(np.abs(np.log(np.maximum(terms @ scale, 1e-300)))))
        if misfit < best:
            A, B = scale[1:] * np.exp([alpha * log_n, beta * log_d])
            best, values = misfit, {"E": scale[0], "A": A, "B": B, "alpha": alpha, "beta": beta}
    return {name: float(value) for name, value in values.items()}


def _worth(amount: Floats, unique: Floats, scale: float) -> Floats:
    """``amount`` up to ``unique``, and beyond it U + U·R*(1 − e^{−R/R*}) with R = amount/U − 1."""
    repeats = np.maximum(amount / unique - 1.0, 0.0)
    gained = repeats if np.isinf(scale) else -scale * np.expm1(-repeats / scale)
    base = np.minimum(amount, unique)
    return np.asarray(base + base * gained)
