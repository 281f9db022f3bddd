"""Training curves that tests share: a law followed along D, as a constant rate would."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flops_fit.laws import Law


def curves(
    law: Law,
    sizes: Iterable[float],
    horizon: float = 1e11,
    points: int = 120,
    sd: float = 0.0,
    charge: Callable[[Any], Any] | None = None,
) -> dict[str, np.ndarray]:
    """L(N, D) of each size up to ``horizon`` units, as columns.

    ``charge`` of D/horizon raises the loss by that part, as a schedule does that has not ended.
    """
    rng = np.random.default_rng(0)
    parts = []
    for i, N in enumerate(sizes):
        D = np.geomspace(horizon / 3000, horizon, points)
        loss = law.loss(N, D) * np.exp(sd * rng.normal(size=points))
        if charge is not None:
            loss = loss * (1 + charge(D / horizon))
        parts.append((np.repeat(f"size {i}", points), np.full(points, N), D, loss))
    names = ("run", "params", "tokens", "loss")
    return {n: np.concatenate(c) for n, c in zip(names, zip(*parts, strict=True), strict=True)}
