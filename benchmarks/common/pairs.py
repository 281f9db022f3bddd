"""The median of noisy pairs, and how well it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000


@dataclass(frozen=True)
class Estimate:
    """A median with its 95 % interval."""

    median: float
    low: float
    high: float

    def told(self, spec: str) -> str:
        """``1.01 [1.00, 1.02]``, by a format such as ``.3f``."""
        return f"{self.median:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def median_of(values: Sequence[float] | np.ndarray, seed: int = 0) -> Estimate:
    """The median and its bootstrap percentile interval (Efron 1979), by resampling ``values``."""
    v = np.asarray(values, dtype=float)
    drawn = np.random.default_rng(seed).integers(len(v), size=(DRAWS, len(v)))
    low, high = np.quantile(np.median(v[drawn], axis=1), (0.025, 0.975))
    return Estimate(float(np.median(v)), float(low), float(high))
