"""Approaches 1 and 2: exact on known laws, and no line where there is no minimum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flops_fit.fit import Envelope, fit_runs
from flops_fit.fit.minima import envelope, parabola
from flops_fit.flops import LinearFlops
from flops_fit.laws import Hoffmann, Kappa, Law
from flops_fit.table import RunTable
from flops_fit.table.curves import Curves
from flops_fit.text import format_count
from tests.fit._curves import curves
from tests.fit._runs import sweep

SYMMETRIC = Hoffmann(E=1.7, A=400.0, B=400.0, alpha=0.34, beta=0.34)
FITTED = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
LAW = Hoffmann(1.8, 480.0, 2100.0, 0.35, 0.37)
SIZES = np.geomspace(1e7, 3e9, 12)
SIX = LinearFlops(6.0)


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


def test_many_edges_are_one_finding():
    """A table of a hundred budgets would bury all else that is said of it."""
    budgets = np.geomspace(1e17, 1e20, 9)
    fit = fit_runs(sweep(FITTED, budgets=budgets, centre=30.0, reach=3.0), "hoffmann")
    (said,) = [str(d) for d in fit.diagnostics if d.code == "edge_minimum"]
    assert "at 9 budgets, C = 1e+17 to 1e+20, its minimum lies below the smallest size" in said
    assert f"N ≈ {format_count(fit.isoflop.parabolas[-1].next_params, zeros=True)}" in said


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


def read(table: dict[str, np.ndarray], **options: float) -> Envelope:
    return envelope(Curves.read(table), SIX)


@pytest.mark.parametrize(
    ("law", "horizon"),
    [
        (LAW, 2e11),
        (Hoffmann(1.7, 400.0, 400.0, 0.34, 0.34), 2e11),
        (Kappa(1.2, 600.0, 2400.0, 0.37, 0.4, 0.8), 2e11),
    ],
)
def test_the_exponents_of_a_known_law_are_recovered(law: Law, horizon: float) -> None:
    """a = β/(α+β) within 0.002: what 1,500 values of C and straight lines between points cost."""
    found = read(curves(law, SIZES, horizon))
    values = law.params
    a = values["beta"] / (values["alpha"] + values["beta"])
    assert found.usable, found
    assert len(found.points) >= 5
    assert found.n_line is not None
    assert found.d_line is not None
    assert found.n_line.a == pytest.approx(a, abs=0.002)
    assert found.d_line.a == pytest.approx(1 - a, abs=0.002)
    for p in found.points:
        assert p.low < p.compute < p.high
        assert 6 * p.params * p.tokens == pytest.approx(p.compute, rel=1e-9)
        assert p.loss == pytest.approx(law.loss(p.params, p.tokens), rel=1e-3)
        assert p.params == pytest.approx(law.optimal(p.compute).params, rel=0.03)


def test_no_line_is_drawn_through_more_points_than_sizes() -> None:
    """The 1,500 values of C share a few curves: each winning size is one observation."""
    found = read(curves(LAW, SIZES, 2e11))
    assert len(found.points) == len({p.params for p in found.points}) <= len(SIZES)


def test_the_order_of_rows_does_not_matter() -> None:
    table = curves(LAW, SIZES)
    order = np.random.default_rng(1).permutation(len(table["loss"]))
    assert read({name: v[order] for name, v in table.items()}) == read(table)


def test_units_of_size_and_tokens_do_not_matter() -> None:
    """Millions of parameters and billions of tokens, with F to match: the same exponents and sizes."""
    table = curves(LAW, SIZES)
    here = read(table)
    small = {**table, "params": table["params"] / 1e6, "tokens": table["tokens"] / 1e9}
    there = envelope(Curves.read(small), LinearFlops(6e15))
    assert here.n_line is not None
    assert there.n_line is not None
    assert there.n_line.a == pytest.approx(here.n_line.a, abs=1e-9)
    sizes = [p.params * 1e6 for p in there.points]
    assert sizes == pytest.approx([p.params for p in here.points])


def test_curves_that_tell_their_flops_are_taken_at_their_word() -> None:
    table = curves(LAW, SIZES)
    doubled = read({**table, "flops": 12 * table["params"] * table["tokens"]})
    for one, two in zip(read(table).points, doubled.points, strict=True):
        assert two.compute == pytest.approx(2 * one.compute)


def test_the_smallest_and_the_largest_size_are_no_minimum() -> None:
    """They win at the ends of the envelope, where a size beyond them might be lower still."""
    found = read(curves(LAW, SIZES, 2e11))
    inside = {p.params for p in found.points}
    assert SIZES[0] not in inside
    assert SIZES[-1] not in inside
    reasons = {e.label: e.reason for e in found.excluded}
    assert "smallest size" in reasons["N = 1e+07"]


def test_sizes_that_are_all_too_large_give_no_line() -> None:
    """The smallest size wins wherever it reaches: an edge, and so no claim."""
    found = read(curves(LAW, np.geomspace(1e10, 1e11, 5), 1e10))
    assert not found.usable
    assert found.points == ()
    assert "needs three or more" in found.reason
    assert all("smallest" in e.reason or "fewer than three" in e.reason for e in found.excluded)


def test_a_win_that_ends_with_its_curve_is_no_point() -> None:
    """One size stops in the middle of its stretch: the middle of what is left would be wrong."""
    table = curves(LAW, SIZES, 2e11)
    whole = read(table)
    victim = whole.points[3]
    stop = victim.compute / (6 * victim.params)
    keep = (table["params"] != victim.params) | (table["tokens"] < stop)
    cut = read({name: v[keep] for name, v in table.items()})
    assert victim.params not in {p.params for p in cut.points}
    reasons = [e.reason for e in cut.excluded if e.label == f"N = {victim.params:.4g}"]
    assert reasons == ["it wins until a curve begins or ends, not until another size is lower"]


def test_two_sizes_are_too_few() -> None:
    found = read(curves(LAW, [1e8, 2e8]))
    assert "2 sizes; approach 1 needs three" in found.reason
    assert found.n_line is None


def test_of_several_runs_of_a_size_the_lowest_counts() -> None:
    """A second run of each size with a worse loss changes nothing."""
    table = curves(LAW, SIZES)
    worse = {**table, "run": np.char.add(table["run"], " again"), "loss": table["loss"] * 1.02}
    both = {name: np.concatenate([table[name], worse[name]]) for name in table}
    assert read(both).points == read(table).points


def test_smoothing_recovers_a_noisy_envelope() -> None:
    """2 % noise a point: raw curves lose most stretches, smoothed ones keep a within 0.03."""
    noisy = Curves.read(curves(LAW, SIZES, 2e11, points=3000, sd=0.02))
    raw, smooth = (envelope(c, SIX) for c in (noisy, noisy.smoothed(0.5)))
    assert smooth.usable
    assert smooth.n_line is not None
    assert smooth.n_line.a == pytest.approx(0.37 / 0.72, abs=0.03)
    error = [abs(np.log(p.params / LAW.optimal(p.compute).params)) for p in smooth.points]
    assert np.median(error) < 0.15
    assert len(raw.points) < len(smooth.points)
    assert "running lines" in smooth.notes[0]


def test_a_schedule_that_has_not_ended_makes_the_size_too_small() -> None:
    """Half a cosine that costs 3 % at its start and nothing at its end, one horizon for all.

    The loss is too high everywhere; the size falls short where the schedule is well under way.
    """
    charged = read(curves(LAW, SIZES, 2e11, charge=lambda f: 0.015 * (1 + np.cos(np.pi * f))))
    ratios = [p.params / LAW.optimal(p.compute).params for p in charged.points]
    assert len(ratios) >= 5
    assert ratios[0] == pytest.approx(1, abs=0.005)
    assert ratios[-1] < 0.985
    for p in charged.points:
        assert p.loss > LAW.optimal(p.compute).loss * 1.02


def test_the_fit_tells_what_the_envelope_assumes() -> None:
    fit = fit_runs(sweep(LAW, sd=0.003), curves=curves(LAW, np.geomspace(3e7, 3e9, 9)))
    assert fit.envelope is not None
    assert fit.envelope.usable
    told = {d.code: d for d in fit.diagnostics}
    assert "constant" in told["envelope_schedule"].message
    assert told["envelope_schedule"].severity == "note"
    assert "no point of the envelope" in told["envelope_excluded"].message
    assert fit_runs(sweep(LAW, sd=0.003)).envelope is None


def test_tokens_at_the_vertex_are_those_of_the_runs_beside_it_where_their_loss_has_no_bowl_in_them():
    """Three sizes in a row of which the middle one read most: its D, and not a parabola's."""
    runs = {
        "params": [1e8, 2e8, 4e8],
        "tokens": np.exp([20.0, 23.0, 21.0]),
        "loss": [2.2, 2.0, 2.2],
        "budget": [1e18] * 3,
    }
    found = parabola(RunTable.read(runs))
    assert found.params == pytest.approx(2e8)
    assert found.tokens == pytest.approx(np.exp(23.0))
    assert found.interior


def test_a_size_that_is_lowest_from_where_curves_begin_is_no_point() -> None:
    """Three curves over the same compute: the middle one wins until another does, but since when?"""
    C = np.geomspace(1e17, 1e19, 200)
    u = np.log(C / 1e17)
    losses = {1e8: 3.0 + 0.30 * u, 2e8: 2.8 + 0.31 * u, 4e8: 3.6 + 0.05 * u}
    found = read(
        {
            "run": np.repeat(["a", "b", "c"], 200),
            "params": np.repeat(list(losses), 200),
            "tokens": np.concatenate([C / (6 * N) for N in losses]),
            "loss": np.concatenate(list(losses.values())),
        }
    )
    reasons = {e.label: e.reason for e in found.excluded}
    assert "until a curve begins or ends" in reasons["N = 2e+08"]
    assert found.points == ()
    told = {d.code for d in replace(found, excluded=()).diagnostics()}
    assert "envelope_excluded" not in told
    assert "envelope_excluded" in {d.code for d in found.diagnostics()}
