"""The cheapest model of a given loss over its whole life: training and inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flops_fit.errors import InputError
from flops_fit.flops import FlopsFunction
from flops_fit.laws._cost import FlopsLike, as_flops
from flops_fit.laws._inverse import positive, reachable
from flops_fit.laws._minimum import lowest
from flops_fit.text import count

if TYPE_CHECKING:
    from flops_fit.laws._law import Law

__all__ = ["InferenceOptimum", "optimal_for_inference"]

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
            f"Loss {self.loss:.4g} and {count(self.inference_tokens)} units of inference: "
            f"N = {count(self.params)} on D = {count(self.tokens)}, {self.total_compute:.3g} FLOPs "
            f"in all, {100 * self.saving:.2g} % less than the optimum of training alone."
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
