"""What a size other than the optimal one costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.errors import InputError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.cost import FlopsLike, as_flops
from flops_fit.laws.inverse import positive, reachable
from flops_fit.laws.optimum import lowest
from flops_fit.text import format_count

if TYPE_CHECKING:
    from flops_fit.laws.law import Law


Floats = NDArray[np.float64]

_UNUSABLE = 1e200


@dataclass(frozen=True)
class InferenceOptimum:
    """The model that reaches a loss with the least compute for training and inference together.

    Attributes
    ----------
    loss, inference_tokens
        What was asked: the loss, and D_inf, the units of inference over the model's life.
    params, tokens
        N and D.
    training_compute, inference_compute, total_compute
        F(N)·D, F_inf(N)·D_inf and their sum.
    saving
        The share of total compute that it saves against the optimum of training alone at the same
        loss: 0.17 is 17 %.
    """

    loss: float
    inference_tokens: float
    params: float
    tokens: float
    training_compute: float
    inference_compute: float
    total_compute: float
    saving: float

    def __str__(self) -> str:
        return (
            f"Loss {self.loss:.4g} and {format_count(self.inference_tokens)} units of inference: "
            f"N = {format_count(self.params)} on D = {format_count(self.tokens)}, "
            f"{self.total_compute:.3g} FLOPs in all, {100 * self.saving:.2g} % less than "
            "the optimum of training alone."
        )


def optimal_for_inference(
    law: Law,
    loss: float,
    inference_tokens: float,
    flops: FlopsFunction,
    inference: FlopsLike | None,
) -> InferenceOptimum:
    """Minimise over ln D; see :meth:`flops_fit.laws.Law.optimal_for_inference`."""
    goal = float(positive(loss, "a loss"))
    demand = _demand(inference_tokens)
    if not reachable(law, goal):
        raise InputError(
            f"expected a loss that the law reaches at some size; no size reaches {goal:.6g}. "
            "Ask for a higher loss."
        )
    use = None if inference is None else as_flops(inference)

    def served(N: Floats) -> Floats:
        per_unit = np.asarray(flops(N)) / 3 if use is None else np.asarray(use(N))
        return per_unit * demand

    plain = law.optimal(law.compute_for(goal, flops), flops)
    start = np.array([np.log(plain.tokens)])

    def log_total(log_d: Floats) -> Floats:
        # Over ln D, as N hardly moves where demand is large and D rises steeply with it. Less data
        # than D* is dearer twice over; models too large to be traced are not asked for there.
        usable = log_d > start - 1
        D = np.exp(np.where(usable, log_d, start))
        N = np.asarray(law.params_for(D, goal))
        usable &= np.isfinite(N)
        N = np.where(usable, N, plain.params)
        return np.where(usable, np.log(np.asarray(flops(N)) * D + served(N)), _UNUSABLE)

    tokens = float(np.exp(lowest(log_total, start)[0]))
    params = float(law.params_for(tokens, goal))
    N = np.array([params])
    training = float(flops(N)[0]) * tokens
    serving = float(served(N)[0])
    alone = float(plain.compute) + float(served(np.array([plain.params]))[0])
    total = training + serving
    saving = max(1 - total / alone, 0.0)
    return InferenceOptimum(goal, demand, params, tokens, training, serving, total, saving)


def _demand(inference_tokens: float) -> float:
    value = inference_tokens
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not (np.isfinite(value) and value >= 0):
        raise InputError(f"expected inference_tokens to be a number, 0 or more; got {value!r}.")
    return float(value)


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
            f"{k:>6.3g} {format_count(n):>8} {format_count(d):>8} {loss:>8.4g} {f'{excess:.2g} %':>9} "
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
