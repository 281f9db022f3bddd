"""The designs of a sweep: which sizes to train at each budget."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from flops_fit.checks import check_choice, check_number, check_whole
from flops_fit.errors import InputError, InputTypeError, PlanError
from flops_fit.flops.functions import FlopsFunction
from flops_fit.model.spec import ModelSpec, Size
from flops_fit.plan.prior import Prior, PriorLike, resolve_prior
from flops_fit.text import format_count

Sizes = Sequence[Size] | Mapping[float, Sequence[Size]]

TAPER = (12, 9, 6, 4, 2)  # sizes of five budgets, the smallest budget first
_TARGET_FACTOR = 10  # from the largest budget to the target that "adaptive" answers for


@dataclass(frozen=True)
class Layout:
    """A design for given budgets, with its prior resolved and its numbers of sizes.

    Attributes
    ----------
    design
        ``"grid"``, ``"tapered"`` or ``"rectangular"``.
    prior
        Where it is centred.
    width
        Sizes reach from N*/width to N*·width, in even steps of ln N.
    sizes_per_budget
        How many sizes, the smallest budget first.
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
            how_many = f"{', '.join(map(str, numbers))} sizes, the smallest budget first"
        centre = "N* by"
        if self.design == "rectangular":
            how_many = f"the same {numbers[0]} sizes at each budget"
            centre = "N* of the smallest and the largest budget by"
        return (
            f"Design {self.design!r}: {how_many}, from 1/{self.width:g} to {self.width:g} times "
            f"{centre} {self.prior.description}."
        )


@dataclass(frozen=True)
class Grid:
    """The same number of sizes at each budget, around N* of the prior.

    Attributes
    ----------
    prior
        What N* is assumed to be before anything is known: the name of a published law, a law, the fit
        or result of earlier runs, or a number of units per parameter; ``None`` for 20.
    width
        Sizes reach this factor below and above N* of the prior, in even steps of ln N.
    sizes_per_budget
        How many sizes at each budget; or one number for each budget, the smallest first.

    Raises
    ------
    InputError, InputTypeError
        A value cannot be used.
    """

    prior: PriorLike = None
    width: float = 6.0
    sizes_per_budget: int | Sequence[int] = 7
    kind: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        check_number("width", self.width, above=1, expected="a factor above 1, such as 6")
        resolve_prior(self.prior)
        given = self.sizes_per_budget
        listed = isinstance(given, Iterable) and not isinstance(given, str)
        for value in given if listed else [given]:  # type: ignore[union-attr]
            whole = int(value) if isinstance(value, np.integer) else value
            check_whole("sizes_per_budget", whole, expected="whole numbers, 1 or more")

    def layout(self, budgets: Sequence[float]) -> Layout:
        """The layout for these budgets, the smallest first.

        Raises
        ------
        InputError
            The numbers of sizes do not fit the budgets.

        Examples
        --------
        >>> Tapered().layout([1, 2, 4]).sizes_per_budget
        (12, 6, 2)
        """
        given = self.sizes_per_budget
        if isinstance(given, Iterable):
            counts = tuple(int(value) for value in given)
            if len(counts) != len(budgets):
                raise InputError(
                    f"sizes_per_budget: expected one number, or one for each of {len(budgets)} "
                    f"budgets; got {len(counts)}."
                )
        else:
            counts = self._counts(int(given), len(budgets))
        return Layout(self.kind, resolve_prior(self.prior), float(self.width), counts)

    def _counts(self, most: int, budgets: int) -> tuple[int, ...]:
        return (most,) * budgets


@dataclass(frozen=True)
class Tapered(Grid):
    """Most runs at the smallest budgets (12, 9, 6, 4, 2 of five), over a wide range of sizes.

    Attributes
    ----------
    prior, width
        As of :class:`Grid`.
    sizes_per_budget
        How many sizes at the smallest budget, of which larger ones take their share; or one number
        for each budget, the smallest first.
    """

    width: float = 10.0
    sizes_per_budget: int | Sequence[int] = TAPER[0]
    kind: ClassVar[str] = "tapered"

    def _counts(self, most: int, budgets: int) -> tuple[int, ...]:
        if budgets == 1:
            return (most,)
        places = np.linspace(0, len(TAPER) - 1, budgets)
        shares = np.interp(places, range(len(TAPER)), TAPER) / TAPER[0]
        return tuple(max(min(2, most), round(most * float(share))) for share in shares)


