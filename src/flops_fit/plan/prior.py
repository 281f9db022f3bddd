"""What the optimum is assumed to be before anything is known: where a design is centred."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from flops_fit.checks import check_number
from flops_fit.errors import FlopsFitError, InputError, InputTypeError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import OptimumOnly
from flops_fit.reference.published import LAW_NAMES
from flops_fit.reference.published import law as published_law

TOKENS_PER_PARAM = 20.0  # Hoffmann et al. 2022, table 3, whose D*/N* lies between 20 and 22
_LARGEST = math.log(1e40)


@runtime_checkable
class HasOptimum(Protocol):
    """What knows the best size of a budget: a law, a :class:`~flops_fit.Fit`."""

    def optimal(self, C: Any, flops_per_unit: Any) -> Any:
        """The optimum at C training FLOPs; its ``params`` is N*."""


PriorLike = str | float | Law | OptimumOnly | HasOptimum | None


@dataclass(frozen=True)
class Prior:
    """What the optimum is assumed to be before anything is known.

    Attributes
    ----------
    description
        Which law this is, in words.
    size_at
        ``(C, F) -> N*``, where F(N) are the FLOPs of a unit of the model that is planned; ``None``
        in a plan that was read from a file.
    """

    description: str
    size_at: Callable[[float, FlopsFunction], float] | None = field(
        default=None, compare=False, repr=False
    )

    def optimum(self, budget: float, flops: FlopsFunction) -> float:
        """N* of a budget, where D* = C/F(N*).

        Raises
        ------
        InputError
            The prior gives no size for this budget.
        """
        if self.size_at is None:
            raise InputError(f"prior: {self.description} was read from a file, without its law.")
        try:
            size = float(self.size_at(budget, flops))
        except FlopsFitError as error:
            raise InputError(
                f"prior: {self.description} gives no size for {budget:g} FLOPs: {error}"
            ) from error
        if not (math.isfinite(size) and size > 0):
            raise InputError(
                f"prior: expected N* at {budget:g} FLOPs as a positive number; {self.description} "
                f"gives {size!r}."
            )
        return size


def resolve_prior(prior: Any) -> Prior:
    """The prior in all the ways a user may give it.

    Parameters
    ----------
    prior
        ``None`` for twenty units a parameter, another number of them, the name of a published law,
        a :class:`~flops_fit.laws.Law`, or what else has ``optimal(C, flops_per_unit)``, as a
        :class:`~flops_fit.Fit` of earlier runs and the result of a sweep.

    Raises
    ------
    InputError
        No law of that name, a number that is not positive, or a law whose N counts no parameters.
    InputTypeError
        It is something else.

    Examples
    --------
    >>> from flops_fit.flops import LinearFlops
    >>> prior = resolve_prior(None)
    >>> f"{prior.description}: N = {prior.optimum(1.2e20, LinearFlops(6.0)):.3g}"
    '20 units a parameter: N = 1e+09'
    """
    if prior is None:
        return _ratio(TOKENS_PER_PARAM)
    if isinstance(prior, str):
        if prior not in LAW_NAMES:
            raise InputError(
                f"prior: expected a published law out of {list(LAW_NAMES)}; got {prior!r}."
            )
        return _of_law(published_law(prior), f"the law {prior!r}")
    if isinstance(prior, Real) and not isinstance(prior, bool):
        expected = "a positive number of units a parameter"
        return _ratio(check_number("prior", prior, above=0, expected=expected))
    if isinstance(prior, OptimumOnly | Law):
        return _of_law(prior, f"a law {prior.formula}" if prior.formula else f"a {prior.name} law")
    fit = getattr(prior, "fit", prior)  # of the result of a sweep
    if isinstance(fit, HasOptimum) and not isinstance(fit, type):
        largest = getattr(fit, "largest_compute", None)
        extent = "" if largest is None else f" of runs up to {largest:.3g} FLOPs"
        return Prior(
            f"a {type(fit).__name__.lower()}{extent}",
            lambda budget, flops: fit.optimal(budget, flops).params,
        )
    raise InputTypeError(
        "prior: expected the name of a published law, a Law, a Fit, or a number of units a "
        f"parameter; got {type(prior).__name__}."
    )


def _of_law(law: Law | OptimumOnly, description: str) -> Prior:
    if isinstance(law, Law):
        return Prior(description, lambda budget, flops: law.optimal(budget, flops).params)
    if "parameters" not in law.size:
        raise InputError(
            f"prior: expected a law whose N counts parameters; that of {description} counts "
            f"{law.size}. Take another law, or a number of units a parameter."
        )
    counted = "" if law.size == "parameters" else f", whose N counts {law.size}"
    return Prior(description + counted, lambda budget, flops: law.optimal(budget).params)


def _ratio(ratio: float) -> Prior:
    """The N at which C/F(N) is so many units a parameter: the root of F(N)·ratio·N = C in ln N."""

    def size_at(budget: float, flops: FlopsFunction) -> float:
        from scipy.optimize import brentq

        def excess(log_size: float) -> float:
            return math.log(float(flops(math.exp(log_size))) * ratio / budget) + log_size

        low = high = 0.5 * math.log(budget / (6 * ratio))
        step = math.log(2.0)
        while excess(low) > 0 and low > 0:
            low, step = low - step, 2 * step
        step = math.log(2.0)
        while excess(high) < 0 and high < _LARGEST:
            high, step = high + step, 2 * step
        if low == high or excess(low) * excess(high) > 0:
            return math.exp(low if low == high else high)
        return math.exp(brentq(excess, low, high, xtol=1e-12))

    return Prior(f"{ratio:g} units a parameter", size_at)
