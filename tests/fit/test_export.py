"""A fit as plain numbers answers as the fit does."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import flops_fit
from flops_fit import reference
from flops_fit.fit import export_fit
from flops_fit.fit.export import cubic, kappa_form
from flops_fit.laws import Hoffmann, Kaplan, Kappa, Law, Muennighoff

LAWS = [
    Hoffmann(1.7, 400.0, 410.0, 0.34, 0.28),
    Kappa(1.6, 2e4, 1.6e4, 0.53, 0.44, 0.56),
    Kaplan(6.4e13, 1.8e13, 0.076, 0.103),
    Muennighoff(1.87, 521.0, 1488.0, 0.353, 0.353, 15.4, 5.3),
]


@dataclass(frozen=True)
class Doubled(Hoffmann):
    """Hoffmann's fields and another loss."""

    def loss(self, N: Any, D: Any) -> Any:
        return 2 * super().loss(N, D)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.name)
def test_laws_have_one_form(law: Law) -> None:
    E, log_a, log_b, alpha, beta, kappa = kappa_form(law) or []
    N, D = np.meshgrid(np.geomspace(1e6, 1e12, 7), np.geomspace(1e8, 1e14, 7))
    inside = np.exp(log_a) / N**alpha + np.exp(log_b) / D**beta
    np.testing.assert_allclose(E + inside**kappa, law.loss(N, D), rtol=1e-9)


def test_what_changes_the_loss_has_no_form() -> None:
    assert kappa_form(Doubled(1.7, 400.0, 410.0, 0.34, 0.28)) is None
    assert kappa_form(LAWS[3].with_unique(1e9)) is None  # type: ignore[attr-defined]


def test_the_values_are_json_and_give_the_interval() -> None:
    """The delta method from the shipped laws, as a reader without Python would do it."""
    fit = flops_fit.fit_runs(reference.runs("llama3_2024"))
    values = json.loads(json.dumps(export_fit(fit, 0.8), allow_nan=False))
    C = 1e23

    def log_size(law: list[float]) -> float:
        return float(
            np.log(Kappa(law[0], *np.exp(law[1:3]), *law[3:]).optimal(C, fit.flops).params)
        )

    spans = []
    for part in values["evidence"]["parts"]:
        pairs = zip(part["up"], part["down"], part["steps"], strict=True)
        gradient = np.array([(log_size(u) - log_size(d)) / (2 * h) for u, d, h in pairs])
        half = part["t"] * np.sqrt(gradient @ np.array(part["covariance"]) @ gradient)
        spans.append(np.exp(log_size(part["law"]) + np.array([-half, half])))
    hull = (min(s[0] for s in spans), max(s[1] for s in spans))
    np.testing.assert_allclose(hull, fit.predict(C, 0.8).intervals["optimal_params"], rtol=1e-9)


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
