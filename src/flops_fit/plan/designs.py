"""The designs of a sweep: which sizes to train at each budget, around which assumed optimum."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from flops_fit.errors import (
    FlopsFitError,
    InputError,
    InputTypeError,
    check_choice,
    check_number,
    check_whole,
)
from flops_fit.flops.functions import FlopsFunction
from flops_fit.laws.law import Law
from flops_fit.laws.optimum import OptimumOnly
from flops_fit.model.spec import Size
from flops_fit.reference import LAW_NAMES
from flops_fit.reference import law as published_law

Sizes = Sequence[Size] | Mapping[float, Sequence[Size]]

TAPER = (12, 9, 6, 4, 2)  # sizes of five budgets, the smallest budget first
_GRID_SIZES = 7  # of each budget of a grid
_TARGET_FACTOR = 10  # from the largest budget to the target that "adaptive" answers for
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
    """What the optimum is assumed to be; ``size_at``, ``(C, F) -> N*``, is not kept in files."""

    description: str
    size_at: Callable[[float, FlopsFunction], float] | None = field(
        default=None, compare=False, repr=False
    )

    def optimum(self, budget: float, flops: FlopsFunction) -> float:
        """N* of a budget, where D* = C/F(N*); InputError where the prior gives none."""
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
    """The prior in all the ways a user may give it."""
    if prior is None:
        return _ratio(TOKENS_PER_PARAM)
    if isinstance(prior, str):
        check_choice("prior", prior, LAW_NAMES)
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


@dataclass(frozen=True)
class Layout:
    """A design for given budgets; sizes reach from N*/width to N*·width in even steps of ln N."""

    design: str
    prior: Prior
    width: float
    sizes_per_budget: tuple[int, ...]

    def __str__(self) -> str:
        numbers = self.sizes_per_budget
        how_many, centre = f"{numbers[0]} sizes at each budget", "N* by"
        if self.design == "rectangular":
            how_many = f"the same {numbers[0]} sizes at each budget"
            centre = "N* of the smallest and the largest budget by"
        elif len(set(numbers)) > 1:
            how_many = f"{', '.join(map(str, numbers))} sizes, the smallest budget first"
        return (
            f"Design {self.design!r}: {how_many}, from 1/{self.width:g} to {self.width:g} times "
            f"{centre} {self.prior.description}."
        )


@dataclass(frozen=True)
class Grid:
    """The same number of sizes at each budget, around N* of the prior; InputError for bad values.

    ``prior`` is what N* is assumed to be before anything is known: the name of a published law, a law,
    the fit or result of earlier runs, or a number of units per parameter; ``None`` for 20. Sizes reach a
    factor ``width`` below and above that N*, in even steps of ln N. ``sizes_per_budget``: how many at
    each budget, or one number for each budget, the smallest first. ``axes`` are values of further arguments
    of the model, or of a function given as ``dataset``, such as ``{"num_layers": [2, 3, 4]}``: each run has
    one of them and the size that gives its N, drawn so that they go with neither N nor C.
    :meth:`flops_fit.Fit.axis` says what they do.
    ``repeats``: runs of each size and budget, with seeds of their own.
    """

    prior: PriorLike = None
    width: float = 6.0
    sizes_per_budget: int | Sequence[int] = _GRID_SIZES
    axes: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    repeats: int = 1
    kind: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        check_number("width", self.width, above=1, expected="a factor above 1, such as 6")
        check_whole("repeats", self.repeats, expected="a positive whole number")
        resolve_prior(self.prior)
        for name, values in self.axes.items():
            if isinstance(values, str) or not 2 <= len({repr(v) for v in values}) == len(values):
                raise InputError(
                    f"axes: expected two or more different values of {name}; got {values!r}."
                )
        given = self.sizes_per_budget
        listed = isinstance(given, Iterable) and not isinstance(given, str)
        for value in given if listed else [given]:  # type: ignore[union-attr]  # by `listed`
            whole = int(value) if isinstance(value, np.integer) else value
            check_whole("sizes_per_budget", whole, expected="whole numbers, 1 or more")

    def layout(self, budgets: Sequence[float]) -> Layout:
        """The layout for these budgets, the smallest first; InputError where the numbers do not fit.

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

    A single ``sizes_per_budget`` is that of the smallest budget; all else as of :class:`Grid`.
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

    Sizes reach ``width`` below N* of the smallest budget and above N* of the largest. All else as of
    :class:`Grid`, with one number of sizes.
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

    The answer is for a run of ``target_compute`` FLOPs. The sweep may spend ``max_flops``, and one run
    ``max_run_flops``: a tenth of it by default. It stops once half the width of the 90 % interval of N*
    is as small as ``half_width``, relative: 0.1 is ±10 %. A step has at most ``batch`` runs. InputError or
    InputTypeError where a value cannot be used.
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
DESIGNS: Mapping[str, Callable[..., Design]] = {
    d.kind: d for d in (Grid, Tapered, Rectangular, Adaptive)
}


def resolve_design(design: Any, budgets: Sequence[float] | None = None) -> Design:
    """The design that a name stands for; ``"adaptive"`` needs the budgets of a grid."""
    if isinstance(design, Design):
        return design
    if not isinstance(design, str):
        names = ", ".join(f"{d.__name__}(...)" for d in DESIGNS.values())
        raise InputTypeError(f"design: expected a name or one of {names}; got {design!r}.")
    check_choice("design", design, DESIGNS)
    if design != Adaptive.kind:
        return DESIGNS[design]()
    if not budgets:
        raise InputError(
            "design: 'adaptive' needs the target of the answer and what the sweep may spend. "
            "Give design=Adaptive(target_compute=1e21, max_flops=1e19), or compute_budgets= of a grid."
        )
    target, cost_of_a_grid = _TARGET_FACTOR * max(budgets), _GRID_SIZES * math.fsum(budgets)
    return Adaptive(target_compute=target, max_flops=cost_of_a_grid)
