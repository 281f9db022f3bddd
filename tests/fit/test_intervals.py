"""Covariances by closed forms; the lowest point of a bowl and its parabola, from values on a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flops_fit.fit.intervals import Covariance, bottoms, hc3

GRID = np.linspace(10.0, 14.0, 81)
STEP = GRID[1] - GRID[0]


@pytest.mark.parametrize(
    "vertex", [10.01, 10.03, 10.07, 11.0, 12.018, 13.93, 13.97, 13.99], ids=str
)
def test_a_parabola_is_lowest_at_its_vertex(vertex):
    """Between grid points too, and beside either end, where one side of the window is cut off."""
    lowest, fitted = bottoms(GRID, 0.7 * (GRID - vertex)[None] ** 2 + 2.0)
    assert lowest == pytest.approx(vertex, abs=1e-9)
    assert fitted == pytest.approx(vertex, abs=1e-9)


def test_rows_are_answered_one_by_one():
    vertices = np.array([10.6, 12.2, 13.1])
    bends = np.array([0.1, 1.0, 3.0])
    lowest, fitted = bottoms(GRID, bends[:, None] * (GRID - vertices[:, None]) ** 2)
    np.testing.assert_allclose(lowest, vertices, atol=1e-9)
    np.testing.assert_allclose(fitted, vertices, atol=1e-9)


@pytest.mark.parametrize(("vertex", "end"), [(9.5, GRID[0]), (14.5, GRID[-1])])
def test_a_bowl_with_its_vertex_outside_is_lowest_at_an_end(vertex, end):
    lowest, fitted = bottoms(GRID, (GRID - vertex)[None] ** 2)
    assert lowest == pytest.approx(end, abs=1e-9)
    assert fitted == pytest.approx(end, abs=1e-9)


@pytest.mark.parametrize(("slope", "end"), [(1.0, GRID[0]), (-1.0, GRID[-1])])
def test_a_slope_without_a_bowl_ends_where_the_grid_does(slope, end):
    """Within a step of it: that is how a drawn surface without an optimum is known."""
    lowest, fitted = bottoms(GRID, slope * GRID[None])
    assert lowest == pytest.approx(end, abs=1.1 * STEP)
    assert fitted == pytest.approx(end, abs=1.1 * STEP)


def test_the_vertex_of_a_skewed_bowl_is_that_of_a_parabola_within_a_factor_of_five():
    """Beside its lowest point, by what least squares on that window find."""
    bowl = 0.5 * (GRID - 12.0) ** 2 + 0.1 * (GRID - 12.0) ** 3
    lowest, fitted = bottoms(GRID, bowl[None])
    centre = float(fitted[0])
    inside = np.abs(GRID - centre) <= np.log(5.0)
    curve, slope, _ = np.polyfit(GRID[inside] - centre, bowl[inside], 2)
    assert lowest == pytest.approx(12.0, abs=1e-3)
    assert -0.5 * slope / curve == pytest.approx(0.0, abs=4e-3)
    assert 0.1 < 12.0 - centre < 0.2


# --- the covariance of an M-estimator


def line(x: np.ndarray, **options: Any) -> Covariance:
    """Of a line through points with residuals of ±0.1 in turn."""
    J = np.column_stack([np.ones_like(x), x])
    return hc3(J, 0.1 * (-1.0) ** np.arange(len(x)), np.ones(len(x)), np.inf, len(x) - 2, **options)


def test_hc3_is_its_closed_form() -> None:
    """(JᵀJ)⁻¹ · Σ r²/(1−h)² JJᵀ · (JᵀJ)⁻¹."""
    x = np.array([0.0, 1.0, 3.0, 4.0, 7.0])
    J, r = np.column_stack([np.ones(5), x]), 0.1 * (-1.0) ** np.arange(5)
    inverse = np.linalg.inv(J.T @ J)
    h = np.einsum("ni,ij,nj->n", J, inverse, J)
    found = line(x)
    assert found.matrix == pytest.approx(inverse @ (J.T * (r / (1 - h)) ** 2) @ J @ inverse)
    assert found.leverage == pytest.approx(h)


def test_runs_of_a_cluster_count_as_their_sum() -> None:
    """Each point twice in one cluster is worth the points once, with a degree of freedom for each."""
    x = np.repeat([0.0, 1.0, 3.0, 4.0, 7.0], 2)
    r, J = np.repeat(0.1 * (-1.0) ** np.arange(5), 2), np.column_stack([np.ones(10), x])
    groups = np.repeat(np.arange(5), 2)
    found = hc3(J, r, np.ones(10), np.inf, 8, groups)
    assert found.dof == 3
    inverse = np.linalg.inv(J.T @ J)
    h = np.einsum("ni,ij,nj->n", J, inverse, J)
    summed = np.array(
        [(J[groups == g].T * (r / (1 - h))[groups == g]).sum(axis=1) for g in range(5)]
    )
    assert found.matrix == pytest.approx(inverse @ summed.T @ summed @ inverse)


@pytest.mark.parametrize(
    ("x", "groups", "reason"),
    [
        ([1.0, 2.0], None, "no more runs than parameters"),
        ([0.0, 0.0, 0.0, 0.0], None, "leaves the loss unchanged"),
        ([3.0, 3.0, 3.0, 3.0], None, "cannot be told apart"),
        ([1.0, 1.0, 1.0, 9.0], None, "a single run decides a parameter alone"),
        ([0.0, 1.0, 3.0, 4.0], [0, 0, 1, 1], "no more clusters than parameters"),
    ],
)
def test_where_there_is_no_covariance_the_reason_is_said(x, groups, reason) -> None:
    found = line(np.array(x), groups=None if groups is None else np.array(groups))
    assert found.matrix is None
    assert reason in found.reason
