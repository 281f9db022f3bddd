"""Hyper-parameters are pure functions, and the schedule ends where the run does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import InputError, InputTypeError
from flops_fit.recipes import (
    HParams,
    check_warmup,
    is_finished,
    learning_rate,
    resolve_recipe,
    scaled_beta2,
)
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


SCHEDULES = ["cosine", "wsd", "constant"]
hparams = st.builds(
    lambda warmup, room, **rest: HParams(
        lr=0.1, batch_units=1, warmup=warmup, cooldown=max(room * (1 - warmup), 1e-3), **rest
    ),
    st.floats(0.0, 0.9),
    st.floats(0.0, 1.0),
    schedule=st.sampled_from(SCHEDULES),
    final=st.floats(0.0, 1.0),
)


def rate(progress: float, **values: Any) -> float:
    return learning_rate(HParams(lr=0.1, batch_units=1, **values).to_dict(), progress)


@given(hparams, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_rate_rises_in_the_warmup_and_never_after(made: HParams, a: float, b: float) -> None:
    first, second = (learning_rate(made.to_dict(), p) for p in sorted((a, b)))
    assert 0 <= first <= 0.1
    if min(a, b) >= made.warmup:
        assert second <= first
        assert second >= 0.1 * made.final * (1 - 1e-12)
    elif max(a, b) < made.warmup:
        assert second >= first


@given(hparams)
def test_a_schedule_ends_where_it_says_and_stays_there(made: HParams) -> None:
    end = 0.1 * (1.0 if made.schedule == "constant" else made.final)
    assert learning_rate(made.to_dict(), 1.0) == pytest.approx(end, abs=1e-9)
    assert learning_rate(made.to_dict(), 1.5) == learning_rate(made.to_dict(), 1.0)


@given(hparams, st.floats(0.0, 1.0))
def test_the_rate_has_no_jumps(made: HParams, progress: float) -> None:
    # 1 − √x falls steeply where its decay begins: by √(1e-9/cooldown) of the peak at most.
    near = learning_rate(made.to_dict(), progress + 1e-9)
    step = 0.1 * (math.sqrt(1e-9 / made.cooldown) + 1e-9 / max(made.warmup, 1e-9) + 1e-7)
    assert abs(near - learning_rate(made.to_dict(), progress)) <= step


def test_the_cosine_ends_at_zero_and_the_warmup_at_the_peak() -> None:
    assert rate(0.05) == pytest.approx(0.05)
    assert rate(0.1) == pytest.approx(0.1)
    assert rate(0.55) == pytest.approx(0.05)
    assert rate(1.0) == pytest.approx(0.0, abs=1e-12)


def test_the_cosine_is_that_of_torch() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50, eta_min=0.01)
    for step in range(51):
        ours = rate(step / 50, warmup=0.0, final=0.1)
        assert ours == pytest.approx(schedule.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        schedule.step()


def test_the_cool_down_falls_by_one_minus_the_square_root() -> None:
    """Hägele et al. 2024: after a quarter of it half of the rate is left."""
    values = {"schedule": "wsd", "warmup": 0.1, "cooldown": 0.4}
    assert rate(0.05, **values) == pytest.approx(0.05)
    assert rate(0.1, **values) == rate(0.35, **values) == rate(0.6, **values) == 0.1
    for done in (0.01, 0.25, 0.5, 0.81):
        expected = 0.1 * (1 - math.sqrt(done))
        assert rate(0.6 + 0.4 * done, **values) == pytest.approx(expected)
    assert rate(0.7, final=0.5, **values) == pytest.approx(0.075)
    assert rate(1.0, **values) == 0.0


@pytest.mark.parametrize("progress", [-0.1, math.nan])
def test_a_progress_that_is_none_is_told(progress: float) -> None:
    with pytest.raises(InputError, match="progress: expected a share"):
        rate(progress)


def test_an_unknown_schedule_is_told_by_the_rate_too() -> None:
    with pytest.raises(InputError, match="expected schedule in"):
        learning_rate({"lr": 0.1, "warmup": 0.1, "schedule": "step"}, 0.5)


@given(st.integers(1, 10**15), st.integers(0, 10**15))
def test_only_the_last_unit_is_the_end_of_a_schedule(planned: int, seen: int) -> None:
    assert is_finished(planned, planned)
    assert not is_finished(planned - 1, planned)
    assert not is_finished(seen % planned, planned)
    with pytest.raises(InputError, match="belongs to another run"):
        is_finished(planned + 1 + seen, planned)


@pytest.mark.parametrize(("seen", "planned"), [(-1, 5), (2.5, 5), (0, 0), (math.nan, 5)])
def test_what_is_no_count_is_told(seen: float, planned: int) -> None:
    with pytest.raises(InputError, match="seen: expected"):
        is_finished(seen, planned)  # type: ignore[arg-type]


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
        ({"schedule": "cosin"}, "schedule to be one of 'cosine', 'wsd', 'constant'"),
        ({"cooldown": 0}, "cooldown as a share"),
        ({"cooldown": 1.1}, "cooldown as a share"),
        ({"final": -0.1}, "final as a share of the peak"),
        ({"schedule": "wsd", "warmup": 0.5, "cooldown": 0.6}, "leave each other room"),
        ({"beta2": 1.0}, "beta2 from 0 to below 1"),
        ({"weight_decay": -0.1}, "weight_decay of 0 or more"),
    ],
)
def test_unusable_values_are_told(values: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve_recipe(values)(SIZE, 1e6, "tokens")


def test_a_recipe_that_returns_something_else_is_told() -> None:
    with pytest.raises(InputTypeError, match="expected the recipe to return"):
        resolve_recipe(lambda p, u, unit: 0.1)(SIZE, 1e6, "tokens")


@given(st.floats(0, 5e3), st.integers(10_000, 10**9), st.integers(10_000, 10**9))
def test_a_warmup_in_units_makes_the_rate_independent_of_the_length(
    warmup: float, a: int, b: int
) -> None:
    """Before the shorter run cools down, both have the same rate, bit by bit."""
    made = HParams(lr=0.013, batch_units=1, schedule="wsd", warmup_units=warmup, final=0.1)
    for share in (0.0, 0.1, 0.3, 0.79):
        seen = share * min(a, b)
        assert learning_rate(made.to_dict(), seen, a) == learning_rate(made.to_dict(), seen, b)


def test_a_warmup_in_units_is_the_share_that_it_is_of_a_run() -> None:
    """For every schedule, through to its end."""
    for schedule in SCHEDULES:
        values = {"lr": 0.1, "batch_units": 1, "schedule": schedule}
        units = HParams(**values, warmup_units=250.0).to_dict()
        share = HParams(**values, warmup=0.25).to_dict()
        for seen in (0.0, 100.0, 250.0, 600.0, 900.0, 1000.0, 1100.0):
            expected = learning_rate(share, seen, 1000.0)
            assert learning_rate(units, seen, 1000.0) == pytest.approx(expected)
            assert learning_rate(share, seen / 1000) == expected


def test_a_warmup_in_units_has_to_leave_room_in_the_run() -> None:
    """The cool-down of a fifth begins after 800 of 1000 units."""
    wsd = HParams(lr=0.1, batch_units=1, schedule="wsd", warmup_units=800.0)
    check_warmup(wsd, 1000.0, "the run")
    with pytest.raises(InputError, match=r"the run has 999 units.*leaves 799\.2"):
        check_warmup(wsd, 999.0, "the run")
    with pytest.raises(InputError, match="planned: expected the units"):
        learning_rate(wsd.to_dict(), 1.0, 0.0)
