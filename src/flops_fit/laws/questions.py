"""What a law is asked besides its optimum: compute for a loss, other sizes, inference."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.checks import check_number
from flops_fit.errors import InputError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.optimum import positive, positive_per_unit
from flops_fit.laws.search import UNDEFINED, least_size, lowest
from flops_fit.text import format_count

if TYPE_CHECKING:
    from flops_fit.laws.law import Law

Floats = NDArray[np.float64]

LARGEST_SIZE = 1e40  # parameters beyond which a loss counts as out of reach
UNITS_PER_PARAM = 20.0
_SECTIONS = np.linspace(0.0, 1.0, 34)


def compute_for(law: Law, loss: float, flops: FlopsFunction) -> float:
    """The least compute whose optimum reaches ``loss``; ``inf`` beyond 1e40 parameters.

    The size that reaches it on twenty units a parameter bounds that compute from above. It is
    found without F, so no model of absurd size is traced where the law cannot reach the loss or
    needs few parameters.
    """
    if not law.reaches(loss):
        return math.inf
    bound = least_size(lambda n: law.loss(n, UNITS_PER_PARAM * n), np.asarray(loss))
    size = max(float(bound), 1.0)
    above = float(positive_per_unit(flops, np.asarray(size))) * UNITS_PER_PARAM * size
    return float(np.exp(log_compute(law, loss, flops, above, math.log(LARGEST_SIZE))))


def log_compute(law: Law, loss: float, flops: FlopsFunction, start: float, reach: float) -> float:
    """Ln of the least compute whose optimum reaches ``loss``, searched around ``start``.

    Bracketed outwards by steps in ln C that double, then cut into 33 parts at a time, as the
    optima of many budgets cost about as much as that of one.

    Beyond ``reach`` from there in ln C the answer is ``inf``, or ``-inf`` where the loss is reached
    even there.
    """

    def reached(log_c: ArrayLike) -> NDArray[np.bool_]:
        return np.asarray(law.optimal(np.exp(np.atleast_1d(log_c)), flops).loss) <= loss

    middle = math.log(start)
    low = high = middle
    step = math.log(2.0)
    while not reached(high)[0]:
        low, high, step = high, high + step, 2 * step
        if high - middle > reach:
            return math.inf
    while reached(low)[0]:
        low, high, step = low - step, low, 2 * step
        if middle - low > reach:
            return -math.inf
    for _ in range(10):
        cuts = low + (high - low) * _SECTIONS
        first = int(np.argmax(np.append(reached(cuts[1:-1]), True))) + 1
        low, high = float(cuts[first - 1]), float(cuts[first])
    return high


@dataclass(frozen=True)
class InferenceOptimum:
    """The model that reaches a loss with the least compute for training and inference together.

    ``inference_tokens`` is D_inf, ``training_compute`` F(N)·D and ``inference_compute``
    F_inf(N)·D_inf. ``saving`` is the share of total compute that it saves against the optimum of
    training alone at the same loss: 0.17 is 17 %.
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
    inference: FlopsFunction | None,
) -> InferenceOptimum:
    """Minimise over ln D; see :meth:`flops_fit.laws.Law.optimal_for_inference`."""
    goal = float(positive(loss, "a loss"))
    demand = check_number("inference_tokens", inference_tokens, at_least=0)
    if not law.reaches(goal):
        raise InputError(
            f"expected a loss that the law reaches at some size; no size reaches {goal:.6g}. "
            "Use a higher loss."
        )

    def serving(N: Floats) -> Floats:
        per_unit = np.asarray(flops(N)) / 3 if inference is None else np.asarray(inference(N))
        return per_unit * demand

    plain = law.optimal(law.compute_for(goal, flops), flops)
    start = np.array([np.log(plain.tokens)])

    def log_total(log_d: Floats) -> Floats:
        # Over ln D, as N hardly moves where demand is large and D rises steeply with it. With less
        # data than D* both parts cost more, and the models may be too large to trace.
        usable = log_d > start - 1
        D = np.exp(np.where(usable, log_d, start))
        N = np.asarray(law.params_for(D, goal))
        usable &= np.isfinite(N)
        N = np.where(usable, N, plain.params)
        return np.where(usable, np.log(np.asarray(flops(N)) * D + serving(N)), UNDEFINED)

    tokens = float(np.exp(lowest(log_total, start)[0]))
    params = float(law.params_for(tokens, goal))
    N = np.array([params])
    training, served = float(flops(N)[0]) * tokens, float(serving(N)[0])
    alone = float(plain.compute) + float(serving(np.array([plain.params]))[0])
    total = training + served
    saving = max(1 - total / alone, 0.0)
    return InferenceOptimum(goal, demand, params, tokens, training, served, total, saving)


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Sizes k·N*(C), what they reach with C, and what they need for the loss of N*.

    Prints as a table. Arrays have shape (factors,).

    Attributes
    ----------
    factors
        k: below 1 a smaller model is trained longer than optimal, above 1 a larger one shorter.
    params, tokens, loss, excess
        N = k·N*, D = C/F(N), L(N, D), and by how many per cent that lies above the optimum's.
    tokens_needed, compute_ratio
        The D at which N reaches the optimum's loss, ``inf`` where it never does, and
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
        columns = (self.factors, self.params, self.tokens, self.loss, self.excess)
        lines = [
            f"{k:>6.3g} {format_count(n):>8} {format_count(d):>8} {loss:>8.4g} {f'{excess:.2g} %':>9} "
            f"{'×' + format(ratio, '.3g') if np.isfinite(ratio) else 'never':>8}"
            for k, n, d, loss, excess, ratio in zip(*columns, self.compute_ratio, strict=True)
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
