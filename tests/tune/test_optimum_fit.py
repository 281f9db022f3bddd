"""Parabolas that share a curvature find where losses are lowest, and say how surely."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flops_fit.tune.optimum_fit import fit_optima, seed_noise

GRID = (0.5, 1.0, 2.0)


def bowl(best: float, k: float = 0.04, level: float = 3.0, grid=GRID, noise=None):
    wiggle = np.zeros(len(grid)) if noise is None else noise
    return [
        (x, level * math.exp(0.5 * k * math.log(x / best) ** 2 + float(w)))
        for x, w in zip(grid, wiggle, strict=True)
    ]


def test_exact_bowls_are_found_exactly_with_their_regret():
    found = fit_optima([bowl(1.4, level=2.0), bowl(1.4, level=5.0)], reach=2)
    assert found.factor == pytest.approx(1.4, rel=1e-9)
    assert found.curvature == pytest.approx(0.04, rel=1e-9)
    assert found.regret(1.4) == pytest.approx(math.expm1(0.02 * math.log(1.4) ** 2))
    assert found.cells[0].factor == pytest.approx(1.4, rel=1e-9)
    assert not found.disagree


@given(
    best=st.floats(0.75, 1.35),
    k=st.floats(0.01, 0.5),
    move=st.floats(0.1, 10),
    level=st.floats(0.1, 10),
)
def test_units_of_rate_and_loss_move_nothing_else(best, k, move, level):
    cells = [bowl(best, k), bowl(best, k, 2.0)]
    moved = [[(x * move, y * level) for x, y in cell] for cell in cells]
    a, b = fit_optima(cells, 2), fit_optima(moved, 2)
    assert b.factor == pytest.approx(a.factor * move, rel=1e-6)
    assert b.curvature == pytest.approx(a.curvature, rel=1e-6)


def test_a_cell_of_two_points_is_read_by_the_curvature_of_the_others():
    found = fit_optima([bowl(1.3), bowl(1.3), bowl(0.8, grid=(0.5, 1.0))], reach=2)
    assert found.cells[2].factor == pytest.approx(0.8, rel=1e-9)


def test_points_far_from_the_lowest_are_left_out():
    bent = [*bowl(1.0), (8.0, 90.0)]
    assert fit_optima([bent, bowl(1.0)], reach=2).factor == pytest.approx(1.0, rel=1e-9)


def test_straight_and_arched_losses_have_no_lowest_point():
    rng = np.random.default_rng(0)
    noisy = [[(x, 3 * math.exp(0.01 * rng.normal())) for x in GRID] for _ in range(4)]
    assert fit_optima([bowl(1.0, k=-0.1)] * 3, 2).factor is None
    assert fit_optima(noisy, 2).factor is None
    assert fit_optima([[], [(1.0, 2.0)]], 2).factor is None


def test_cells_that_differ_are_told_and_noise_alone_is_not():
    rng = np.random.default_rng(1)

    def cells(bests):
        grid = (0.25, 0.5, 1.0, 2.0, 4.0)
        return [bowl(b, k=0.06, grid=grid, noise=0.001 * rng.normal(size=5)) for b in bests]

    assert sum(fit_optima(cells([1.0] * 4), 2).disagree for _ in range(200)) / 200 < 0.1
    assert sum(fit_optima(cells([0.7, 0.7, 1.4, 1.4]), 2).disagree for _ in range(50)) == 50


def test_nine_of_ten_intervals_hold_the_factor():
    rng = np.random.default_rng(2)
    held = []
    for _ in range(400):
        found = fit_optima([bowl(1.2, 0.06, noise=0.002 * rng.normal(size=3)) for _ in range(4)], 4)
        if found.interval is not None:
            held.append(found.interval[0] <= 1.2 <= found.interval[1])
    assert len(held) > 350
    assert 0.86 <= np.mean(held) <= 0.95


def test_noise_between_seeds_is_pooled_over_cells():
    sd, dof = seed_noise([[1.0, 1.02], [2.0, 2.04]])
    assert sd == pytest.approx(0.014, abs=5e-5)
    assert dof == 2
