"""From what a user gives as ``hparams`` to a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flops_fit.errors import InputTypeError
from flops_fit.hparams import HParams
from flops_fit.recipes.custom import Changed, Fixed, Own, named
from flops_fit.recipes.published import PUBLISHED, Recipe
from flops_fit.recipes.table import RecipeTable, read_recipe

RecipeLike = str | Path | Recipe | Mapping[str, Any] | HParams
_DECIDING = {"lr", "batch_units"}


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
        return _checked(Changed(dict(hparams)))
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

    A user's function is not looked into.
    """
    if isinstance(recipe, Own):
        return text_rule(recipe.function)
    if isinstance(recipe, Changed):
        return None if set(recipe.values) >= _DECIDING else text_rule(recipe.base)
    if isinstance(recipe, RecipeTable):
        own = {*recipe.values, *recipe.laws} >= _DECIDING
        return None if own or recipe.base is None else text_rule(recipe.base)
    return next((name for name, rule in PUBLISHED.items() if rule is recipe), None)


def _checked(changed: Changed) -> Changed:
    """The same, refused at once where it names no recipe."""
    _ = changed.base
    return changed
