"""From what a user gives as ``hparams`` to a recipe: a name, values, changes, a function or a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

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
            "hparams: expected the recipe to return an HParams or a dict; got "
            f"{type(values).__name__}."
        )


def resolve_recipe(hparams: RecipeLike) -> Recipe:
    """A recipe from what a user gives.

    Parameters
    ----------
    hparams
        A recipe's name; the path of a TOML file (a :class:`~pathlib.Path`, or a text that ends in
        ``.toml``), see :func:`read_recipe`; an :class:`HParams` for every run; a dict of changes to
        the recipe that its key ``"recipe"`` names, by default ``"default"``; or a function
        ``(params, units, unit)`` that returns an :class:`HParams` or such a dict.

    Raises
    ------
    InputError
        There is no such recipe, or the file holds none.
    InputTypeError
        It is none of these.
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
    if isinstance(hparams, RecipeTable):
        return hparams
    if callable(hparams):
        return Own(hparams)
    raise InputTypeError(
        "hparams: expected a recipe's name, the path of a TOML file, a dict, an HParams or a "
        f"function (params, units, unit) -> HParams; got {type(hparams).__name__}."
    )


def text_rule(recipe: Recipe) -> str | None:
    """The rule for tokens of text by which a recipe sets rates or batches, if it has one.

    A user's function is not examined.
    """
    if isinstance(recipe, Own):
        return text_rule(recipe.function)  # type: ignore[arg-type]
    if isinstance(recipe, Changed):
        return None if set(recipe.values) >= _DECIDING else text_rule(recipe.base)
    if isinstance(recipe, RecipeTable):
        own = {*recipe.values, *recipe.laws} >= _DECIDING
        return None if own or recipe.base is None else text_rule(recipe.base)
    return next((name for name, rule in PUBLISHED.items() if rule is recipe), None)
