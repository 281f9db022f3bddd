"""Names, dicts, values, files and functions all become recipes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from flops_fit.errors import InputError, InputTypeError
from flops_fit.recipes import (
    RECIPES,
    HParams,
    RecipePowerLaw,
    RecipeTable,
    resolve_recipe,
    steplaw2025,
)
from flops_fit.recipes.resolve import text_rule
from flops_fit.records import ParamCount

SIZE = ParamCount(2000, 1000, 1000, 2000)


def test_a_dict_changes_the_default() -> None:
    made = resolve_recipe({"lr": 0.5})(SIZE, 1e6, "tokens")
    assert made.lr == 0.5
    assert made.batch_units == resolve_recipe("default")(SIZE, 1e6, "tokens").batch_units
    assert made.recipe == "custom"


def test_a_function_and_fixed_values_are_recipes() -> None:
    fixed = HParams(lr=0.1, batch_units=10)
    assert resolve_recipe(fixed)(SIZE, 1e6, "tokens") == fixed
    assert (
        resolve_recipe(lambda p, u, unit: HParams(lr=1 / p.total, batch_units=4))(SIZE, 1, "t").lr
        == 5e-4
    )
    assert resolve_recipe(lambda p, u, unit: {"lr": 0.3})(SIZE, 1e6, "tokens").lr == 0.3


def test_an_unknown_recipe_names_the_near_one() -> None:
    with pytest.raises(
        InputError, match="expected one of .*; got 'defualt'.*Did you mean 'default'"
    ):
        resolve_recipe("defualt")


@pytest.mark.parametrize("value", [3, None])
def test_what_is_no_recipe_is_a_type_error(value: object) -> None:
    with pytest.raises(InputTypeError, match="hparams: expected"):
        resolve_recipe(value)


def test_a_recipe_that_returns_something_else_is_told() -> None:
    with pytest.raises(InputTypeError, match="expected the recipe to return"):
        resolve_recipe(lambda p, u, unit: 0.1)(SIZE, 1e6, "tokens")


def test_a_dict_may_name_what_it_changes() -> None:
    made = resolve_recipe({"recipe": "steplaw2025", "weight_decay": 0.0})(SIZE, 1e6, "tokens")
    base = steplaw2025(SIZE, 1e6, "tokens")
    assert made.weight_decay == 0.0
    assert (made.lr, made.batch_units, made.final) == (base.lr, base.batch_units, base.final)
    assert made.recipe == "steplaw2025-1+weight_decay"


def test_naming_the_default_changes_nothing() -> None:
    """The runs keep their ids."""
    named, unnamed = (
        resolve_recipe({**base, "lr": 0.5})(SIZE, 1e6, "tokens")
        for base in ({"recipe": "default"}, {})
    )
    assert named == unnamed


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"recipe": "steplaw"}, InputError, 'hparams."recipe".*Did you mean .steplaw2025'),
        ({"recipe": 3}, InputTypeError, "expected the name of a recipe.*got int"),
    ],
)
def test_a_base_that_is_none_is_told_before_any_run(
    given: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        resolve_recipe(given)


def test_a_name_that_ends_like_a_file_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('name = "lab-3"\nbase = "constant"\nlr = 0.25\n')
    for given in (file, str(file)):
        made = resolve_recipe(given)(SIZE, 1e6, "tokens")
        assert (made.recipe, made.lr, made.beta2) == ("lab-3", 0.25, 0.999)


def test_recipes_travel_to_other_processes(tmp_path: Path) -> None:
    file = tmp_path / "rules.toml"
    file.write_text('name = "lab-3"\nbase = "porian2024"\n[lr]\ncoefficient = 1.0\n')
    for given in (*RECIPES, {"lr": 0.1}, HParams(lr=0.1, batch_units=3), steplaw2025, file):
        recipe = resolve_recipe(given)
        back = pickle.loads(pickle.dumps(recipe))
        assert back == recipe
        assert back(SIZE, 1e6, "tokens") == recipe(SIZE, 1e6, "tokens")


LAW = RecipePowerLaw(1.0)


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ("steplaw2025", "steplaw2025"),
        ("default", None),
        ("constant", None),
        ({"recipe": "porian2024", "beta2": 0.9}, "porian2024"),
        ({"recipe": "porian2024", "lr": 0.1}, "porian2024"),
        ({"recipe": "porian2024", "lr": 0.1, "batch_units": 8}, None),
        ({"lr": 0.1}, None),
        (RecipeTable("own", {}, {"lr": LAW}, steplaw2025), "steplaw2025"),
        (RecipeTable("own", {"batch_units": 8.0}, {"lr": LAW}, steplaw2025), None),
        (RecipeTable("own", {"batch_units": 8.0}, {"lr": LAW}), None),
        (steplaw2025, "steplaw2025"),
        (lambda p, u, unit: {"lr": 0.1}, None),
    ],
)
def test_what_was_fitted_on_text_is_known_as_such(given: Any, rule: str | None) -> None:
    """As long as it decides rate or batch."""
    assert text_rule(resolve_recipe(given)) == rule
