"""A fit as plain numbers answers as the fit does."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest

import flops_fit
from flops_fit import reference
from flops_fit.fit import export_fit
from flops_fit.fit.export import cubic


def surfaces_of(values: dict[str, Any], N: np.ndarray, D: np.ndarray) -> np.ndarray:
    """The loss of every drawn surface, shape (draws, points), as a reader without Python would."""
    drawn = values["surfaces"]
    constants = np.array(drawn["laws"]).T[:, :, None]
    E, log_a, log_b, alpha, beta, kappa = constants
    x, y = np.log(N), np.log(D)
    laws = E + np.exp(kappa * np.logaddexp(log_a - alpha * x, log_b - beta * y))

    def kernel(at: np.ndarray, knots: list[float], length: float) -> np.ndarray:
        held = np.clip(at, knots[0], knots[-1])
        return np.exp(-0.5 * ((held[:, None] - np.array(knots)) / length) ** 2)

    misfits = []
    for part in drawn["parts"]:
        weights = np.frombuffer(base64.b64decode(part["weights"]), "<f4")
        along = kernel(x + y, part["s"], part["length"])
        across = kernel(x - y, part["v"], part["length"])
        both = np.einsum("pi,pj->pij", along, across).reshape(len(x), -1)
        drift = kernel(x + y, part["drift"], part["drift_length"])
        misfits.append(weights.reshape(part["draws"], -1) @ np.hstack([both, drift]).T)
    g = np.vstack(misfits)
    return laws * np.exp(g) if drawn["log"] else laws + g


@pytest.mark.parametrize("space", ["log", "linear"])
@pytest.mark.parametrize("law", ["kappa", "hoffmann"])
def test_every_drawn_surface_can_be_computed_from_the_values(law: str, space: Any) -> None:
    fit = flops_fit.fit_runs(reference.runs("llama3_2024"), law=law, loss_space=space)
    values = json.loads(json.dumps(export_fit(fit), allow_nan=False))
    N, D = (v.ravel() for v in np.meshgrid(np.geomspace(1e6, 1e12, 9), np.geomspace(1e8, 1e14, 9)))
    drawn = fit._evidence.posterior.losses(N, D)
    np.testing.assert_allclose(surfaces_of(values, N, D), drawn, rtol=1e-5)


def test_what_one_run_adds_gives_its_interval() -> None:
    fit = flops_fit.fit_runs(reference.runs("llama3_2024"))
    values = export_fit(fit, 0.8)
    optima = fit._evidence.optima(1e23)
    run = optima.loss * np.exp(np.array(values["surfaces"]["run"]))
    span = np.quantile(run, [0.1, 0.9])
    np.testing.assert_allclose(span, fit.predict(1e23, 0.8).intervals["run_loss"], rtol=1e-8)


def test_other_laws_are_a_table() -> None:
    """Kaplan's law, for one, is linear around its fit, and no page evaluates it."""
    fit = flops_fit.fit_runs(reference.runs("marin2026_dclm"), law="kaplan")
    values = export_fit(fit)
    assert values["form"] == "table"
    C = 3 * fit.largest_compute
    for name in ("optimal_params_low", "run_loss_high"):
        logs = np.array(values["columns"][name], float)
        read = np.exp(cubic(np.array([np.log(C)]), np.array(values["log_compute"]), logs))[0]
        quantity, end = name.rsplit("_", 1)
        expected = fit.predict(C).intervals[quantity][end == "high"]
        assert read == pytest.approx(expected, rel=max(2 * values["error"], 1e-3))


def test_f_is_sampled_where_it_is_a_function_alone() -> None:
    fit = flops_fit.fit_runs(
        reference.runs("marin2026_dclm"), flops_per_unit=lambda N: 6 * N + 1e5 * N**0.6
    )
    values = export_fit(fit)["flops"]
    N = np.geomspace(fit.runs.params.min(), fit.runs.params.max() * 100, 40)
    ratio = np.interp(np.log(N), values["log_size"], values["log_ratio"])
    np.testing.assert_allclose(N * np.exp(ratio), fit.flops(N), rtol=1e-5)


def test_cubics_are_exact_for_cubics_to_both_ends() -> None:
    grid = np.linspace(-2.0, 3.0, 11)
    x = np.linspace(-2.0, 3.0, 57)
    polynomial = np.polynomial.Polynomial([1.0, -2.0, 0.5, 0.3])
    np.testing.assert_allclose(cubic(x, grid, polynomial(grid)), polynomial(x), atol=1e-12)
