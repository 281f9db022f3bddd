"""Known laws that answer with noise."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flops_fit.design import Adaptive, Asked, Candidates, run_adaptive
from flops_fit.flops import LinearFlops
from flops_fit.laws import Kappa, Law

TARGET = 1e21
UNIFORM = 1.02e21  # FLOPs of a 5×7 grid from 1e18 to 1e20


def truth(kappa: float = 1.0, p: float = 0.35, q: float = 0.35) -> Kappa:
    scale = 0.8 ** (1 / kappa)
    A, B = 1e8 ** (p / kappa) * scale, 2e9 ** (q / kappa) * scale
    return Kappa(1.7, A, B, p / kappa, q / kappa, kappa)


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


def sweep(oracle: Simulated, off: float = 3.0, **changes: object) -> Adaptive:
    arguments = {"target_compute": TARGET, "precision": 0.1, "max_flops": UNIFORM}
    law = oracle.law
    asked = Asked(**{**arguments, **changes}, centre=lambda C: law.optimal(C).params * off)
    return run_adaptive(oracle, asked)
