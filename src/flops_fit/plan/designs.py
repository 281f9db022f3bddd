"""How a sweep is laid out: which sizes to train at each budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np

from flops_fit.checks import check_choice, check_number, check_whole
from flops_fit.errors import FlopsFitError, InputError, InputTypeError, PlanError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import OptimumOnly
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.reference.published_laws import LAW_NAMES
from flops_fit.reference.published_laws import law as published_law
from flops_fit.text import format_count

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
    """What is taken for the optimum before anything is known.

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
        told = "" if largest is None else f" of runs up to {largest:.3g} FLOPs"
        return Prior(
            f"a {type(fit).__name__.lower()}{told}",
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
    """The N at which C/F(N) is so many units a parameter, by halving an interval of ln N."""

    def size_at(budget: float, flops: FlopsFunction) -> float:
        def spent(log_size: float) -> float:
            size = math.exp(log_size)
            return float(flops(size)) * ratio * size

        middle = 0.5 * math.log(budget / (6 * ratio))
        low, high, step = middle, middle, math.log(2.0)
        while spent(low) > budget and low > 0:
            low, step = low - step, 2 * step
        step = math.log(2.0)
        while spent(high) < budget and high < _LARGEST:
            high, step = high + step, 2 * step
        while high - low > 1e-9:
            middle = 0.5 * (low + high)
            low, high = (middle, high) if spent(middle) < budget else (low, middle)
        return math.exp(0.5 * (low + high))

    return Prior(f"{ratio:g} units a parameter", size_at)


Design = Literal["grid", "tapered", "rectangular"]
DESIGNS: tuple[str, ...] = get_args(Design)
Sizes = Sequence[Size] | Mapping[float, Sequence[Size]]

SIZES_PER_BUDGET = 7
TAPER = (12, 9, 6, 4, 2)  # sizes of five budgets, the cheapest first
# How far below and above N* sizes reach, as a factor. A rectangle reaches so far below N* of its
# cheapest budget and above that of its dearest: over a factor of 16 in C as far as a grid in all.
_WIDTHS = {"grid": 6.0, "tapered": 10.0, "rectangular": 3.0}


@dataclass(frozen=True)
class Layout:
    """A design with its prior, its width and its numbers of sizes.

    Attributes
    ----------
    design
        ``"grid"``, ``"tapered"`` or ``"rectangular"``.
    prior
        Where it is centred.
    width
        Sizes reach from N*/width to N*·width, in even steps of ln N.
    sizes_per_budget
        How many sizes, the cheapest budget first.
    """

    design: str
    prior: Prior
    width: float
    sizes_per_budget: tuple[int, ...]

    def __str__(self) -> str:
        numbers = self.sizes_per_budget
        if len(set(numbers)) == 1:
            how_many = f"{numbers[0]} sizes at each budget"
        else:
            how_many = f"{', '.join(map(str, numbers))} sizes, the cheapest budget first"
        centre = "N* by"
        if self.design == "rectangular":
            how_many = f"the same {numbers[0]} sizes at each budget"
            centre = "N* of the cheapest and the dearest budget by"
        return (
            f"Design {self.design!r}: {how_many}, from 1/{self.width:g} to {self.width:g} times "
            f"{centre} {self.prior.description}."
        )


def make_layout(
    design: Any, prior: Prior, width: Any, sizes_per_budget: Any, budgets: Sequence[float]
) -> Layout:
    """The layout of a design; ``None`` for what the design chooses itself.

    Parameters
    ----------
    sizes_per_budget
        A whole number, of which a tapered design takes its share at dearer budgets; or one number
        for each budget, the cheapest first.

    Raises
    ------
    InputError, InputTypeError
        An argument cannot be used.

    Examples
    --------
    >>> from flops_fit.plan.designs import resolve_prior
    >>> make_layout("tapered", resolve_prior(None), None, None, [1, 2, 4]).sizes_per_budget
    (12, 6, 2)
    """
    check_choice("design", design, DESIGNS)
    if width is None:
        width = _WIDTHS[design]
    check_number("width", width, above=1, expected="a factor above 1, such as 6")
    counts = _counts(design, sizes_per_budget, len(budgets))
    return Layout(design, prior, float(width), counts)


def _counts(design: str, asked: Any, budgets: int) -> tuple[int, ...]:
    if isinstance(asked, Iterable) and not isinstance(asked, str):
        listed = tuple(_whole(value) for value in asked)
        if len(listed) != budgets:
            raise InputError(
                f"sizes_per_budget: expected one number, or one for each of {budgets} budgets; got "
                f"{len(listed)}."
            )
        if design == "rectangular" and len(set(listed)) > 1:
            raise InputError(
                "sizes_per_budget: a rectangular design has the same sizes at each budget; expected "
                f"one number, got {list(listed)}."
            )
        return listed
    most = None if asked is None else _whole(asked)
    if design != "tapered":
        return (most or SIZES_PER_BUDGET,) * budgets
    most = most or TAPER[0]
    if budgets == 1:
        return (most,)
    shares = np.interp(np.linspace(0, len(TAPER) - 1, budgets), range(len(TAPER)), TAPER) / TAPER[0]
    return tuple(max(min(2, most), round(most * float(share))) for share in shares)


def _whole(value: Any) -> int:
    value = int(value) if isinstance(value, np.integer) else value
    return check_whole("sizes_per_budget", value, expected="whole numbers, 1 or more")


def grid_sizes(
    layout: Layout, spec: ModelSpec, budgets: Sequence[float], flops: FlopsFunction
) -> tuple[dict[float, list[Size]], list[str]]:
    """The sizes at each budget that come nearest to the layout's, and what could not be had."""
    centres = [layout.prior.optimum(budget, flops) for budget in budgets]
    ends = [(centre, centre) for centre in centres]
    if layout.design == "rectangular":
        ends = [(min(centres), max(centres))] * len(budgets)
    sizes: dict[float, list[Size]] = {}
    lost: list[str] = []
    for budget, (low, high), many in zip(budgets, ends, layout.sizes_per_budget, strict=True):
        wanted = _spread(low, high, layout.width, many)
        found: dict[Size, float] = {}
        for params in wanted:
            near = spec.nearest(params)
            if near is None:
                lost.append(
                    f"N = {format_count(params)} at {budget:.3g} FLOPs: the constructor takes no size near it"
                )
            elif near[0] in found:
                lost.append(
                    f"N = {format_count(params)} at {budget:.3g} FLOPs: the nearest size, {near[0]}, is "
                    f"there for N = {format_count(found[near[0]])}"
                )
            else:
                found[near[0]] = params
        sizes[budget] = list(found)
    return sizes, lost


def _spread(low: float, high: float, width: float, many: int) -> list[float]:
    """So many sizes in even steps of ln N, from low/width to high·width."""
    if many == 1:
        return [math.sqrt(low * high)]
    return [float(n) for n in np.geomspace(low / width, high * width, many)]


def asked_for(spec: ModelSpec, budgets: Sequence[float], sizes: Sizes) -> dict[float, list[Size]]:
    """The sizes that the user named, for each budget.

    Raises
    ------
    PlanError
        There are none, or none for one of the budgets.
    InputTypeError
        They are no list.
    ModelError
        The constructor refuses one.
    """
    return {budget: _asked_for(spec, budget, sizes) for budget in budgets}


def _asked_for(spec: ModelSpec, budget: float, sizes: Sizes) -> list[Size]:
    if isinstance(sizes, Mapping):
        if budget not in sizes:
            raise PlanError(
                f"sizes: no sizes for the budget {budget:g}; there are {sorted(sizes)}."
            )
        sizes = sizes[budget]
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise InputTypeError(
            "sizes: expected a list of sizes, a list of dicts of arguments, or a dict from budget "
            f"to such a list; got {type(sizes).__name__}."
        )
    asked = list(sizes)
    if not asked:
        raise PlanError("sizes: expected at least one size; got none.")
    for size in asked:
        spec.require(size)
    return asked
