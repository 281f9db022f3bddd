"""The misfit beside the law: its kernel, its noise, and what the drawn surfaces say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flops_fit.fit import fit_runs
from flops_fit.fit.misfit import _scatter, _whitener
from flops_fit.fit.misfit_basis import Basis
from flops_fit.fit.misfit_mean import MOST_POINTS, KappaMean, MisfitPrior, pool
from flops_fit.fit.surface import points_of
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.laws import Hoffmann
from flops_fit.table import RunTable
from tests.fit._runs import sweep

LAW = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def bent(height: float, seed: int = 0) -> dict[str, np.ndarray]:
    """A sweep whose losses leave the law by a smooth wave of ``height`` in ln N and ln D."""
    runs = sweep(LAW, sd=0.001, seed=seed, sizes=9)
    x, y = np.log(runs["params"]), np.log(runs["tokens"])
    wave = np.sin(1.1 * x + 0.4) * np.cos(0.9 * y)
    return {**runs, "loss": runs["loss"] * np.exp(height * wave)}


@pytest.mark.parametrize("length", [1.2, 2.0, 3.2])
def test_the_basis_has_the_kernel_that_it_stands_for(length):
    """Σ φ(a)φ(b) is the Gaussian kernel in (ln N, ln D) plus that in compute, to a percent."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-3, 3, (2, 60))
    phi = Basis(length, 2.0, 5.0, (-9.0, 9.0), (-8.0, 8.0))(x, y)
    s = x + y
    dx, dy, ds = (np.subtract.outer(v, v) for v in (x, y, s))
    kernel = np.exp(-(dx**2 + dy**2) / (2 * length**2)) + 4 * np.exp(-(ds**2) / (2 * 5.0**2))
    np.testing.assert_allclose(phi @ phi.T, kernel, atol=0.02)


def test_runs_of_a_group_share_half_of_their_noise():
    """The whitened covariance of ½(I + 11ᵀ) in each group is the identity."""
    points = fit_runs(sweep(LAW, sd=0.01))._evidence.solution.points
    groups = np.arange(len(points.z)) // 3
    grouped = type(points)(**{**vars(points), "groups": groups})
    whiten = _whitener(np.ones(len(groups)), grouped)
    size = np.bincount(groups)[groups]
    shared = np.equal.outer(groups, groups)
    covariance = np.where(size > 1, 0.5, 1.0) * np.eye(len(groups)) + 0.5 * (shared & (size > 1))
    rows = whiten(np.linalg.cholesky(covariance).T)
    np.testing.assert_allclose(rows.T @ rows, np.eye(len(groups)), atol=1e-10)


def test_half_of_few_runs_met_exactly_are_not_taken_for_no_noise():
    """Five constants meet five of ten runs; an outlier among many runs counts for little."""
    few = SurfaceSolver(Hoffmann, points_of(RunTable.read(sweep(LAW, sizes=2)), log=True))
    solution = few.fit(np.ones(10), "mad")
    residuals = np.array([0.0] * 5 + [0.004, -0.003, 0.005, -0.002, 0.003])
    rms = np.sqrt(np.sum(residuals**2) / 5)
    assert _scatter(replace(solution, residuals=residuals), 0) == pytest.approx(rms, rel=0.3)
    off = 0.003 * np.random.default_rng(0).normal(size=100)
    off[0] = 1.0
    many = replace(solution, residuals=off, weights=np.ones(100))
    assert _scatter(many, 0) == pytest.approx(0.003, rel=0.2)


def test_a_law_that_misses_has_wider_intervals_than_one_that_fits():
    """The amplitude is read off the runs: near none where the law is right, wide where it is bent."""
    right, wrong = fit_runs(bent(0.0)), fit_runs(bent(0.02))
    amplitudes = [f._evidence.posterior.amplitude for f in (right, wrong)]
    assert amplitudes[0] < 0.002
    assert amplitudes[1] > 0.005
    widths = [
        np.log(np.divide(*f.predict(1e21).intervals["optimal_params"][::-1]))
        for f in (right, wrong)
    ]
    assert widths[1] > 3 * widths[0]


def test_intervals_hold_where_the_law_is_bent():
    """Most of twelve, over waves of another phase: noise alone would hold a few."""
    held = 0
    for seed in range(12):
        runs = bent(0.01, seed)
        shift = np.log(runs["params"]) * 0 + 0.01 * np.sin(np.log(runs["params"]) + seed)
        fit = fit_runs({**runs, "loss": runs["loss"] * np.exp(shift)})
        C = fit.largest_compute
        N = np.geomspace(1e7, 1e11, 4001)
        x, y = np.log(N), np.log(C / (6 * N))
        wave = 0.01 * np.sin(1.1 * x + 0.4) * np.cos(0.9 * y) + 0.01 * np.sin(x + seed)
        best = N[np.argmin(np.log(LAW.loss(N, C / (6 * N))) + wave)]
        low, high = fit.predict(C).intervals["optimal_params"]
        held += low <= best <= high
    assert held >= 7


def test_far_runs_count_as_the_window_was_asked():
    """``window=None`` counts all runs alike; by default far ones say less."""
    runs = sweep(LAW, sd=0.003)
    assert fit_runs(runs)._evidence.prior == MisfitPrior()
    alike = fit_runs(runs, window=None)._evidence.prior
    assert (alike.window, alike.tilt) == (np.inf, 0.0)


def test_the_same_runs_give_the_same_draws():
    """Nothing is left to chance between two fits."""
    runs = sweep(LAW, sd=0.003)
    assert fit_runs(runs).predict(1e21) == fit_runs(runs).predict(1e21)


def test_the_signs_of_eigenvectors_decide_nothing(monkeypatch):
    """They differ between machines and numbers of threads; answers do not."""
    runs = sweep(LAW, sd=0.003)
    before = fit_runs(runs).predict(1e21)
    plain, rng = np.linalg.eigh, np.random.default_rng(3)

    def other_signs(matrix):
        values, vectors = plain(matrix)
        return values, vectors * rng.choice([-1.0, 1.0], vectors.shape[-1])

    monkeypatch.setattr(np.linalg, "eigh", other_signs)
    after = fit_runs(runs).predict(1e21)
    assert after.optimal_params == pytest.approx(before.optimal_params, rel=1e-6)
    for name, span in before.intervals.items():
        assert after.intervals[name] == pytest.approx(span, rel=1e-5)


def test_more_runs_than_can_be_evaluated_are_pooled_by_place():
    """So few points stand for all runs, with their whole precision, and lie at their means."""
    rng = np.random.default_rng(0)
    count = MOST_POINTS + 1200
    N, D = np.exp(rng.uniform(16, 26, count)), np.exp(rng.uniform(18, 28, count))
    loss = LAW.loss(N, D) * np.exp(0.002 * rng.normal(size=count))
    table = RunTable.read({"params": N, "tokens": D, "loss": loss})
    points = points_of(table, log=True)
    solution = SurfaceSolver(Hoffmann, points).fit(np.ones(count), "mad")
    mean = KappaMean(solution, MisfitPrior(), True, None)
    pooled, at, precision, within, _ = pool(mean, np.ones(count))
    assert MOST_POINTS / 4 < len(at.z) <= MOST_POINTS
    assert np.sum(precision) == pytest.approx(count)
    assert np.sum(precision * at.x) == pytest.approx(np.sum(points.x), abs=1e-6)
    left = float(np.sum((at.z - pooled.values(pooled.start[None], at.x, at.y)[0]) ** 2 * precision))
    assert within + left == pytest.approx(float(np.sum(solution.residuals**2)), rel=0.05)
