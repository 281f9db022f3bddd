"""Recipes made from values, from changes to another recipe, and from a user's function."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from flops_fit.errors import InputError, InputTypeError
from flops_fit.hparams import HParams
from flops_fit.recipes.published import (
    PUBLISHED,
    TIMESCALE,
    Recipe,
    constant,
    default,
    timescale_weight_decay,
)
from flops_fit.records import ParamCount

RECIPES: Mapping[str, Recipe] = {"default": default, "constant": constant, **PUBLISHED}


def named(name: Any, told: str = "hparams") -> Recipe:
    """The recipe of a name; ``told`` is what asks for it."""
    if not isinstance(name, str):
        raise InputTypeError(
            f"{told}: expected the name of a recipe, one of {sorted(RECIPES)}; "
            f"got {type(name).__name__}."
        )
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"{told}: no recipe is called {name!r}; there are {sorted(RECIPES)}.{hint}"
        )
    return RECIPES[name]


def replaced(made: HParams, values: Mapping[str, Any], params: ParamCount, units: float) -> HParams:
    """The same with other values, among which a weight decay may be ``"timescale"``."""
    if values.get("weight_decay") != TIMESCALE:
        return replace(made, **values)
    others = {name: value for name, value in values.items() if name != "weight_decay"}
    made = replace(made, **others)
    decay = timescale_weight_decay(made.lr, made.batch_units, params, units)
    return replace(made, weight_decay=decay)


@dataclass(frozen=True)
class Fixed:
    """The same values for every run."""

    hparams: HParams

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """What trains a run of that size and length."""
        return self.hparams


@dataclass(frozen=True)
class Changed:
    """A recipe with some of its values replaced; ``recipe`` among them names that recipe."""

    values: Mapping[str, Any]

    @property
    def base(self) -> Recipe:
        """What is changed."""
        return named(self.values.get("recipe", "default"), 'hparams["recipe"]')

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """What trains a run of that size and length."""
        values = {name: value for name, value in self.values.items() if name != "recipe"}
        known = {field.name for field in fields(HParams) if field.init}
        unknown = set(values) - known
        if unknown:
            raise InputError(f"hparams: unknown {sorted(unknown)}; known are {sorted(known)}.")
        base, made = self.base, self.base(params, units, unit)
        name = "custom" if base is default else "+".join([made.recipe, *sorted(values)])
        return replaced(made, {**values, "recipe": name}, params, units)


@dataclass(frozen=True)
class Own:
    """A user's function, which returns values in full or changes to a recipe."""

    function: Any

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """What trains a run of that size and length."""
        made = self.function(params, units, unit)
        if isinstance(made, HParams):
            return made
        if isinstance(made, Mapping):
            return Changed(made)(params, units, unit)
        raise InputTypeError(
            f"hparams: expected the recipe to return an HParams or a dict; got {type(made).__name__}."
        )
