"""What AdamW remembers stays the same in units, and as long as a run needs it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import InputError
from flops_fit.recipes import resolve_recipe, scaled_beta2, timescale_weight_decay
from flops_fit.records import ParamCount
from tests.recipes._sizes import params


@given(st.floats(0.5, 0.9999), st.floats(0.1, 1e7), st.floats(0.1, 1e7))
def test_beta2_keeps_its_half_life_in_units(beta2: float, batch: float, other: float) -> None:
    scaled = scaled_beta2(beta2, other, batch)
    if 1e-300 < scaled < 1 - 1e-9:
        half_life = batch * math.log(0.5) / math.log(beta2)
        assert other * math.log(0.5) / math.log(scaled) == pytest.approx(half_life, rel=1e-5)


@pytest.mark.parametrize("values", [(1.0, 1, 1), (0.0, 1, 1), (0.9, 0, 1), (0.9, 1, math.inf)])
def test_a_beta2_that_cannot_be_scaled_is_told(values: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="expected a"):
        scaled_beta2(*values)


@given(st.floats(1e-6, 1.0), st.floats(1, 1e7), st.integers(10**3, 10**12), st.floats(1e4, 1e14))
def test_the_decay_has_the_published_timescale(lr: float, batch: float, n: int, d: float) -> None:
    """Bergsma et al. 2025: B/(ηλD) = 1.084·(D/N)^−0.527."""
    decay = timescale_weight_decay(lr, batch, params(n), d)
    assert batch / (lr * decay * d) == pytest.approx(1.084 * (d / n) ** -0.527)
    assert timescale_weight_decay(lr, 2 * batch, params(n), d) == pytest.approx(2 * decay)


def test_at_one_unit_a_parameter_the_timescale_is_the_coefficient() -> None:
    decay = timescale_weight_decay(0.01, 10.0, params(10_000), 10_000.0)
    assert decay == pytest.approx(10 / (0.01 * 10_000 * 1.084))


@pytest.mark.parametrize("values", [(0.0, 1.0, 1.0), (0.1, -1.0, 1.0), (0.1, 1.0, math.nan)])
def test_a_decay_of_no_run_is_told(values: tuple[float, float, float]) -> None:
    lr, batch, units = values
    with pytest.raises(InputError, match="expected a positive number"):
        timescale_weight_decay(lr, batch, params(1000), units)


def test_a_dict_can_ask_for_the_timescale_by_name() -> None:
    """With the rate and the batch that the same dict gives."""
    size = ParamCount(2000, 1000, 1000, 2000)
    made = resolve_recipe({"weight_decay": "timescale", "lr": 0.5})(size, 1e6, "tokens")
    expected = timescale_weight_decay(0.5, made.batch_units, size, 1e6)
    assert made.weight_decay == expected
    own = resolve_recipe(lambda p, u, unit: {"weight_decay": "timescale", "lr": 0.5})
    assert own(size, 1e6, "tokens") == made


def test_another_word_for_a_decay_names_the_right_one() -> None:
    with pytest.raises(InputError, match="or 'timescale' in a dict"):
        resolve_recipe({"weight_decay": "timescal"})(params(1000), 1e6, "tokens")
