"""Known laws that answer with noise."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from flops_fit import Adaptive
from flops_fit.adaptive import AdaptiveResult, Candidates, run_adaptive
from flops_fit.adaptive.candidates import lattice
from flops_fit.flops import LinearFlops
from flops_fit.laws import Kappa, Law
from flops_fit.table import RunTable

TARGET = 1e21
UNIFORM = 1.02e21  # FLOPs of a 5×7 grid from 1e18 to 1e20


def truth(kappa: float = 1.0, p: float = 0.35, q: float = 0.35) -> Kappa:
    scale = 0.8 ** (1 / kappa)
    A, B = 1e8 ** (p / kappa) * scale, 2e9 ** (q / kappa) * scale
    return Kappa(1.7, A, B, p / kappa, q / kappa, kappa)


@dataclass(frozen=True)
class Drifting(Law):
    """A κ-law whose slopes change by ``of_n`` and ``of_d`` for each e-fold from a centre."""

    of_n: float
    of_d: float
    centre: tuple[float, float] = (float(np.log(5e8)), float(np.log(5e9)))
    base: Kappa = field(default_factory=truth)
    name: ClassVar[str] = "drifting"

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        law = self.base
        x, y = np.log(N) - self.centre[0], np.log(D) - self.centre[1]
        of_n = law.A ** (law.kappa) * np.asarray(N, float) ** -(law.alpha * law.kappa)
        of_d = law.B ** (law.kappa) * np.asarray(D, float) ** -(law.beta * law.kappa)
        s = of_n * np.exp(-self.of_n * x**2 / 2)
        t = of_d * np.exp(-self.of_d * y**2 / 2)
        return law.E + (s ** (1 / law.kappa) + t ** (1 / law.kappa)) ** law.kappa


def grid_runs(law: Law, seed: int = 0, sd: float = 0.005) -> RunTable:
    """Nine sizes at each of five budgets from 1e18 to 1e20."""
    budgets = np.geomspace(1e18, 1e20, 5)
    N, C = lattice(np.asarray(law.optimal(budgets).params), budgets)
    D = C / (6 * N)
    noise = np.exp(sd * np.random.default_rng(seed).normal(size=len(N)))
    return RunTable(N, D, C, law.loss(N, D) * noise, tuple(map(str, N)), C)


@dataclass
class Simulated:
    law: Law
    seed: int = 0
    sd: float = 0.005
    largest: float = np.inf  # sizes above it diverge
    flops: LinearFlops = field(default_factory=LinearFlops)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.asked: list[tuple[float, float]] = []

    def candidates(self, params: np.ndarray, budget: np.ndarray) -> Candidates:
        return Candidates(params, budget / self.flops(params), budget, budget)

    def run(self, chosen: Candidates) -> list[float]:
        self.asked += chosen.pairs()
        noise = np.exp(self.sd * self.rng.normal(size=len(chosen)))
        loss = self.law.loss(chosen.params, chosen.tokens) * noise
        return [float(x) for x in np.where(chosen.params > self.largest, np.nan, loss)]


def sweep(
    oracle: Simulated, off: float = 3.0, pilot_budgets: tuple[float, ...] = (), **changes: Any
) -> AdaptiveResult:
    arguments = {"target_compute": TARGET, "half_width": 0.1, "max_flops": UNIFORM}
    law = oracle.law
    design = Adaptive(**{**arguments, **changes})
    return run_adaptive(
        oracle,
        design,
        pilot_budgets=pilot_budgets,
        centre=lambda C: law.optimal(C).params * off,
    )
