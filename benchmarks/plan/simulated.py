"""Simulated sweeps: a true law, noisy runs of it, and what branches of a trunk cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from flops_fit.adaptive import Candidates
from flops_fit.flops import LinearFlops
from flops_fit.laws import Kappa, Law

SD = 0.005
COOLDOWN = 0.2


def truth(kappa: float, asymmetric: bool) -> Law:
    """Slopes of .35 each, or .28 and .45, whatever κ; a term of about 1 at 1e8 and 2e9."""
    p, q = (0.28, 0.45) if asymmetric else (0.35, 0.35)
    scale = 0.8 ** (1 / kappa)
    A, B = 1e8 ** (p / kappa) * scale, 2e9 ** (q / kappa) * scale
    return Kappa(1.7, A, B, p / kappa, q / kappa, kappa)


@dataclass(frozen=True)
class Bent(Law):
    """No law of the library: the exponent of N falls from .38 to .30 around ``bend``."""

    bend: float = 3e8
    name: ClassVar[str] = "bent"

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        N, D = np.asarray(N, dtype=float), np.asarray(D, dtype=float)
        n_term = 0.8 * (N / 1e8) ** -0.38 * (1 + np.sqrt(N / self.bend)) ** 0.16
        return 1.7 + n_term + 0.8 * (D / 2e9) ** -0.35


@dataclass(frozen=True)
class Drifting(Law):
    """The additive law, but the exponent of N falls by ``drift`` for each e-fold of N."""

    drift: float = 0.03
    name: ClassVar[str] = "drifting"

    def loss(self, N: ArrayLike, D: ArrayLike) -> Any:
        x, D = np.log(np.asarray(N, dtype=float) / 3e8), np.asarray(D, dtype=float)
        n_term = 0.55 * np.exp(-0.35 * x + self.drift * x**2 / 2)
        return 1.7 + n_term + 0.8 * (D / 2e9) ** -0.35


@dataclass
class Simulated:
    """Answers with ``law`` and log-normal noise, ``1 + arms`` times as large at N*/5 and 5·N*."""

    law: Law
    rng: np.random.Generator
    arms: float = 0.0
    flops: LinearFlops = field(default_factory=LinearFlops)

    def candidates(self, params: np.ndarray, budget: np.ndarray) -> Candidates:
        return Candidates(params, budget / self.flops(params), budget, budget)

    def run(self, chosen: Candidates) -> Sequence[float]:
        best = np.asarray(self.law.optimal(chosen.flops).params)
        far = np.abs(np.log(chosen.params / best)) / np.log(5)
        noise = SD * (1 + self.arms * far) * self.rng.normal(size=len(chosen))
        return list(np.asarray(self.law.loss(chosen.params, chosen.tokens)) * np.exp(noise))


@dataclass
class Branching(Simulated):
    """Sizes on one ladder; runs of a size share a trunk until their cool-downs.

    A run costs what no run before it has walked; the noise of branches is taken as independent.
    """

    walked: dict[float, list[float]] = field(default_factory=dict)
    spent: float = 0.0

    def candidates(self, params: np.ndarray, budget: np.ndarray) -> Candidates:
        step = np.log(1.5)
        params = np.exp(np.round(np.log(params) / step) * step)
        plain = super().candidates(params, budget)
        price = [self._price(self.walked, n, d) for n, d in plain.pairs()]
        return Candidates(params, plain.tokens, budget, budget, price=np.array(price))

    def run(self, chosen: Candidates) -> Sequence[float]:
        for n, d in sorted(chosen.pairs()):
            self.spent += self._price(self.walked, n, d)
            self.walked.setdefault(n, []).append(d)
        return super().run(chosen)

    def _price(self, walked: dict[float, list[float]], n: float, d: float) -> float:
        # A trunk has been walked to where its longest branch not beyond this one's left it.
        shared = [(1 - COOLDOWN) * x for x in walked.get(n, []) if x < d]
        return float(self.flops(n)) * (d - max(shared, default=0.0))
