"""The solver: exact derivatives, true optima, and no dependence on units or order."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from flops_fit import reference
from flops_fit.errors import InputError
from flops_fit.fit import FitStatus, fit_runs
from flops_fit.fit.generic import GenericSolver
from flops_fit.fit.solver import huber
from flops_fit.fit.surface import derivatives, model_values, points_of, polish
from flops_fit.fit.surface_solver import SurfaceSolver
from flops_fit.laws import LAWS, Hoffmann, Kaplan, Kappa
from flops_fit.table import RunTable
from tests.fit._runs import chinchilla, llama, sweep

ADDITIVE = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
SKEWED = Hoffmann(E=1.2, A=60.0, B=9000.0, alpha=0.25, beta=0.45)
JOINED = Kappa(E=1.7, A=9e4, B=2e6, alpha=0.7, beta=0.8, kappa=0.5)
JOINT = Kaplan(N_c=6.4e13, D_c=1.8e13, alpha_N=0.076, alpha_D=0.103)
WIDE = Kappa(E=0.4, A=10.0, B=30.0, alpha=0.2, beta=0.25, kappa=1.3)


def solvers():
    """Each solver with its runs: both forms of the κ family, and a law of its own starts."""
    table = llama()
    points = points_of(table, True)
    joint = RunTable.read(sweep(JOINT, sd=0.004))
    return {
        "hoffmann": SurfaceSolver(Hoffmann, points),
        "kappa": SurfaceSolver(Kappa, points),
        "kaplan": GenericSolver(Kaplan, joint, points_of(joint, True)),
    }


@pytest.fixture(params=["hoffmann", "kappa", "kaplan"])
def solver(request):
    """One solver after the other, for what holds of all."""
    return solvers()[request.param]


def test_a_solution_is_the_law_it_stands_for(solver):
    """Law, residuals and Jacobian of a solution belong to its coordinates."""
    ones = np.ones(len(solver.points.z))
    solution = solver.fit(ones, "mad")
    assert type(solution.law) is solver.law
    assert solution.converged
    assert solution.delta == pytest.approx(1.345 * solution.residual_sd, rel=1e-3)
    assert solution.law_at(solution.theta).params == pytest.approx(solution.law.params, rel=1e-12)
    assert solution.jacobian.shape == (len(ones), len(solution.theta))
    assert len(solution.names) == len(solution.theta)
    omega = np.minimum(1.0, solution.delta / np.abs(solution.residuals))
    gradient = solution.jacobian.T @ (omega * solution.residuals)
    assert np.max(np.abs(gradient)) < 1e-6


def test_a_fit_near_its_own_solution_stays_there(solver):
    """Warm fits and refits to the same runs end at the same law."""
    ones, z = np.ones(len(solver.points.z)), solver.points.z
    solution = solver.fit(ones, 0.01)
    again = solver.fit(ones, 0.01, solution)
    assert again.objective == pytest.approx(solution.objective, rel=1e-9)
    assert again.law.params == pytest.approx(solution.law.params, rel=1e-5)
    refitted = solver.refit(solution, np.stack([ones, ones]), np.stack([z, z]), 0.01)
    assert len(refitted) == 2
    for law in refitted:
        assert law.params == pytest.approx(solution.law.params, rel=1e-5)


def test_a_run_of_no_weight_does_not_count(solver):
    """A refit without some runs ends where a fit without them does."""
    ones, z = np.ones(len(solver.points.z)), solver.points.z
    weights = np.where(np.arange(len(z)) % 5 == 0, 0.0, 1.0)
    near = solver.fit(ones, 0.01)
    (law,) = solver.refit(near, weights[None], z[None], 0.01)
    assert law.params == pytest.approx(solver.fit(weights, 0.01).law.params, rel=1e-4)


@pytest.mark.parametrize("log", [True, False])
def test_derivatives_match_differences(log):
    """Gradient and Hessian of the objective against central differences."""
    table = llama()
    points = points_of(table, log)
    theta, weights, h = np.array([[0.6, -1.2, -1.0, 0.3, 0.35, -0.3]]), np.ones(len(table)), 1e-6

    def gradient_at(t):
        d = derivatives(t, points)
        return -(d.gradient @ (points.z - d.model)[..., None])[0, :, 0]

    d = derivatives(theta, points)
    residuals = points.z - d.model
    hessian = d.hessian(weights * residuals, np.broadcast_to(weights, residuals.shape))[0]
    steps = h * np.eye(6)
    differences = [(gradient_at(theta + s) - gradient_at(theta - s)) / (2 * h) for s in steps]
    np.testing.assert_allclose(hessian, np.array(differences), rtol=1e-6, atol=1e-6)
    for i, s in enumerate(steps):
        slope = (model_values(theta + s, points) - model_values(theta - s, points)) / (2 * h)
        np.testing.assert_allclose(d.gradient[0, i], slope[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "law", [ADDITIVE, SKEWED, JOINED, WIDE], ids=["sym", "asym", "joined", "wide"]
)
def test_noiseless_laws_are_recovered(law):
    """Exponent a, N* and L to 1e-4 at 100× the largest budget, with the right form chosen."""
    fit = fit_runs(sweep(law))
    assert fit.law.name == law.name
    truth, found = law.optimal(1e22), fit.predict(1e22)
    assert found.optimal_params == pytest.approx(truth.params, rel=1e-4)
    assert found.expected_loss == pytest.approx(truth.loss, rel=1e-4)
    assert fit.exponents[0] == pytest.approx(law.beta / (law.alpha + law.beta), rel=1e-4)


@pytest.mark.parametrize("name", ["hoffmann", "kappa"])
@pytest.mark.parametrize("delta", [1e-3, "mad", np.inf])
def test_scipy_finds_nothing_lower(name, delta):
    """scipy's BFGS and Nelder–Mead, started at the optimum, do not improve it."""
    from scipy.optimize import minimize

    fit = fit_runs(llama(), name, delta=delta, window=None)
    ln_n, ln_d, ln_l = (np.log(c) for c in (fit.runs.params, fit.runs.tokens, fit.runs.loss))
    kappa = fit.law.params.get("kappa", 1.0)
    v = fit.law.params
    start = np.array(
        [
            v["E"],
            np.log(v["A"]) - v["alpha"] * ln_n.mean(),
            np.log(v["B"]) - v["beta"] * ln_d.mean(),
            v["alpha"],
            v["beta"],
            kappa,
        ][: 5 + (name == "kappa")]
    )

    def objective(t):
        k = t[5] if name == "kappa" else 1.0
        inner = np.exp(t[1] - t[3] * (ln_n - ln_n.mean())) + np.exp(
            t[2] - t[4] * (ln_d - ln_d.mean())
        )
        return np.sum(huber(ln_l - np.log(t[0] + inner**k), fit.delta))

    assert objective(start) == pytest.approx(fit.objective, rel=1e-9)
    for method in ("BFGS", "Nelder-Mead"):
        found = minimize(lambda t: objective(t) / fit.objective, start, method=method)
        assert found.fun >= 1 - 1e-9


