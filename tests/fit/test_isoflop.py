"""Approach 2: exact on symmetric laws, honest at edges."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit.fit import fit_runs
from flops_fit.fit.isoflop import parabola
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable
from tests.fit._runs import sweep

SYMMETRIC = Hoffmann(E=1.7, A=400.0, B=400.0, alpha=0.34, beta=0.34)
FITTED = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def test_minima_of_a_symmetric_law_are_exact():
    """α = β on a centred grid: the bowl is even in ln N, so its parabola's vertex is N*."""
    shape = fit_runs(sweep(SYMMETRIC, centre=1.0), "hoffmann").isoflop
    assert shape.usable
    for p in shape.interior:
        assert p.params == pytest.approx(SYMMETRIC.optimal(p.budget).params, rel=1e-6)
    assert shape.n_line.a == pytest.approx(0.5, abs=1e-6)
    assert shape.n_line.a + shape.d_line.a == pytest.approx(1.0, abs=1e-6)
    assert shape.n_r2 == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("centre", "side", "word"), [(30.0, "small", "below"), (1 / 30, "large", "above")]
)
def test_an_edge_minimum_is_left_out_and_the_next_size_named(centre, side, word):
    """Sizes all to one side of the optimum: no minimum is claimed, the next size lies beyond."""
    runs = sweep(FITTED, centre=centre, reach=3.0)
    fit = fit_runs(runs, "hoffmann")
    assert not fit.isoflop.usable
    assert fit.isoflop.n_line is None
    for p in fit.isoflop.parabolas:
        assert not p.interior
        assert p.edge == side
        sizes = runs["params"][runs["budget"] == p.budget]
        assert p.next_params < sizes.min() if side == "small" else p.next_params > sizes.max()
    messages = [str(d) for d in fit.diagnostics if d.code == "edge_minimum"]
    assert len(messages) == 5
    assert all("run N ≈" in m for m in messages)


def test_one_edge_does_not_stop_the_rest():
    """A budget cut at its small side is left out; the line comes from the other four."""
    runs = sweep(SYMMETRIC, centre=1.0)
    keep = ~((runs["budget"] == 1e18) & (runs["params"] < 1.9 * SYMMETRIC.optimal(1e18).params))
    fit = fit_runs({name: column[keep] for name, column in runs.items()}, "hoffmann")
    outside = [p for p in fit.isoflop.parabolas if not p.interior]
    assert [p.budget for p in outside] == [1e18]
    assert outside[0].edge == "small"
    assert fit.isoflop.usable
    assert fit.isoflop.n_line.a == pytest.approx(0.5, abs=1e-6)


def test_budgets_with_two_sizes_have_no_parabola():
    """Two points draw no bowl."""
    shape = fit_runs(sweep(FITTED, sizes=2), "hoffmann").isoflop
    assert shape.parabolas == ()
    assert not shape.usable


def test_a_disagreement_with_the_surface_is_reported():
    """The largest budget's bowl alone points to twice the size: a warning; without that, none."""
    runs = sweep(SYMMETRIC, centre=1.0)
    straight = fit_runs(runs, "hoffmann", window=None)
    assert "approaches_agree" in {d.code for d in straight.diagnostics}
    offset = np.log(runs["params"] / SYMMETRIC.optimal(runs["flops"]).params)
    runs["loss"] = runs["loss"] * np.where(runs["budget"] == 1e20, 1 - 0.03 * offset, 1.0)
    tilted = fit_runs(runs, "hoffmann", window=None)
    assert "approaches_disagree" in {d.code for d in tilted.diagnostics if d.severity == "warning"}


def test_a_window_takes_the_far_arms_out_of_a_parabola():
    """Sizes over ×30 bend the vertex away from the optimum; ×5 of the vertex brings it near."""
    law = Hoffmann(E=1.7, A=400.0, B=4000.0, alpha=0.28, beta=0.45)
    runs = RunTable.read(sweep(law, budgets=(1e19,), sizes=15, reach=30.0, centre=1.0))
    truth = law.optimal(1e19).params
    wide, near = parabola(runs), parabola(runs, factor=5.0)
    assert near.runs < wide.runs == 15
    errors = [abs(np.log(p.params / truth)) for p in (wide, near)]
    assert errors[1] < 0.5 * errors[0]
