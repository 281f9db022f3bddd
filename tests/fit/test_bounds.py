"""What a fit says where the runs do not determine a parameter."""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Any

import numpy as np
import pytest

from flops_fit.fit import Fit, fit_runs
from flops_fit.fit.solver import Bound, BoundKind
from flops_fit.laws import Hoffmann, Law
from tests.fit._runs import sweep

FIELDS = ("E", "A", "B", "alpha", "beta")
TRUTH = Hoffmann(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.37)


def with_idle_parameter(name: str) -> type[Law]:
    """The additive law with one more parameter that changes no loss."""

    def loss(self: Any, N: Any, D: Any) -> Any:
        return Hoffmann(*(getattr(self, f) for f in FIELDS)).loss(N, D)

    def starts(cls: Any, N: Any, D: Any, loss: Any) -> list[dict[str, float]]:
        return [dict(zip(FIELDS, (1.5, 300.0, 800.0, 0.3, 0.35), strict=True)) | {name: 1.0}]

    namespace = {
        "name": "idle",
        "formula": "L = E + A/N^α + B/D^β",
        "loss": loss,
        "starts": classmethod(starts),
    }
    fields = [(field, float) for field in (*FIELDS, name)]
    return make_dataclass("Idle", fields, bases=(Law,), namespace=namespace, frozen=True)


def verdict(fit: Fit) -> tuple[Any, ...]:
    """Trust, severities, headline and intervals: all that a reader goes by."""
    answers = [a.name for a in fit.approaches if a.headline]
    severities = [(d.code, d.severity) for d in fit.diagnostics]
    return fit.trust, severities, answers, fit.predict(1e22).intervals


@pytest.mark.parametrize("name", ["kappa_x", "kappa", "E_0", "A_vanishes"])
def test_the_name_of_an_undetermined_parameter_changes_nothing(name):
    """Trust, headline and intervals follow what the runs determine, not how it is called."""
    runs = sweep(TRUTH, sd=0.004)
    plain = fit_runs(runs, with_idle_parameter("gamma"), window=None)
    renamed = fit_runs(runs, with_idle_parameter(name), window=None)
    assert plain.trust == "no"
    assert verdict(renamed) == verdict(plain)


def test_an_idle_parameter_is_named_with_its_kind():
    fit = fit_runs(sweep(TRUTH, sd=0.004), with_idle_parameter("gamma"), window=None)
    assert any("gamma without effect" in d.message for d in fit.diagnostics)


@pytest.mark.parametrize(
    ("bound", "leaves"),
    [
        (Bound("E", BoundKind.FLOOR), True),
        (Bound("kappa", BoundKind.UPPER), True),
        (Bound("kappa", BoundKind.NO_EFFECT), False),
        (Bound("alpha", BoundKind.LOWER), False),
        (Bound("A", BoundKind.VANISHED), False),
    ],
)
def test_which_bounds_leave_an_optimum(bound, leaves):
    assert bound.leaves_optimum is leaves


def test_an_offset_at_zero_keeps_the_surface_as_headline():
    """E at its floor shifts no optimum: the surface answers, with a warning."""
    law = Hoffmann(E=0.0, A=400.0, B=1500.0, alpha=0.34, beta=0.37)
    fit = fit_runs(sweep(law, sd=0.01, seed=3), "hoffmann", window=None)
    hit = next(d for d in fit.diagnostics if d.code == "bound_hit")
    assert hit.severity == "warning"
    assert "E at its floor, zero" in hit.message
    assert np.isfinite(fit.predict(1e21).intervals["optimal_params"]).all()