@dataclass(frozen=True)
class Rectangular(Grid):
    """The same sizes at all budgets, as runs that branch off one trunk need them.

    Sizes reach ``width`` below N* of the smallest budget and above N* of the largest: over a factor
    of 16 in C the default 3 reaches as far as a grid does in all.

    Attributes
    ----------
    prior, width
        As of :class:`Grid`.
    sizes_per_budget
        How many sizes, one number.
    """

    width: float = 3.0
    kind: ClassVar[str] = "rectangular"

    def layout(self, budgets: Sequence[float]) -> Layout:
        """See :meth:`Grid.layout`."""
        layout = super().layout(budgets)
        if len(set(layout.sizes_per_budget)) > 1:
            raise InputError(
                "sizes_per_budget: a rectangular design has the same sizes at each budget; expected "
                f"one number, got {list(layout.sizes_per_budget)}."
            )
        return layout


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """A pilot, and then batches of the runs that narrow N* at a target compute most.

    Attributes
    ----------
    target_compute
        FLOPs of the run that the answer is for.
    max_flops
        What the sweep may spend.
    half_width
        Stop once half the width of the 90 % interval of N* is this small, relative: 0.1 is ±10 %.
    max_run_flops
        What one run may cost; a tenth of ``max_flops`` by default.
    batch
        Runs a step at most.

    Raises
    ------
    InputError, InputTypeError
        A value cannot be used.
    """

    target_compute: float
    max_flops: float
    half_width: float = 0.1
    max_run_flops: float | None = None
    batch: int = 8
    kind: ClassVar[str] = "adaptive"

    def __post_init__(self) -> None:
        for name in ("target_compute", "half_width", "max_flops"):
            check_number(name, getattr(self, name), above=0)
        if self.max_run_flops is not None:
            check_number("max_run_flops", self.max_run_flops, above=0)
        check_whole("batch", self.batch)

    @property
    def top(self) -> float:
        """What one run may cost."""
        return self.max_run_flops or self.max_flops / 10


Design = Grid | Adaptive
DesignLike = Literal["grid", "tapered", "rectangular", "adaptive"] | Design
DESIGNS: Mapping[str, type[Design]] = {d.kind: d for d in (Grid, Tapered, Rectangular, Adaptive)}
_DEFAULTS: Mapping[str, Design] = {d.kind: d for d in (Grid(), Tapered(), Rectangular())}


def resolve_design(design: Any, budgets: Sequence[float] | None = None) -> Design:
    """The design that a name stands for.

    ``"adaptive"`` gives the answer at ten times the largest of ``budgets``, for what the default grid
    of these budgets costs at most.

    Raises
    ------
    InputError, InputTypeError
        It is no design, or ``"adaptive"`` without budgets.
    """
    if isinstance(design, Design):
        return design
    if not isinstance(design, str):
        names = ", ".join(f"{d.__name__}(...)" for d in DESIGNS.values())
        raise InputTypeError(f"design: expected a name or one of {names}; got {design!r}.")
    check_choice("design", design, DESIGNS)
    if design != Adaptive.kind:
        return _DEFAULTS[design]
    if not budgets:
        raise InputError(
            "design: 'adaptive' needs the target of the answer and what the sweep may spend. "
            "Give design=Adaptive(target_compute=1e21, max_flops=1e19), or compute_budgets= of a grid."
        )
    sizes = Grid.sizes_per_budget
    assert isinstance(sizes, int)
    return Adaptive(
        target_compute=_TARGET_FACTOR * max(budgets), max_flops=sizes * math.fsum(budgets)
    )


def grid_sizes(
    layout: Layout, spec: ModelSpec, budgets: Sequence[float], flops: FlopsFunction
) -> tuple[dict[float, list[Size]], list[str]]:
    """The sizes at each budget nearest to those of the layout, and which of these are left out."""
    centres = [layout.prior.optimum(budget, flops) for budget in budgets]
    ends = [(centre, centre) for centre in centres]
    if layout.design == "rectangular":
        ends = [(min(centres), max(centres))] * len(budgets)
    sizes: dict[float, list[Size]] = {}
    lost: list[str] = []
    for budget, (low, high), many in zip(budgets, ends, layout.sizes_per_budget, strict=True):
        chosen: dict[Size, float] = {}
        for params in _spread(low, high, layout.width, many):
            near = spec.nearest(params)
            if near is None:
                lost.append(
                    f"N = {format_count(params)} at {budget:.3g} FLOPs: the constructor accepts no size "
                    "near it"
                )
            elif near[0] in chosen:
                lost.append(
                    f"N = {format_count(params)} at {budget:.3g} FLOPs: the nearest size, {near[0]}, is "
                    f"already used for N = {format_count(chosen[near[0]])}"
                )
            else:
                chosen[near[0]] = params
        sizes[budget] = list(chosen)
    return sizes, lost


def _spread(low: float, high: float, width: float, many: int) -> list[float]:
    """``many`` sizes in even steps of ln N, from low/width to high·width."""
    if many == 1:
        return [math.sqrt(low * high)]
    return [float(n) for n in np.geomspace(low / width, high * width, many)]


def named_sizes(spec: ModelSpec, budgets: Sequence[float], sizes: Sizes) -> dict[float, list[Size]]:
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
    named = {}
    for budget in budgets:
        given: Any = sizes
        if isinstance(sizes, Mapping):
            if budget not in sizes:
                raise PlanError(
                    f"sizes: no sizes for the budget {budget:g}; got sizes for {sorted(sizes)}."
                )
            given = sizes[budget]
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InputTypeError(
                "sizes: expected a list of sizes, a list of dicts of arguments, or a dict from budget "
                f"to such a list; got {type(given).__name__}."
            )
        named[budget] = list(given)
        if not named[budget]:
            raise PlanError("sizes: expected at least one size; got none.")
        for size in named[budget]:
            spec.require(size)
    return named
