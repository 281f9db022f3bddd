"""What the packaged runs of Marin and of Porian et al. are known to say."""

from __future__ import annotations

import numpy as np
import pytest

from flops_fit import reference
from flops_fit.fit import fit_runs

# From Kaplan's set-up to a tuned one, a correction a step.
STEPS = (
    {"param_count": "kaplan"},
    {"param_count": "standard", "warmup": "long"},
    {"warmup": "short", "decay": "kaplan"},
    {"decay": "chinchilla"},
    {"hparams": "tuned"},
)


def test_marin_exponents():
    """Approach 2 gives a/b = .424/.552, the additive law .395, the κ-law .38 with κ = .44."""
    runs = reference.runs("marin2026_dclm")
    fit = fit_runs(runs, "hoffmann", delta=np.inf, window=None)
    assert fit.isoflop.n_line.a == pytest.approx(0.424, abs=1e-3)
    assert fit.isoflop.d_line.a == pytest.approx(0.552, abs=1e-3)
    assert fit.exponents[0] == pytest.approx(0.395, abs=1e-3)
    kappa = fit_runs(runs, "kappa", window=None)
    assert kappa.exponents[0] == pytest.approx(0.376, abs=0.01)
    assert kappa.law.params["kappa"] == pytest.approx(0.44, abs=0.02)


def test_the_exponent_falls_as_kaplans_set_up_is_corrected():
    """Porian et al. 2024: a from .835 to .497 in five steps; parabolas see the same descent."""
    exponents = [
        fit_runs(reference.runs("porian2024_refinedweb", **step)).isoflop.n_line.a for step in STEPS
    ]
    assert np.all(np.diff(exponents) < 0)
    assert exponents == pytest.approx([0.835, 0.707, 0.602, 0.571, 0.497], abs=0.03)
