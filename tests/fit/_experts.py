"""Runs of models with experts that follow a law."""

from __future__ import annotations

from typing import Any

import numpy as np

from flops_fit.laws import Experts

LAW = Experts(1.5, 60.0, 200.0, 0.25, 0.3, q=0.93, r=0.98)
SHARE = 0.6  # of N_active in experts


def rows(
    sd: float = 0.0, seed: int = 0, experts: Any = (1, 4, 16), **more: Any
) -> list[dict[str, Any]]:
    """Six sizes at four budgets with each number of experts, one of which a token visits."""
    rng = np.random.default_rng(seed)
    out = []
    for C in (1e18, 3e18, 1e19, 3e19):
        for N in np.geomspace(0.3, 3, 6) * 0.3 * (C / 6) ** 0.5:
            for E in experts:
                S, D = 1 + SHARE * (E - 1), C / (6 * N)
                loss = float(LAW.loss(N, D, S) * np.exp(sd * rng.standard_normal()))
                made = {
                    "params": N * S,
                    "active_params": N,
                    "tokens": D,
                    "loss": loss,
                    "experts": E,
                }
                out.append({**made, **more})
    return out
