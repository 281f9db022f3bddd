"""Hyper-parameters are pure functions, and the schedule ends where the run does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import InputError, InputTypeError
from flops_fit.recipes import HParams, learning_rate, resolve_recipe
from flops_fit.records import ParamCount

SIZE = ParamCount(2000, 1000, 1000, 2000)


def params(n: int) -> ParamCount:
    return ParamCount(n, n, n, n)


def test_the_default_follows_the_published_sizes() -> None:
    # Brown et al. 2020, Table 2.1, within a third.
    recipe = resolve_recipe("default")
    for n, lr in (
        (125e6, 6e-4),
        (350e6, 3e-4),
        (760e6, 2.5e-4),
        (1.3e9, 2e-4),
        (6.7e9, 1.2e-4),
        (13e9, 1e-4),
    ):
        assert recipe(params(int(n)), 1e9, "tokens").lr == pytest.approx(lr, rel=0.35)


@given(st.floats(0.0, 1.0), st.floats(0.0, 0.5), st.sampled_from(["cosine", "constant"]))
def test_the_learning_rate_stays_below_its_peak(
    progress: float, warmup: float, schedule: str
) -> None:
    rate = learning_rate({"lr": 0.1, "warmup": warmup, "schedule": schedule}, progress)
    assert 0 <= rate <= 0.1


def test_the_cosine_ends_at_zero_and_the_warmup_at_the_peak() -> None:
    hparams = {"lr": 0.1, "warmup": 0.1, "schedule": "cosine"}
    assert learning_rate(hparams, 0.05) == pytest.approx(0.05)
    assert learning_rate(hparams, 0.1) == pytest.approx(0.1)
    assert learning_rate(hparams, 0.55) == pytest.approx(0.05)
    assert learning_rate(hparams, 1.0) == pytest.approx(0.0, abs=1e-12)


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
    with pytest.raises(InputError, match="no recipe is called 'defualt'.*Did you mean 'default'"):
        resolve_recipe("defualt")


@pytest.mark.parametrize("value", [3, None])
def test_what_is_no_recipe_is_a_type_error(value: object) -> None:
    with pytest.raises(InputTypeError, match="hparams: expected"):
        resolve_recipe(value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learning_rate": 1}, "unknown"),
        ({"lr": -1.0}, "positive lr"),
        ({"lr": float("nan")}, "positive lr"),
        ({"warmup": 1.5}, "warmup"),
        ({"schedule": "cosin"}, "schedule"),
    ],
)
def test_unusable_values_are_told(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve_recipe(values)(SIZE, 1e6, "tokens")


def test_a_recipe_that_returns_something_else_is_told() -> None:
    with pytest.raises(InputTypeError, match="expected the recipe to return"):
        resolve_recipe(lambda p, u, unit: 0.1)(SIZE, 1e6, "tokens")
