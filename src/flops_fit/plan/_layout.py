"""How a sweep is laid out: which sizes to train at each budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from flops_fit.arguments import check_choice
from flops_fit.errors import InputError, InputTypeError, PlanError
from flops_fit.flops import FlopsFunction
from flops_fit.model import ModelSpec, Size
from flops_fit.plan._prior import Prior
from flops_fit.text import count

__all__ = ["DESIGNS", "Design", "Layout", "Sizes", "asked_for", "grid_sizes", "make_layout"]

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
    >>> from flops_fit.plan._prior import resolve_prior
    >>> make_layout("tapered", resolve_prior(None), None, None, [1, 2, 4]).sizes_per_budget
    (12, 6, 2)
    """
    check_choice("design", design, DESIGNS)
    if width is None:
        width = _WIDTHS[design]
    if isinstance(width, bool) or not isinstance(width, int | float | np.number):
        raise InputTypeError(f"width: expected a factor above 1; got {width!r}.")
    if not (math.isfinite(width) and width > 1):
        raise InputError(f"width: expected a factor above 1, such as 6; got {width!r}.")
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
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputTypeError(f"sizes_per_budget: expected whole numbers, 1 or more; got {value!r}.")
    if value < 1:
        raise InputError(f"sizes_per_budget: expected whole numbers, 1 or more; got {value!r}.")
    return int(value)


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
                    f"N = {count(params)} at {budget:.3g} FLOPs: the constructor takes no size near it"
                )
            elif near[0] in found:
                lost.append(
                    f"N = {count(params)} at {budget:.3g} FLOPs: the nearest size, {near[0]}, is "
                    f"there for N = {count(found[near[0]])}"
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
