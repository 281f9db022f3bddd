"""Recipes from what a user gives: values, functions, changes to other recipes, TOML files of power laws."""

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from flops_fit.errors import FlopsFitError, InputError, InputTypeError, check_choice, is_number
from flops_fit.hparams import HParams
from flops_fit.recipes.published import (
    PUBLISHED,
    TIMESCALE,
    Recipe,
    default,
    named,
    timescale_weight_decay,
)
from flops_fit.records import ParamCount

RecipeLike = str | Path | Recipe | Mapping[str, Any] | HParams
SizeName = Literal["total", "non_embedding", "matmul", "active"]
SIZES = get_args(SizeName)


@dataclass(frozen=True)
class Fixed:
    """The same values for every run."""

    hparams: HParams

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The hyper-parameters of one run."""
        return self.hparams


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
            return changed(values)(params, units, unit)
        raise InputTypeError(
            f"hparams: expected the recipe to return an HParams or a dict; got {type(values).__name__}."
        )


@dataclass(frozen=True)
class TunedRecipe:
    """A recipe times factors that tuning found: lr_base(N, D)·f(N) and batch_base(N, D)·g.

    ``lr`` has (N, f) of each knot, ascending in N; ln f is linear in ln N between them, and constant
    beyond. ``batch`` is g; ``name`` is appended to the base's name on every run. With a ``reference`` the
    rate also follows the square root of the base's batch, relative to this one.

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
    # Malladi et al. 2022 (arXiv:2205.10287) for Adam. A batch that grows as D^0.571 takes the rate to
    # D^0.29, where Li et al. 2025 (arXiv:2503.04715) measured D^0.307.
    reference: float | None = None

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The base's values at this size and length, times the factors."""
        hparams = self.base(params, units, unit)
        coupling = math.sqrt(hparams.batch_units / self.reference) if self.reference else 1.0
        return replace(
            hparams,
            lr=hparams.lr * self.factor(params.total) * coupling,
            batch_units=hparams.batch_units * self.batch,
            recipe=f"{hparams.recipe} + {self.name}" if self.name else hparams.recipe,
        )

    def factor(self, params: float) -> float:
        """The factor f on the rate at this N."""
        sizes, factors = zip(*self.lr, strict=True)
        return math.exp(float(np.interp(math.log(params), np.log(sizes), np.log(factors))))


def coupled(base: Recipe, params: ParamCount, lengths: Sequence[float], unit: str) -> Recipe:
    """A recipe whose rate does not change with length while its batch does, coupled to its mean batch."""
    first, later = (base(params, units, unit) for units in (lengths[0], 100 * lengths[0]))
    if first.lr != later.lr or first.batch_units == later.batch_units:
        return base
    batches = [base(params, units, unit).batch_units for units in lengths]
    return TunedRecipe(base, reference=float(np.exp(np.mean(np.log(batches)))))


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
        return changed(hparams)
    if callable(hparams):
        return hparams if isinstance(hparams, RecipeTable) else Own(hparams)
    raise InputTypeError(
        "hparams: expected a recipe's name, the path of a TOML file, a dict, an HParams or a "
        f"function (params, units, unit) -> HParams; got {type(hparams).__name__}."
    )


def text_rule(recipe: Recipe) -> str | None:
    """The rule for tokens of text by which a recipe sets rates or batches; none of a user's function."""
    if isinstance(recipe, Own):
        return text_rule(recipe.function)  # type: ignore[arg-type]  # callable
    if isinstance(recipe, RecipeTable):
        own = {*recipe.values, *recipe.laws}.issuperset(_NEEDED)
        return None if own or recipe.base is None else text_rule(recipe.base)
    return next((name for name, rule in PUBLISHED.items() if rule is recipe), None)


@dataclass(frozen=True)
class RecipePowerLaw:
    """coefficient·N^params·D^units·d^width·C^compute, kept between ``min`` and ``max``.

    D counts units, d is the model's width and C = 6·N·D. ``size`` says which of a model's counts N is: a
    field of :class:`~flops_fit.ParamCount`. The coefficient is above 0.

    >>> params = ParamCount(total=1200, non_embedding=1000, matmul=1000, active=1200)
    >>> RecipePowerLaw(2.0, params=-1.0, units=0.5)(params, 1e4)
    0.2
    """

    coefficient: float
    params: float = 0.0
    units: float = 0.0
    width: float = 0.0
    compute: float = 0.0
    min: float = 0.0
    max: float = math.inf
    size: SizeName = "non_embedding"

    def __call__(self, params: ParamCount, units: float) -> float:
        """The value for a run; InputError if a width is unknown or the value not finite."""
        n = float(getattr(params, self.size))
        if self.width and not params.width:
            raise InputError(
                "hparams: a power law in the width was given, but the width of this model is not "
                "known, as it shows no weights of two dimensions. Use params in place of width."
            )
        try:
            value = (
                self.coefficient
                * n**self.params
                * units**self.units
                * (float(params.width) ** self.width if self.width else 1.0)
                * (6 * n * units) ** self.compute
            )
        except OverflowError:
            value = math.inf
        bounded = float(min(max(value, self.min), self.max))
        if not math.isfinite(bounded):
            raise InputError(
                f"hparams: {self} gives no finite number for N = {n:g} and D = {units:g}. Check the "
                "signs of its exponents, or give max."
            )
        return bounded


_FIELDS = tuple(f.name for f in fields(HParams) if f.init and f.name != "recipe")
_NEEDED = ("lr", "batch_units")  # the fields of HParams without a default
_UNSET = HParams(lr=1.0, batch_units=1.0)  # a table without a base sets both
_LAW_KEYS = tuple(field.name for field in fields(RecipePowerLaw))


