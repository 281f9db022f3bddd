"""The lines of approaches 1 and 2: N*(C) and D*(C), and the loss at the minima along them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flops_fit.fit._envelope import Envelope
from flops_fit.fit._isoflop import IsoFLOP
from flops_fit.fit._power import fit_power
from flops_fit.laws import PowerLaw

__all__ = ["Lines", "envelope_lines", "isoflop_lines"]

Floats = NDArray[np.float64]

_FEWEST_LOSSES = 4  # one more than E + k·C^−p has constants
_FLATTEST, _STEEPEST = 1e-3, 3.0


@dataclass(frozen=True, eq=False)
class Lines:
    """N*(C) and D*(C), and ``loss`` at the minima at ``compute``, both of shape (minima,)."""

    n_line: PowerLaw
    d_line: PowerLaw
    compute: Floats
    loss: Floats

    def loss_line(self) -> PowerLaw | None:
        """L(C) = E + k·C^−p with E ≥ 0 and k > 0, by least squares of L̂/L − 1.

        ``None`` with fewer than four losses, or where they do not fall with C.
        """
        if len(self.loss) < _FEWEST_LOSSES or np.any(self.loss <= 0):
            return None
        line = fit_power(self.compute, self.loss, offset=True).law
        return line if -_STEEPEST < line.a < -_FLATTEST else None


def isoflop_lines(shape: IsoFLOP) -> Lines | None:
    """Those of approach 2, where it is usable."""
    if not shape.usable or shape.n_line is None or shape.d_line is None:
        return None
    compute = np.array([p.budget for p in shape.interior])
    loss = np.array([p.loss for p in shape.interior])
    return Lines(shape.n_line, shape.d_line, compute, loss)


def envelope_lines(found: Envelope | None) -> Lines | None:
    """Those of approach 1, where it is usable."""
    if found is None or not found.usable or found.n_line is None or found.d_line is None:
        return None
    compute = np.array([p.compute for p in found.points])
    loss = np.array([p.loss for p in found.points])
    return Lines(found.n_line, found.d_line, compute, loss)
