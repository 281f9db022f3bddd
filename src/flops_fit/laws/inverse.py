"""A law solved for what it is usually given: compute, units or parameters that reach a loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flops_fit.errors import InputError, InputTypeError
from flops_fit.flops.functions import FlopsFunction

if TYPE_CHECKING:
    from flops_fit.laws.law import Law


Floats = NDArray[np.float64]
Loss = Callable[[Floats], Any]

_LOWEST, _HIGHEST = -200.0, 460.0  # ln of the sizes between which any size is looked for
_LARGEST = 1e40  # parameters beyond which a loss counts as out of reach
_UNITS_PER_PARAM = 20.0
_SECTIONS = np.linspace(0.0, 1.0, 34)


def positive(values: ArrayLike, what: str) -> Floats:
    """Values as an array; refused where one is not a positive finite number."""
    try:
        out = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"expected {what} as numbers; got {values!r}.") from error
    if not np.all(np.isfinite(out) & (out > 0)):
        raise InputError(f"expected {what} to be positive and finite; got {values!r}.")
    return out


def shaped(values: Floats) -> Any:
    """A float for a question about one number, else the array."""
    return float(values) if np.ndim(values) == 0 else values


def reachable(law: Law, loss: float) -> bool:
    """Whether 1e40 parameters on twenty times as many units reach ``loss``."""
    with np.errstate(all="ignore"):
        return bool(law.loss(_LARGEST, _UNITS_PER_PARAM * _LARGEST) <= loss)


def compute_for(law: Law, loss: float, flops: FlopsFunction) -> float:
    """The least compute whose optimum reaches ``loss``; ``inf`` beyond 1e40 parameters.

    The size that reaches it on twenty units a parameter bounds that compute from above, and is
    found without asking F: a law that cannot reach the loss, or needs few parameters, never has a
    model of absurd size traced.
    """
    if not reachable(law, loss):
        return math.inf
    ray = least_size(lambda n: law.loss(n, _UNITS_PER_PARAM * n), np.asarray(loss))
    size = max(float(ray), 1.0)
    above = float(flops(np.asarray(size))) * _UNITS_PER_PARAM * size
    if not (math.isfinite(above) and above > 0):
        raise InputError(
            f"expected positive FLOPs per unit; {flops.description} gives {above!r} near N = "
            f"{size:.3g}. Give flops_per_unit= as a function that does."
        )
    return float(np.exp(log_compute(law, loss, flops, above, math.log(_LARGEST))))


def log_compute(law: Law, loss: float, flops: FlopsFunction, near: float, reach: float) -> float:
    """Ln of the least compute whose optimum reaches ``loss``, looked for around ``near``.

    Bracketed outwards by steps in ln C that double, then cut into 33 parts at a time, as the
    optima of many budgets cost about as much as that of one.

    Parameters
    ----------
    near
        Where to begin, in FLOPs.
    reach
        How far from it in ln C to look: beyond, the answer is ``inf``, or ``-inf`` where the loss
        is reached even there.
    """

    def reached(log_c: ArrayLike) -> NDArray[np.bool_]:
        return np.asarray(law.optimal(np.exp(np.atleast_1d(log_c)), flops).loss) <= loss

    start = math.log(near)
    low = high = start
    step = math.log(2.0)
    while not reached(high)[0]:
        low, high, step = high, high + step, 2 * step
        if high - start > reach:
            return math.inf
    while reached(low)[0]:
        low, high, step = low - step, low, 2 * step
        if start - low > reach:
            return -math.inf
    for _ in range(10):
        cuts = low + (high - low) * _SECTIONS
        first = int(np.argmax(np.append(reached(cuts[1:-1]), True))) + 1
        low, high = float(cuts[first - 1]), float(cuts[first])
    return high


def least_size(loss_at: Loss, loss: Floats) -> Floats:
    """The least size at which a loss that falls with size is ``loss`` or less; inf where none is.

    By halving an interval of ln size, for any number of questions at once.

    Parameters
    ----------
    loss_at
        Losses of sizes, both of the shape of ``loss``.
    """
    low, high = np.full(loss.shape, _LOWEST), np.full(loss.shape, _HIGHEST)
    with np.errstate(all="ignore"):
        never = ~(np.asarray(loss_at(np.exp(high))) <= loss)
        for _ in range(64):
            middle = 0.5 * (low + high)
            reached = np.asarray(loss_at(np.exp(middle))) <= loss
            low, high = np.where(reached, low, middle), np.where(reached, middle, high)
    return np.asarray(np.where(never, np.inf, np.exp(high)))


def size_of_rest(log_total: Floats, log_other: Floats, scale: float, exponent: float) -> Floats:
    """The x of scale/x^exponent = total − other, from the logs of both; inf where other ≥ total."""
    with np.errstate(all="ignore"):
        gap = log_other - log_total
        rest = log_total + np.log1p(-np.exp(np.minimum(gap, 0.0)))
        size = np.exp((np.log(scale) - rest) / exponent)
    return np.asarray(np.where(gap < 0, size, np.inf))
