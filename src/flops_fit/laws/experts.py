"""Mixtures of experts: the loss of N_active parameters out of N_total."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.errors import InputError, check_number
from flops_fit.flops.functions import Floats, FlopsFunction, LinearFlops
from flops_fit.laws.kappa import Hoffmann, TwoTerms, additive_start

_STARTS = ((0.95, 1.0), (0.85, 1.0), (0.9, 0.95), (0.9, 1.05))  # q and r


@dataclass(frozen=True)
class Experts(TwoTerms):
    """L = E + A·q^{log₂S}/N^α + B·r^{log₂S}/D^β with N = N_active and S = N_total/N_active ≥ 1.

    Of a dense model, S = 1, it is the additive law. Experts that a unit does not visit cost memory and no
    compute, C = F(N_active)·D. Each doubling of N_total at one N_active multiplies the term of the model by
    q, below 1 where experts stand in for active parameters, and that of the data by r, above 1 where they
    need more data. As in Ludziejewski et al. 2025 (arXiv:2502.05172, with the number of experts) they act
    on both terms; here by plain powers, of what every model has. The optimum is that of models of
    ``sparsity`` S, and of less where ``max_total_params`` caps N_total.

    >>> law = Experts(1.5, 60.0, 200.0, 0.25, 0.3, q=0.93, r=0.98)
    >>> dense, sparse = law.optimal(1e21), law.with_experts(8).optimal(1e21)
    >>> f"{dense.loss:.3f} dense, {sparse.loss:.3f} with N_total = {8 * sparse.params:.2g}"
    '1.861 dense, 1.812 with N_total = 5.2e+10'
    """

    q: float
    r: float
    sparsity: float = 1.0
    max_total_params: float = float("inf")

    name: ClassVar[str] = "experts"
    formula: ClassVar[str] = (
        "L = E + A·q^(log₂S)/N^α + B·r^(log₂S)/D^β, N = N_active, S = N_total/N_active"
    )
    covariates: ClassVar[tuple[str, ...]] = ("sparsity",)
    conditions: ClassVar[tuple[str, ...]] = ("sparsity", "max_total_params")
    limits: ClassVar[Mapping[str, float]] = {"q": 1.0, "r": 1.0}

    def __post_init__(self) -> None:
        expected = "N_total/N_active, a number of at least 1"
        check_number("sparsity", self.sparsity, at_least=1, expected=expected)
        check_number("max_total_params", self.max_total_params, above=0, infinite=True)

    def with_experts(self, sparsity: float, max_total_params: float = float("inf")) -> Self:
        """The law of models of N_total/N_active = ``sparsity``, or less where N_total is capped."""
        return replace(self, sparsity=sparsity, max_total_params=max_total_params)

    @property
    def capped(self) -> bool:
        """Whether a limit to N_total makes larger models less sparse."""
        return bool(np.isfinite(self.max_total_params)) and self.sparsity > 1

    def at(self, N: ArrayLike) -> Any:
        """S of models of N active parameters: ``sparsity``, within the cap on N_total."""
        fitting = self.max_total_params / np.asarray(N, dtype=np.float64)
        return np.clip(fitting, 1.0, self.sparsity)

    def loss(self, N: ArrayLike, D: ArrayLike, sparsity: ArrayLike | None = None) -> Any:
        """Loss at N active parameters and D units, of N_total/N_active = ``sparsity`` (the law's)."""
        N, D = np.asarray(N, dtype=np.float64), np.asarray(D, dtype=np.float64)
        S = self.at(N) if sparsity is None else np.asarray(sparsity, dtype=np.float64)
        if np.any(S < 1):
            raise InputError("expected N_total/N_active of at least 1; got less.")
        doublings = np.log2(S)
        size, data = self.A * N**-self.alpha, self.B * D**-self.beta
        return self.E + size * self.q**doublings + data * self.r**doublings

    @property
    def of_one_sparsity(self) -> Hoffmann:
        """The additive law of models of the law's ``sparsity`` where N_total has no cap."""
        doublings = float(np.log2(self.sparsity))
        A, B = self.A * self.q**doublings, self.B * self.r**doublings
        return Hoffmann(self.E, A, B, self.alpha, self.beta)

    @classmethod
    def starts(
        cls, N: Floats, D: Floats, loss: Floats, sparsity: Floats | None = None
    ) -> Sequence[Mapping[str, float]]:
        """The additive law that ignores experts, with a few q and r."""
        S = np.ones_like(N) if sparsity is None else sparsity
        law, middle = additive_start(N, D, loss), float(np.mean(np.log2(S)))
        A, B = law["A"], law["B"]
        return [
            {**law, "A": A * q**-middle, "B": B * r**-middle, "q": q, "r": r} for q, r in _STARTS
        ]

    def _start_size(self, C: Floats, k: Floats) -> Floats:
        return self.of_one_sparsity._start_size(C, k)

    def _optimal_size(self, C: Floats, flops: FlopsFunction) -> Floats:
        if not self.capped and isinstance(flops, LinearFlops):
            return self.of_one_sparsity._optimal_size(C, flops)
        return super()._optimal_size(C, flops)
