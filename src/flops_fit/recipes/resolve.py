"""Recipes made from values, from functions and from other recipes; what a user gives as ``hparams``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from flops_fit.errors import InputError, InputTypeError
from flops_fit.hparams import HParams
from flops_fit.recipes.published import PUBLISHED, Recipe, default, named, with_values
from flops_fit.recipes.table import RecipeTable, read_recipe
from flops_fit.records import ParamCount

RecipeLike = str | Path | Recipe | Mapping[str, Any] | HParams
_DECIDING = {"lr", "batch_units"}


@dataclass(frozen=True)
class Fixed:
    """The same values for every run."""

    hparams: HParams

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The hyper-parameters of one run."""
        return self.hparams


@dataclass(frozen=True)
class Changed:
    """A recipe with some of its values replaced; the value ``recipe`` names that recipe."""

    values: Mapping[str, Any]

    @property
    def base(self) -> Recipe:
        """The recipe that is changed."""
        return named(self.values.get("recipe", "default"), 'hparams["recipe"]')

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The hyper-parameters of one run."""
        values = {name: value for name, value in self.values.items() if name != "recipe"}
        known = {field.name for field in fields(HParams) if field.init}
        unknown = set(values) - known
        if unknown:
            raise InputError(f"hparams: unknown {sorted(unknown)}; known are {sorted(known)}.")
        hparams = self.base(params, units, unit)
        name = "custom" if self.base is default else "+".join([hparams.recipe, *sorted(values)])
        return with_values(hparams, {**values, "recipe": name}, params, units)


@dataclass(frozen=True)
class Own:
    """A user's function, which returns full values or changes to a recipe."""

    function: Callable[[ParamCount, float, str], HParams | Mapping[str, Any]]

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The hyper-parameters of one run."""
        values = self.function(params, units, unit)
        if isinstance(values, HParams):
            return values
        if isinstance(values, Mapping):
            return Changed(values)(params, units, unit)
        raise InputTypeError(
            f"hparams: expected the recipe to return an HParams or a dict; got {type(values).__name__}."
        )


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe times factors that tuning found: lr_base(N, D)·f(N) and batch_base(N, D)·g.

    ``lr`` has (N, f) of each knot, ascending in N; ln f is linear in ln N between them, and constant
    beyond. ``batch`` is g; ``name`` is appended to the base's name on every run.

    >>> base = lambda params, units, unit: HParams(lr=0.01, batch_units=100, recipe="mine-1")
    >>> tuned = TunedRecipe(base, lr=((1e3, 2.0),), batch=0.5, name="pilot")
    >>> hparams = tuned(ParamCount(10, 10, 10, 10), 1e4, "tokens")
    >>> hparams.lr, hparams.batch_units, hparams.recipe
    (0.02, 50.0, 'mine-1 + pilot')
    """

    base: Recipe
    lr: tuple[tuple[float, float], ...] = ((1.0, 1.0),)
    batch: float = 1.0
    name: str = ""

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The base's values at this size and length, times the factors."""
        hparams = self.base(params, units, unit)
        return replace(
            hparams,
            lr=hparams.lr * self.factor(params.total),
            batch_units=hparams.batch_units * self.batch,
            recipe=f"{hparams.recipe} + {self.name}" if self.name else hparams.recipe,
        )

    def factor(self, params: float) -> float:
        """The factor f on the rate at this N."""
        sizes, factors = zip(*self.lr, strict=True)
        return math.exp(float(np.interp(math.log(params), np.log(sizes), np.log(factors))))


@dataclass(frozen=True)
class Coupled:
    """A recipe whose rate follows the square root of its batch, relative to the batch ``reference``."""

    # Malladi et al. 2022 (arXiv:2205.10287) for Adam. A batch that grows as D^0.571 takes the rate to
    # D^0.29, where Li et al. 2025 (arXiv:2503.04715) measured D^0.307.
    base: Recipe
    reference: float

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The base's values, the rate coupled to the batch."""
        hparams = self.base(params, units, unit)
        return replace(hparams, lr=hparams.lr * math.sqrt(hparams.batch_units / self.reference))


def coupled(base: Recipe, params: ParamCount, lengths: Sequence[float], unit: str) -> Recipe:
    """A recipe whose rate does not change with length while its batch does, coupled to its mean batch."""
    first, later = (base(params, units, unit) for units in (lengths[0], 100 * lengths[0]))
    if first.lr != later.lr or first.batch_units == later.batch_units:
        return base
    batches = [base(params, units, unit).batch_units for units in lengths]
    return Coupled(base, float(np.exp(np.mean(np.log(batches)))))


def resolve_recipe(hparams: RecipeLike) -> Recipe:
    """A recipe from what a user gives; InputError where there is none, InputTypeError for other types.

    That is a recipe's name, the path of a TOML file (:func:`read_recipe`), an :class:`HParams`, a dict of
    changes to the recipe that its key ``"recipe"`` names (``"default"`` without it), or a function
    ``(params, units, unit)`` that returns an :class:`HParams` or such a dict.
    """
    if isinstance(hparams, Path) or (isinstance(hparams, str) and hparams.endswith(".toml")):
        return read_recipe(hparams)
    if isinstance(hparams, str):
        return named(hparams)
    if isinstance(hparams, HParams):
        return Fixed(hparams)
    if isinstance(hparams, Mapping):
        named(hparams.get("recipe", "default"), 'hparams["recipe"]')  # refuses an unknown name now
        return Changed(dict(hparams))
    if callable(hparams):
        return hparams if isinstance(hparams, RecipeTable) else Own(hparams)
    raise InputTypeError(
        "hparams: expected a recipe's name, the path of a TOML file, a dict, an HParams or a "
        f"function (params, units, unit) -> HParams; got {type(hparams).__name__}."
    )


def text_rule(recipe: Recipe) -> str | None:
    """The rule for tokens of text by which a recipe sets rates or batches; none of a user's function."""
    if isinstance(recipe, Own):
        return text_rule(recipe.function)  # type: ignore[arg-type]
    if isinstance(recipe, Changed):
        return None if set(recipe.values) >= _DECIDING else text_rule(recipe.base)
    if isinstance(recipe, RecipeTable):
        own = {*recipe.values, *recipe.laws} >= _DECIDING
        return None if own or recipe.base is None else text_rule(recipe.base)
    return next((name for name, rule in PUBLISHED.items() if rule is recipe), None)
