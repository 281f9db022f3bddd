"""Published recipes give the published values, and values that can be trained with anywhere."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.recipes import (
    RECIPES,
    HParams,
    Recipe,
    chinchilla2022,
    deepseek2024,
    porian2024,
    steplaw2025,
)
from flops_fit.records import ParamCount
from tests.recipes._sizes import params

NAMES = sorted(RECIPES)
SIZES = st.floats(3, 12).map(lambda power: params(int(10**power)))
LENGTHS = st.floats(4, 14).map(lambda power: 10**power)


@pytest.mark.parametrize(
    ("n", "tokens", "lr", "batch"),
    [
        (214_663_680, 2e10, 3.910e-3, 524_288),
        (429_260_800, 4e10, 2.760e-3, 524_288),
        (429_260_800, 8e9, 1.953e-3, 262_144),
        (536_872_960, 2.84e10, 1.950e-3, 393_216),
        (1_073_741_824, 5.69e10, 1.381e-3, 524_288),
        (1_073_741_824, 2e10, 1.381e-3, 524_288),
    ],
)
def test_the_step_law_lies_near_the_best_runs_of_its_grid(
    n: int, tokens: float, lr: float, batch: float
) -> None:
    """The best of the released dense runs at six sizes and lengths, whose grid is coarse."""
    made = steplaw2025(params(n), tokens, "tokens")
    assert abs(math.log2(made.lr / lr)) < 1
    assert abs(math.log2(made.batch_units / batch)) < 1


def test_the_step_law_has_the_published_values() -> None:
    """Worked by hand: 1e9^−0.713 is 10^−6.417, 1e11^0.307 is 10^3.377, 1e11^0.571 is 10^6.281."""
    made = steplaw2025(params(10**9), 1e11, "tokens")
    assert made.lr == pytest.approx(1.79 * 10**-3.04, rel=1e-9)
    assert made.batch_units == pytest.approx(0.58 * 10**6.281, rel=1e-9)
    assert made.lr * made.final == pytest.approx(1e-5)
    assert made.warmup == pytest.approx(2000 * made.batch_units / 1e11)


@pytest.mark.parametrize(
    ("n", "lr", "sequences"), [(6.5e9, 4.2e-4, 2304), (66e9, 3.2e-4, 4608)], ids=["7B", "67B"]
)
def test_deepseek_trained_its_models_by_its_rule(n: float, lr: float, sequences: int) -> None:
    """7B and 67B, 2e12 tokens in sequences of 4,096."""
    made = deepseek2024(params(int(n)), 2e12, "tokens")
    assert made.lr == pytest.approx(lr, rel=0.03)
    assert made.batch_units == pytest.approx(4096 * sequences, rel=0.05)
    assert (made.weight_decay, made.beta2, made.clip) == (0.1, 0.95, 1.0)


def test_deepseek_knows_a_run_by_its_flops_alone() -> None:
    one, other = deepseek2024(params(10**8), 1e10, "tokens"), deepseek2024(params(10**9), 1e9, "")
    assert one.lr == pytest.approx(other.lr)


@pytest.mark.parametrize(
    ("n", "lr", "batch"),
    [
        (44e6, 6e-4, 0.25e6),
        (117e6, 6e-4, 0.25e6),
        (417e6, 2e-4, 0.25e6),
        (1.4e9, 2e-4, 0.25e6),
        (7.1e9, 1.2e-4, 2e6),
    ],
)
def test_the_gopher_family_has_its_table(n: float, lr: float, batch: float) -> None:
    made = chinchilla2022(params(int(n)), 3e11, "tokens")
    assert made.lr == pytest.approx(lr)
    assert made.batch_units == pytest.approx(batch)
    assert made.final == 0.1
    assert made.warmup == pytest.approx(1500 * batch / 3e11)


def test_chinchilla_has_its_own_values() -> None:
    """Its batch doubles from 1.5M to 3M on the way."""
    made = chinchilla2022(params(70 * 10**9), 1.4e12, "tokens")
    assert made.lr == pytest.approx(1e-4)
    assert 1.5e6 < made.batch_units < 3e6


def test_porian_has_both_roundings_of_its_fit() -> None:
    """At 108M exactly what their figure says, elsewhere within a few percent of the unrounded."""
    made = porian2024(params(108_000_000), 2.16e9, "tokens")
    assert made.lr == pytest.approx(0.0047)
    assert made.batch_units == pytest.approx(160 * 2048)
    assert made.warmup == pytest.approx(108 / 2160)
    assert made.schedule == "constant"
    for n in (25e6, 50e6, 108e6):
        made = porian2024(params(int(n)), 20 * n, "tokens")
        assert made.lr == pytest.approx(3.7 * n**-0.36, rel=0.05)
        assert made.batch_units == pytest.approx(0.7576 * n**0.703, rel=0.08)


def test_porian_remembers_longer_in_small_batches() -> None:
    """128 sequences are the optimum of 77M."""
    small, large = (porian2024(params(n), 20.0 * n, "tokens") for n in (76_000_000, 79_000_000))
    assert small.batch_units < 128 * 2048 < large.batch_units
    assert (small.beta2, large.beta2) == (0.99, 0.95)
    assert small.lr * small.weight_decay == pytest.approx(1e-4)


def exponents(recipe: Recipe, n: float, d: float, value: str) -> tuple[float, float]:
    """Of a value in N and in D, by differences of the logarithm."""

    def at(n: float, d: float) -> float:
        return math.log(getattr(recipe(params(round(n)), d, "tokens"), value))

    step = math.log(1.1)
    return (at(1.1 * n, d) - at(n, d)) / step, (at(n, 1.1 * d) - at(n, d)) / step


@given(st.floats(7, 11), st.floats(9, 12))
def test_values_grow_and_fall_by_the_published_exponents(a: float, b: float) -> None:
    n, d = 10**a, 10**b
    for recipe, value, expected in (
        (steplaw2025, "lr", (-0.713, 0.307)),
        (steplaw2025, "batch_units", (0.0, 0.571)),
        (deepseek2024, "lr", (-0.125, -0.125)),
        (porian2024, "lr", (-1 / 3, 0.0)),
    ):
        assert exponents(recipe, n, d, value) == pytest.approx(expected, abs=1e-5)


@given(st.floats(7, 11))
def test_batches_by_size_or_flops_follow_them_near_twenty_tokens_a_parameter(a: float) -> None:
    n = 10**a
    deepseek, porian = (exponents(r, n, 1e3 * n, "batch_units") for r in (deepseek2024, porian2024))
    assert deepseek == pytest.approx((0.3271, 0.3271), abs=1e-5)
    assert porian == pytest.approx((2 / 3, 0.0), abs=1e-5)


@given(SIZES, LENGTHS)
def test_every_recipe_can_be_trained_with_at_any_size_and_length(
    size: ParamCount, units: float
) -> None:
    """HParams refuses what cannot; besides a batch fits into the run and a warmup is short."""
    for name in NAMES:
        made = RECIPES[name](size, units, "tokens")
        assert isinstance(made, HParams)
        assert made.recipe == {"default": "default-2", "default-1": name}.get(name, f"{name}-1")
        assert 1 <= made.batch_units <= units
        assert made.warmup <= 0.1


@given(SIZES, LENGTHS)
def test_a_recipe_is_a_function_of_its_arguments_alone(size: ParamCount, units: float) -> None:
    for name in NAMES:
        recipe = RECIPES[name]
        first = recipe(size, units, "tokens")
        recipe(params(7), 1e5, "samples")
        assert recipe(size, units, "tokens") == first


@given(SIZES, SIZES, LENGTHS)
def test_no_larger_model_has_a_larger_rate(a: ParamCount, b: ParamCount, units: float) -> None:
    small, large = sorted((a, b), key=lambda size: size.total)
    for name in NAMES:
        recipe = RECIPES[name]
        rates = [recipe(size, units, "tokens").lr for size in (small, large)]
        assert rates[1] <= rates[0] * (1 + 1e-12)


def test_every_recipe_says_whence_it_is() -> None:
    for name, recipe in RECIPES.items():
        assert "arXiv" in (recipe.__doc__ or ""), name
