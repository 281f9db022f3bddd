"""A smooth surface over (ln N, ln D) as a finite sum of functions with normal weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flops_fit.flops.functions import Floats

_KNOT_SPACING = 0.8  # correlation lengths: 1e-3 of the variance of g is lost between two knots


@dataclass(frozen=True, eq=False)
class Basis:
    """Functions φ of compute s = x + y and shape v = x − y with unit normal weights, for one ℓ.

    Σ φ(a)·φ(b) is nearly the Gaussian kernel. Beyond the knots the value at their edge goes on.
    """

    length: float
    drift: float
    drift_length: float
    s_range: tuple[float, float]
    v_range: tuple[float, float]

    def __call__(self, x: Floats, y: Floats) -> Floats:
        """φ at points of shape (points,): (points, functions)."""
        s, v = np.clip(x + y, *self.s_range), np.clip(x - y, *self.v_range)
        along, across, drift = (a.values(at) for a, at in zip(self.axes, (s, v, s), strict=True))
        both = (along[:, :, None] * across[:, None, :]).reshape(len(s), -1)
        return np.hstack([both, self.drift * drift])

    @cached_property
    def axes(self) -> tuple[Axis, Axis, Axis]:
        """The knots along s and v, and those along s of the drift."""
        # Isotropic in (x, y) is isotropic in (s, v)/√2.
        length = float(np.sqrt(2) * self.length)
        drift = Axis(self.s_range, self.drift_length)
        return Axis(self.s_range, length), Axis(self.v_range, length), drift

    def knot_weights(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weights as of plain kernels: (draws, knots of s, knots of v), (draws, knots of drift)."""
        along, across, drift = self.axes
        count = len(along.knots) * len(across.knots)
        both = weights[:, :count].reshape(-1, len(along.knots), len(across.knots))
        of_drift = self.drift * weights[:, count:] @ drift.whitener.T
        return along.whitener @ both @ across.whitener.T, of_drift


class Axis:
    """Functions of one variable whose products sum to exp(−Δ²/2ℓ²): kernels times ``whitener``."""

    def __init__(self, span: tuple[float, float], length: float) -> None:
        count = max(int(np.ceil((span[1] - span[0]) / (_KNOT_SPACING * length))), 1) + 1
        self.knots, self.length = np.linspace(*span, count), length
        values, vectors = np.linalg.eigh(self.kernel(self.knots))
        # The symmetric root: the signs of eigenvectors, which threads change, leave it as it is.
        self.whitener = (vectors / np.sqrt(np.maximum(values, 1e-10))) @ vectors.T

    def kernel(self, at: Floats) -> Floats:
        """exp(−Δ²/2ℓ²) to every knot, shape (points, knots)."""
        return np.asarray(np.exp(-0.5 * ((at[:, None] - self.knots) / self.length) ** 2))

    def values(self, at: Floats) -> Floats:
        """The functions, shape (points, knots)."""
        return np.asarray(self.kernel(at) @ self.whitener)
