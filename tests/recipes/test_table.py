"""A TOML table holds a recipe: the same as in code, refused where it says nothing that could be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import FlopsFitError, InputError
from flops_fit.recipes import (
    HParams,
    RecipePowerLaw,
    RecipeTable,
    deepseek2024,
    default,
    read_recipe,
    steplaw2025,
    timescale_weight_decay,
)
from flops_fit.records import ParamCount

SIZE = ParamCount(total=2000, non_embedding=1000, matmul=1500, active=2000, width=10)


def written(folder: Path, text: str) -> Path:
    path = folder / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_published_rules_can_be_written_as_tables(tmp_path: Path) -> None:
    """Equal to the code at every size, but for the name and what is no power law."""
    step_law = read_recipe(
        written(
            tmp_path,
            """
            name = "step-law"
            base = "steplaw2025"
            [lr]
            coefficient = 1.79
            params = -0.713
            units = 0.307
            [batch_units]
            coefficient = 0.58
            units = 0.571
            min = 1
            """,
        )
    )
    deepseek = read_recipe(
        written(
            tmp_path,
            """
            name = "by-flops"
            base = "deepseek2024"
            lr = {coefficient = 0.3118, compute = -0.125}
            """,
        )
    )
    for n, d in ((10**5, 1e7), (10**9, 1e11)):
        size = ParamCount(2 * n, n, n, n)
        for table, code in ((step_law, steplaw2025), (deepseek, deepseek2024)):
            made, expected = table(size, d, "tokens"), code(size, d, "tokens")
            assert made.recipe == table.name
            assert made.lr == pytest.approx(expected.lr)
            assert made.batch_units == pytest.approx(expected.batch_units)
            assert made.warmup == pytest.approx(expected.warmup)
            assert (made.schedule, made.final) == (expected.schedule, expected.final)


def test_without_a_base_the_rest_has_its_own_defaults(tmp_path: Path) -> None:
    text = 'name = "all"\nlr = 1\nbatch_units = 64\nschedule = "wsd"\nwarmup_units = 5\n'
    made = read_recipe(written(tmp_path, text))(SIZE, 1e6, "tokens")
    expected = HParams(lr=1.0, batch_units=64.0, schedule="wsd", warmup_units=5.0, recipe="all")
    assert made == expected
    assert isinstance(made.lr, float)  # an id tells 1 from 1.0


def test_a_base_chooses_what_the_table_does_not(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, 'name = "mine"\nbase = "default"\nbeta2 = 0.9\n'))
    made, base = recipe(SIZE, 1e6, "tokens"), default(SIZE, 1e6, "tokens")
    assert (made.lr, made.batch_units) == (base.lr, base.batch_units)
    assert (made.beta2, made.recipe) == (0.9, "mine")


def test_the_size_is_what_the_table_says(tmp_path: Path) -> None:
    text = """
        name = "sizes"
        size = "total"
        lr = {coefficient = 1.0, params = -1.0}
        batch_units = {coefficient = 1.0, params = 1.0, size = "matmul"}
    """
    made = read_recipe(written(tmp_path, text))(SIZE, 1e6, "tokens")
    assert made.lr == 1 / SIZE.total
    assert made.batch_units == SIZE.matmul


def test_a_table_may_ask_for_the_timescale(tmp_path: Path) -> None:
    text = 'name = "t"\nlr = 0.01\nbatch_units = 100\nweight_decay = "timescale"\n'
    made = read_recipe(written(tmp_path, text))(SIZE, 1e6, "tokens")
    assert made.weight_decay == timescale_weight_decay(0.01, 100.0, SIZE, 1e6)


@given(st.floats(-2, 2), st.floats(-2, 2), st.floats(-2, 2), st.floats(-1, 1), st.floats(1e-6, 1e6))
def test_a_power_law_is_the_product_of_its_powers(
    params: float, units: float, width: float, compute: float, coefficient: float
) -> None:
    law = RecipePowerLaw(coefficient, params, units, width, compute)
    n, d, w = SIZE.non_embedding, 1e6, SIZE.width
    expected = coefficient * n**params * d**units * w**width * (6 * n * d) ** compute
    assert law(SIZE, d) == pytest.approx(expected)
    bounded = RecipePowerLaw(coefficient, params, units, width, compute, min=0.5, max=2.0)
    assert bounded(SIZE, d) == pytest.approx(min(max(expected, 0.5), 2.0))


def test_a_width_that_is_not_known_is_told() -> None:
    with pytest.raises(InputError, match="width of this model is not known.*Use params"):
        RecipePowerLaw(1.0, width=-1.0)(ParamCount(10, 10, 10, 10), 100.0)


def test_a_law_that_overflows_is_told() -> None:
    with pytest.raises(InputError, match="gives no finite number for N = 1000 and D = 1e"):
        RecipePowerLaw(1.0, units=100.0)(SIZE, 1e6)
    assert RecipePowerLaw(1.0, units=100.0, max=3.0)(SIZE, 1e6) == 3.0


FULL = 'name = "n"\nlr = 0.1\nbatch_units = 1\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr = 1", "expected name = .*got None"),
        ('name = ""', "expected name = "),
        ("name = 3", "expected name = .*got 3"),
        ("name = ", "is not TOML"),
        pytest.param("name = " + "[" * 9999, "is not TOML", id="deep"),
        ('name = "n"\nlr = 0.1', "expected batch_units, as there is no base"),
        ('name = "n"', "expected lr and batch_units, as there is no base"),
        ('name = "n"\nbase = "steplaw"', "base: expected one of .*Did you mean 'steplaw2025'"),
        ('name = "n"\nbase = 3', "base: expected the name of a recipe"),
        (FULL + "weight_decy = 0.1", "got 'weight_decy'.*Did you mean 'weight_decay'"),
        (FULL + 'recipe = "x"', "got 'recipe'"),
        (FULL + "beta2 = 1.5", "expected beta2 from 0 to below 1; got 1.5"),
        (FULL + 'beta2 = "high"', "beta2: expected a number; got 'high'"),
        (FULL + "clip = true", "clip: expected a number; got True"),
        (FULL + "warmup = nan", "warmup: expected a number; got nan"),
        (FULL + 'schedule = "cosin"', "schedule: expected one of"),
        (FULL + 'weight_decay = "timescal"', "weight_decay: expected a number; got 'timescal'"),
        (FULL + 'size = "big"', r"size: expected one of \['total'.*got 'big'"),
        (FULL + "[schedule]\ncoefficient = 1", "expected schedule to be a name"),
        (FULL + "[clip]\nparams = 1", r"\[clip\] expected a coefficient above 0; got None"),
        (FULL + "[clip]\ncoefficient = -1", r"\[clip\] expected a coefficient above 0; got -1"),
        (FULL + "[clip]\ncoefficient = 1\nparam = 1", "got 'param'.*mean 'params'"),
        (FULL + '[clip]\ncoefficient = "1"', r"\[clip\] coefficient: expected a number; got '1'"),
        (FULL + "[clip]\ncoefficient = 1\nmin = 2\nmax = 1", "expected min of at most max"),
        (FULL + '[clip]\ncoefficient = 1\nsize = "n"', r"\[clip\] size: expected one of"),
    ],
)
def test_what_a_table_cannot_mean_is_told_with_its_place(
    text: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(FlopsFitError, match=f"rules.toml: .*{words}"):
        read_recipe(written(tmp_path, text))


def test_a_table_made_in_code_needs_as_much() -> None:
    with pytest.raises(InputError, match="expected batch_units, as there is no base"):
        RecipeTable("own", {}, {"lr": RecipePowerLaw(1.0)})


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none.toml: cannot be read: No such file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match="cannot be read"):
        read_recipe(tmp_path)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "rules.toml"
    path.write_bytes(b"name = \xff")
    with pytest.raises(InputError, match="rules.toml: is not TOML"):
        read_recipe(path)
