"""The schedule rises, falls and ends where the run does."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.errors import InputError
from flops_fit.hparams import HParams, check_warmup, learning_rate

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
    return learning_rate(HParams(lr=0.1, batch_units=1, **values), progress)


@given(hparams, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_rate_rises_in_the_warmup_and_never_after(made: HParams, a: float, b: float) -> None:
    first, second = (learning_rate(made, p) for p in sorted((a, b)))
    assert 0 <= first <= 0.1
    if min(a, b) >= made.warmup:
        assert second <= first
        assert second >= 0.1 * made.final * (1 - 1e-12)
    elif max(a, b) < made.warmup:
        assert second >= first


@given(hparams)
def test_a_schedule_ends_where_it_says_and_stays_there(made: HParams) -> None:
    end = 0.1 * (1.0 if made.schedule == "constant" else made.final)
    assert learning_rate(made, 1.0) == pytest.approx(end, abs=1e-9)
    assert learning_rate(made, 1.5) == learning_rate(made, 1.0)


@given(hparams, st.floats(0.0, 1.0))
def test_the_rate_has_no_jumps(made: HParams, progress: float) -> None:
    # 1 − √x falls steeply where its decay begins: by √(1e-9/cooldown) of the peak at most.
    near = learning_rate(made, progress + 1e-9)
    step = 0.1 * (math.sqrt(1e-9 / made.cooldown) + 1e-9 / max(made.warmup, 1e-9) + 1e-7)
    assert abs(near - learning_rate(made, progress)) <= step


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


@given(st.floats(0, 5e3), st.integers(10_000, 10**9), st.integers(10_000, 10**9))
def test_a_warmup_in_units_makes_the_rate_independent_of_the_length(
    warmup: float, a: int, b: int
) -> None:
    """Before the shorter run cools down, both have the same rate, bit by bit."""
    made = HParams(lr=0.013, batch_units=1, schedule="wsd", warmup_units=warmup, final=0.1)
    for share in (0.0, 0.1, 0.3, 0.79):
        seen = share * min(a, b)
        assert learning_rate(made, seen, a) == learning_rate(made, seen, b)


def test_a_warmup_in_units_is_the_share_that_it_is_of_a_run() -> None:
    """For every schedule, through to its end."""
    for schedule in SCHEDULES:
        values = {"lr": 0.1, "batch_units": 1, "schedule": schedule}
        units = HParams(**values, warmup_units=250.0)
        share = HParams(**values, warmup=0.25)
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
        learning_rate(wsd, 1.0, 0.0)