@pytest.mark.parametrize("name", ["hoffmann", "kappa"])
def test_starts_agree_on_real_runs(name):
    """All starts of the search end at the same objective."""
    for table in (chinchilla(), llama()):
        fit = fit_runs(table, name, delta=1e-3, window=None)
        assert fit.status is FitStatus.OK
        assert fit.starts >= 4
        assert fit.starts_agree == fit.starts


def test_the_mad_delta_is_that_of_its_own_residuals():
    """δ and fit agree: δ is 1.345 robust standard deviations of the residuals."""
    fit = fit_runs(chinchilla(), "hoffmann", window=None)
    assert fit.delta == pytest.approx(1.345 * fit.residual_sd, rel=1e-3)


@pytest.mark.parametrize("name", ["hoffmann", "kappa"])
def test_bootstrap_refits_are_at_their_optimum(name):
    """Each warm-started refit is as low as a search from scratch on its own weights."""
    table = chinchilla()
    points = points_of(table, True)
    solver = SurfaceSolver(LAWS[name], points)
    fitted = solver.fit(np.ones(len(table)), 1e-3)
    rng = np.random.default_rng(0)
    weights = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=25).astype(
        float
    )
    refit = polish(
        np.repeat(fitted.coordinates[None], 25, axis=0), points, weights, 1e-3, solver.free
    )
    assert refit.converged.all()
    for w, objective in zip(weights, refit.objective, strict=True):
        assert objective <= solver.fit(w, 1e-3).objective * (1 + 1e-9)


@pytest.mark.parametrize("kind", ["case", "wild", "parametric"])
def test_bootstrap_is_seeded_and_centred(kind):
    """The same seed gives the same draws; their exponent scatters around the fit's."""
    fit = fit_runs(sweep(ADDITIVE, sd=0.003), "hoffmann")
    draws = fit.bootstrap(200, kind, seed=1)
    assert draws.shape == (200, 5)
    np.testing.assert_array_equal(draws, fit.bootstrap(200, kind, seed=1))
    a = draws[:, 4] / (draws[:, 3] + draws[:, 4])
    assert abs(np.median(a) - fit.exponents[0]) < np.std(a)
    assert 0 < np.std(a) < 0.1


def test_bootstrap_kind_is_checked():
    """Whole budgets are never resampled; the answer names what is."""
    with pytest.raises(InputError, match=r"expected one of \['case', 'wild', 'parametric'\]"):
        fit_runs(sweep(ADDITIVE, sd=0.003)).bootstrap(10, "budget")


def test_an_offset_at_zero_is_found_and_said():
    """Losses without an irreducible part: E is zero itself, a bound, and said to mean nothing."""
    law = Hoffmann(E=0.0, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
    fit = fit_runs(sweep(law, sd=0.01, seed=3), "hoffmann", window=None)
    assert fit.law.params["E"] == 0.0
    assert fit.status is FitStatus.BOUND_HIT
    assert "E_unidentified" in {d.code for d in fit.diagnostics}
    low, high = fit.predict(1e21).intervals["expected_loss"]
    assert low < law.optimal(1e21).loss < high


def test_a_fit_has_one_blas_thread_and_gives_the_others_back():
    def threads() -> set[int]:
        pools = ThreadpoolController().select(user_api="blas").info()
        return {pool["num_threads"] for pool in pools}

    inside = []

    def counted(N):
        inside.append(threads())
        return 6 * np.asarray(N)

    with threadpool_limits(2, user_api="blas"):
        fit_runs(reference.runs("llama3_2024"), flops_per_unit=counted)
        assert threads() == {2}
    assert set().union(*inside) == {1}


@pytest.mark.parametrize("law", [ADDITIVE, JOINED])
def test_a_search_on_a_sample_ends_at_the_optimum_of_all_runs(law):
    """Of more than 4,000 runs some are searched, and all are fitted: starts that agree are counted."""
    rng = np.random.default_rng(0)
    N, D = np.exp(rng.uniform(16, 24, 4_500)), np.exp(rng.uniform(20, 26, 4_500))
    table = RunTable.read({"params": N, "tokens": D, "loss": law.loss(N, D)})
    found = SurfaceSolver(type(law), points_of(table, True)).fit(np.ones(4_500), "mad")
    assert found.law.params == pytest.approx(law.params, rel=1e-5)
    assert len(found.residuals) == 4_500
    assert 1 <= found.agree <= found.starts
