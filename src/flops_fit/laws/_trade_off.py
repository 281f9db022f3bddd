"""What a size other than the optimal one costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.flops import FlopsFunction
from flops_fit.laws._inverse import positive
from flops_fit.text import count

if TYPE_CHECKING:
    from flops_fit.laws._law import Law

__all__ = ["TradeOff", "trade_off"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Sizes k·N*(C), what they reach with C, and what they need for the loss of N*.

    Prints as a table. Arrays have shape (factors,).

    Attributes
    ----------
    compute
        C in training FLOPs.
    factors
        k: below 1 a smaller model is trained longer than optimal, above 1 a larger one shorter.
    params, tokens, loss
        N = k·N*, D = C/F(N) and L(N, D).
    excess
        By how many per cent the loss lies above the optimum's.
    tokens_needed
        The D at which N reaches the optimum's loss; ``inf`` where it never does.
    compute_ratio
        F(N)·tokens_needed over C: 1.2 is a fifth more compute for the same loss.
    """

    compute: float
    factors: Floats
    params: Floats
    tokens: Floats
    loss: Floats
    excess: Floats
    tokens_needed: Floats
    compute_ratio: Floats

    def __str__(self) -> str:
        head = f"{'k':>6} {'N':>8} {'D':>8} {'loss':>8} {'excess':>9} {'compute':>8}"
        rows = zip(
            self.factors,
            self.params,
            self.tokens,
            self.loss,
            self.excess,
            self.compute_ratio,
            strict=True,
        )
        lines = [
            f"{k:>6.3g} {count(n):>8} {count(d):>8} {loss:>8.4g} {f'{excess:.2g} %':>9} "
            f"{'×' + format(ratio, '.3g') if np.isfinite(ratio) else 'never':>8}"
            for k, n, d, loss, excess, ratio in rows
        ]
        note = f"At C = {self.compute:.3g}: sizes k·N*; compute: for the loss of N*, in units of C."
        return "\n".join([head, *lines, note])


def trade_off(law: Law, C: float, factors: ArrayLike, flops: FlopsFunction) -> TradeOff:
    """The trade-off at C for each factor; see :meth:`flops_fit.laws.Law.trade_off`."""
    k = np.atleast_1d(positive(factors, "factors k of the optimal size")).ravel()
    best = law.optimal(float(positive(C, "compute in FLOPs")), flops)
    N = k * best.params
    per_unit = np.asarray(flops(N), dtype=np.float64)
    D = C / per_unit
    loss = np.asarray(law.loss(N, D), dtype=np.float64)
    needed = np.asarray(law.tokens_for(N, best.loss), dtype=np.float64)
    # C is the least compute for this loss: only rounding can put a ratio below 1.
    ratio = np.maximum(per_unit * needed / C, 1.0)
    excess = 100 * np.maximum(loss / best.loss - 1, 0.0)
    return TradeOff(float(C), k, N, D, loss, excess, needed, ratio)