@dataclass(frozen=True)
class RecipeTable:
    """A recipe of plain values and power laws.

    ``values`` and ``laws`` give fields of :class:`HParams`; ``weight_decay`` may be ``"timescale"``, see
    :func:`timescale_weight_decay`. The recipe ``base`` chooses all others; without it they have their
    defaults, and InputError is raised where ``lr`` or ``batch_units`` is missing.

    >>> laws = {"lr": RecipePowerLaw(2.0, params=-0.5)}
    >>> rules = RecipeTable("lab-3", {"batch_units": 64.0}, laws)
    >>> rules(ParamCount(total=12_000, non_embedding=10_000, matmul=10_000, active=12_000), 1e6, "").lr
    0.02
    """

    name: str  # empty: after the base and what is changed
    values: Mapping[str, Any]
    laws: Mapping[str, RecipePowerLaw]
    base: Recipe | None = None

    def __post_init__(self) -> None:
        missing = [name for name in _NEEDED if name not in {*self.values, *self.laws}]
        if self.base is None and missing:
            raise InputError(
                f"hparams: expected {' and '.join(missing)}, as there is no base to choose them. Add "
                'them, or base = "default".'
            )

    def __call__(self, params: ParamCount, units: float, unit: str) -> HParams:
        """The values for one run."""
        by_law = {name: law(params, units) for name, law in self.laws.items()}
        base = _UNSET if self.base is None else self.base(params, units, unit)
        other = "custom" if self.base is default else "+".join([base.recipe, *sorted(self.values)])
        values = {**self.values, **by_law, "recipe": self.name or other}
        if values.get("weight_decay") != TIMESCALE:
            return replace(base, **values)
        hparams = replace(base, **{**values, "weight_decay": 0.0})
        decay = timescale_weight_decay(hparams.lr, hparams.batch_units, params, units)
        return replace(hparams, weight_decay=decay)


def changed(values: Mapping[str, Any]) -> RecipeTable:
    """The recipe that the value ``recipe`` names, by default ``"default"``, with the other ``values``."""
    base = named(values.get("recipe", "default"), 'hparams["recipe"]')
    known = {*_FIELDS, "recipe"}
    if unknown := set(values) - known:
        raise InputError(f"hparams: unknown {sorted(unknown)}; known are {sorted(known)}.")
    return RecipeTable("", {k: v for k, v in values.items() if k != "recipe"}, {}, base)


def read_recipe(path: str | Path) -> RecipeTable:
    """Read a recipe from a TOML file.

    Its keys are ``name``, optionally ``base`` (a recipe's name) and ``size`` (which count of a model N is,
    for all laws), and fields of :class:`HParams`: each a value, or a table with the keys of
    :class:`RecipePowerLaw`. Without a base, ``lr`` and ``batch_units`` have to be there. InputError where
    the file cannot be read, is not TOML, or a key is unknown, missing or of the wrong type.
    """
    try:
        return _recipe(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        why = f"cannot be read: {error.strerror or error}. Check the path."
        raise InputError(f"hparams: {path}: {why}") from error
    except FlopsFitError as error:
        raise type(error)(f"hparams: {path}: {str(error).removeprefix('hparams: ')}") from error
    except (ValueError, RecursionError) as error:  # of TOML, or of UTF-8
        raise InputError(f"hparams: {path}: is not TOML: {error}. Fix it there.") from error


def _recipe(content: dict[str, Any]) -> RecipeTable:
    _check_keys("", content, ("name", "base", "size", *_FIELDS))
    name = content.pop("name", None)
    if not isinstance(name, str) or not name.strip():
        raise InputError(f'expected name = "…", the name of this recipe; got {name!r}.')
    base = named(content.pop("base"), "base") if "base" in content else None
    size = content.pop("size", RecipePowerLaw.size)
    laws = {k: _law(k, v, size) for k, v in content.items() if isinstance(v, dict)}
    check_choice("size", size, SIZES)
    values = {k: v for k, v in content.items() if k not in laws}
    decay = ("weight_decay", TIMESCALE)
    words = {k: v for k, v in values.items() if k == "schedule" or (k, v) == decay}
    numbers: dict[str, Any] = {k: _number(k, v) for k, v in values.items() if k not in words}
    # Values that no run can have are refused now, when the file is read.
    trial = replace(_UNSET, **numbers)
    replace(trial, cooldown=1.0, warmup=0.0, schedule=words.get("schedule", "cosine"))
    return RecipeTable(name, {**numbers, **words}, laws, base)


def _law(name: str, table: Mapping[str, Any], size: Any) -> RecipePowerLaw:
    if name == "schedule":
        raise InputError('expected schedule to be a name such as "cosine"; got a table.')
    _check_keys(f"[{name}] ", table, _LAW_KEYS)
    given = {"size": size, **table}
    check_choice(f"[{name}] size", given["size"], SIZES)
    for key in _LAW_KEYS[:-1]:
        if key in given:
            given[key] = _number(f"[{name}] {key}", given[key])
    if given.get("coefficient", 0.0) <= 0:
        coefficient = table.get("coefficient")
        raise InputError(f"[{name}] expected a coefficient above 0; got {coefficient!r}.")
    law = RecipePowerLaw(**given)
    if law.min > law.max:
        raise InputError(f"[{name}] expected min of at most max; got {law.min:g} and {law.max:g}.")
    return law


def _number(what: str, value: Any) -> float:
    if not is_number(value, infinite=True):
        raise InputError(f"{what}: expected a number; got {value!r}.")
    return float(value)


def _check_keys(where: str, table: Iterable[str], known: tuple[str, ...]) -> None:
    for key in table:
        check_choice(f"{where}key", key, known)
